"""What each modality holds, in numbers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from cache import FAILED, MISSING, NO_ITEM, PRESENT
from extract.check.measure import spread
from extract.check.texts import lengths
from extract.encoders.spec import TABULAR

if TYPE_CHECKING:
    from extract.check.run import Part

TINY = 64
"""Pixels of the shorter side, below which a picture is called tiny: encoders enlarge it to 224 or so."""
LONG = 3.0
"""Sides in this ratio or more: the centre square that encoders see is a third of the picture or less."""


def describe_modality(part: Part, counts: Any) -> dict[str, Any]:
    """Counts of rows by state, of distinct contents, and what was measured, over the rows that have it."""
    state = part.contents.state
    items = [item for item in part.items if item != NO_ITEM]
    found: dict[str, Any] = {
        "kind": part.kind,
        "present": int((state == PRESENT).sum()),
        "missing": int((state == MISSING).sum()),
        "failed": int((state == FAILED).sum()),
        "distinct": len(set(items)),
    }
    if not items:
        return found
    facts = part.facts[[part.rows[item] for item in items]]
    if part.kind == "text":
        return found | lengths(facts, counts)
    if part.kind == "image":
        return found | _pictures(facts)
    if part.kind == TABULAR:
        return found | {"columns": part.columns}
    widths = Counter(facts["width"].tolist())
    if not facts["seconds"].any():
        return found | {
            "lengths": spread(facts["rows"]),
            "widths": {str(width): n for width, n in widths.most_common(20)},
        }
    return found | {"seconds": spread(facts["seconds"]), "bytes": spread(facts["bytes"])}


def _pictures(facts: np.ndarray) -> dict[str, Any]:
    short, long = np.minimum(facts["width"], facts["height"]), np.maximum(facts["width"], facts["height"])
    return {
        "width": spread(facts["width"]),
        "height": spread(facts["height"]),
        "bytes": spread(facts["bytes"]),
        "formats": dict(Counter(facts["format"].tolist()).most_common()),
        "modes": dict(Counter(facts["mode"].tolist()).most_common()),
        "rotated": int(facts["rotated"].sum()),
        "animated": int(facts["animated"].sum()),
        "one_colour": int(facts["one_colour"].sum()),
        "tiny": int((short < TINY).sum()),
        "long": int((long >= LONG * short).sum()),
    }
