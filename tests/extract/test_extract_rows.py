"""What is known of all rows at once: what is asked of an encoder, and how many bytes it takes."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from cache import NO_ITEM, FeatureStore, Part, item_key, pack_items, plan_extraction
from extract.datasets.shards import Held
from extract.engine import Broken
from extract.keyed import Keyed
from extract.manifest import Manifest
from extract.rows import Demand, Rows

BOTH = ("image", "image_2")
MOST = 1.25 * (88 + 17 * len(BOTH))
"""Bytes a row; docs/scale.md has the formula, of which a quarter is for groups."""
UNREAD = Held(Manifest(Path("posts"), "table", (), {}, BOTH))


def keyed(number: int, start: int, **items: np.ndarray) -> Keyed:
    """A shard whose ids are numbers from `start` on, of which the third and the sixth, and so on, are of one group."""
    n = len(next(iter(items.values())))
    numbers = range(start, start + n)
    groups = [item_key(str(one // 6)) if one % 3 == 0 else NO_ITEM for one in numbers]
    return Keyed(
        number,
        Manifest(Path("posts"), "table", (), {}, tuple(items)),
        Part(f"{number}", n, ""),
        pack_items(item_key(str(one)) for one in numbers),
        pack_items(groups),
        items,
        {name: np.zeros(n, dtype=np.uint8) for name in items},
        modalities=tuple(items),
    )


def test_what_is_asked_of_an_encoder_is_the_plan_of_small_data(tmp_path: Path):
    rng, contents = np.random.default_rng(0), [NO_ITEM, *map(item_key, map(str, range(40)))]
    drawn = [{name: [contents[one] for one in rng.integers(0, 41, 9)] for name in BOTH} for _ in range(5)]
    parts = [keyed(n, 9 * n, **{name: pack_items(own) for name, own in one.items()}) for n, one in enumerate(drawn)]
    stored, broken = contents[1:12], {item: Broken("no picture") for item in contents[8:20]}
    rows = Rows(FeatureStore(tmp_path), "posts", parts)
    demand = Demand(rows, BOTH, pack_items(stored), broken, [UNREAD] * 5)
    everything = [item for one in drawn for row in zip(*one.values(), strict=True) for item in row if item != NO_ITEM]
    plan = plan_extraction(everything, stored, broken)
    assert (demand.items, demand.reused, demand.missing) == (len(set(everything)), plan.reused, len(plan.missing))
    assert set(demand.failed) == set(plan.refused)
    assert sorted(key.tobytes() for job in demand.jobs for key in job.missing) == list(plan.missing)
    first = {item: n for n, one in reversed(list(enumerate(drawn))) for own in one.values() for item in own}
    assert all(first[key.tobytes()] == job.number for job in demand.jobs for key in (*job.missing, *job.refused))
    asked = [item for item in contents[5:30] if item in everything and item not in plan.refused]
    assert demand.mended(contents[5:30]) == asked


def test_the_driver_keeps_few_bytes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cache.find.AT_ONCE", 4096)
    n, rng = 21_000, np.random.default_rng(0)
    tracemalloc.start()
    try:
        parts = [keyed(k, k * n, **{name: _random(rng, n) for name in BOTH}) for k in range(8)]
        rows = Rows(FeatureStore(tmp_path), "posts", parts)
        del parts
        stored = rows.items["image"][::2]
        demands = [Demand(rows, [name], stored, {}, [UNREAD] * 8) for name in BOTH]
        groups = rows.groups([[name] for name in BOTH])
        planned = sum(one.missing for one in demands)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert planned == 1.5 * len(rows)
    assert groups.max() + 1 == len(rows) - len(rows) // 6
    assert most / len(rows) < MOST


def _random(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(0, 256, (n, 16), dtype=np.uint8)
