"""Writes `docs/heads.md`: all heads from the registry, with the cost that `benchmarks/heads.py` measured.

python benchmarks/heads_page.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import RESULTS
from fuse import heads_page

PAGE = Path(__file__).resolve().parent.parent / "docs" / "heads.md"


def page() -> str:
    """The page as it should be."""
    found = json.loads((RESULTS / "heads_cost.json").read_text())
    about = found["machine"]
    where = f"{about['cores']} cores ({about['processor']}), {about['date']}"
    measured = (
        f"Seconds: one training on {found['rows']} rows of {found['columns']} columns with the defaults, on {where}, "
        "by `benchmarks/heads.py`. Heads that read tokens take longer, by the number of tokens."
    )
    return heads_page(found["seconds"], measured)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
