"""The report of an ablation as one page that needs nothing beside itself; it shows, and computes no result."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuse.report import parts, view
from fuse.report.measures import (
    count_text,
    decimals,
    dicts,
    is_regression,
    listed,
    mapping,
    number,
    plain,
    primary,
    seconds_text,
    short,
    subset_text,
    texts,
)

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).resolve().parent / "templates"
NOT_IN_HTML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""Characters that a page must not hold, or that no file can."""


@dataclass(frozen=True)
class Shown:
    """What the page shows of a sample.

    Args:
        texts: by modality.
        pictures: JPEG files by modality.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)


def page(summary: Mapping[str, Any], samples: Mapping[str, Shown]) -> str:
    """The report as HTML: one file, no network, no other file.

    Args:
        summary: what `summary.json` holds; whatever is None, empty or left out is not spoken of.
        samples: texts and pictures by id, of the samples that the summary names.
    """
    environment = _environment()
    script = _part("script.js")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = environment.get_template("report.html").render(
        **_context(summary, samples), script=script, style=_part("style.css"), script_hash=allowed
    )
    return NOT_IN_HTML.sub("\N{REPLACEMENT CHARACTER}", html)


@cache
def _environment() -> Environment:
    from jinja2 import ChainableUndefined, Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=ChainableUndefined,
        finalize=lambda value: plain(value) if value is None or isinstance(value, float) else value,
    )
    environment.filters |= {
        "count": count_text,
        "decimals": decimals,
        "jpeg": _jpeg,
        "seconds": seconds_text,
        "short": short,
        "subset": subset_text,
    }
    return environment


def _part(name: str) -> str:
    """A template as it stands, to go into the page unescaped."""
    from markupsafe import Markup

    ours = (TEMPLATES / name).read_text(encoding="utf-8")
    return Markup(ours)  # noqa: S704  # nosec B704


def _jpeg(content: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def _context(summary: Mapping[str, Any], samples: Mapping[str, Shown]) -> dict[str, Any]:
    """What the templates say, part by part."""
    data, protocol = mapping(summary.get("data")), mapping(summary.get("protocol"))
    provenance = mapping(summary.get("provenance"))
    return {
        "title": short(data.get("name"), 80) or "data",
        "regression": is_regression(summary),
        "primary": primary(summary),
        "conclusions": texts(summary.get("conclusions")),
        "data": data,
        "classes": _balance(data),
        "present": _present(data),
        "protocol": protocol,
        "seeds": texts(protocol.get("seeds")),
        "split_seeds": texts(protocol.get("split_seeds")),
        "baseline": view.config_text(summary.get("baseline")),
        "unimodal": view.config_text(summary.get("unimodal")),
        "left_out": texts(summary.get("left_out")),
        "main": view.main_table(summary),
        "forests": view.forests(summary),
        "knockouts": parts.knockouts(summary),
        "controls": parts.controls(summary),
        "recalls": parts.recalls(summary),
        "confusions": parts.confusions(summary),
        "reliability": view.panels(summary, "reliability"),
        "learning": view.panels(summary, "learning"),
        "closer": parts.closer(summary, samples),
        "duplicates": parts.duplicates(summary),
        "costs": parts.costs(summary),
        "comparisons": parts.comparisons(summary),
        "by_folds": parts.by_folds(summary),
        "settings": parts.settings(summary),
        "provenance": provenance,
        "facts": _pairs(provenance, ("created", "machine", "data_digest", "store")),
        "encoders": [
            {"modality": str(name), **mapping(one)} for name, one in mapping(provenance.get("encoders")).items()
        ],
        "versions": _pairs(provenance.get("versions")),
        "chosen": _pairs(provenance.get("settings")),
        "rows": len(dicts(summary.get("rows"))),
    }


def _balance(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Classes with their rows, and bars relative to the largest."""
    counts = mapping(data.get("counts"))
    known = [(plain(label), number(counts.get(label))) for label in listed(data.get("classes")) or list(counts)]
    return _bars([(label, count) for label, count in known if count is not None])


def _present(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = mapping(data.get("present"))
    known = [(plain(name), number(found.get(name))) for name in listed(data.get("modalities")) or list(found)]
    return _bars([(name, count) for name, count in known if count is not None], number(data.get("rows")))


def _bars(counts: list[tuple[str, float]], whole: float | None = None) -> list[dict[str, Any]]:
    most = whole or max((count for _, count in counts), default=0)
    return [
        {"name": name, "count": count_text(count), "width": round(min(100.0, 100 * count / most), 1) if most > 0 else 0}
        for name, count in counts
    ]


def _pairs(value: Any, keys: tuple[str, ...] | None = None) -> list[tuple[str, str]]:
    """Names and values that are known, as text."""
    found = mapping(value)
    return [
        (str(key).replace("_", " "), plain(found[key])) for key in (keys or found) if key in found and plain(found[key])
    ]
