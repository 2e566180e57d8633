"""What every result is committed with: the machine, the versions and the date."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PIPELINE = Path(__file__).resolve().parent.parent / "pipeline.py"
Target = tuple[str, str, str, bool]
"""What was measured, what was asked for, what was found, and whether that is met."""


def machine(*more: str) -> dict[str, Any]:
    """This machine, with the versions of the usual packages and of `more`."""
    packages = ("torch", "torchvision", "transformers", "scikit-learn", "numpy", "h5py", *more)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # not every script needs all of them
        return "not installed"


def _processor() -> str:
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def target_lines(targets: Sequence[Target]) -> list[str]:
    """The targets as a Markdown table."""
    lines = ["| what | target | found | met |", "|---|---|---|---|"]
    return lines + [
        f"| {what} | {goal} | {value} | {'yes' if met else '**no**'} |" for what, goal, value, met in targets
    ]


def write_result(name: str, title: str, result: dict[str, Any], lines: Sequence[str], script: str = "") -> str:
    """Writes `results/NAME.json` and `results/NAME.md`; returns the latter's text. `script` is NAME if not given."""
    about = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    text = "\n".join([f"# {title}", "", f"Measured by `benchmarks/{script or name}.py`: {about}.", "", *lines]) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    (RESULTS / f"{name}.md").write_text(text)
    return text
