"""Memory that the process which drives an extraction in shards takes for what it knows of all rows.

    python benchmarks/driver.py                        2 million rows, results/driver.*
    python benchmarks/driver.py --rows 200000          a quick try, which writes no result

Item keys are drawn, so that no data is read and nothing is encoded: rows are joined, their ids checked, what the store
lacks is planned (a fifth is stored, a tenth stands twice), groups are made and places looked up. What is counted are
the bytes that Python and numpy hold at most (tracemalloc), which takes time; seconds are of a run without it.
"""

from __future__ import annotations

import functools
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import numpy as np

from benchmarks.machine import machine, write_result
from cache import FeatureStore, KeyIndex, Part
from extract.datasets.shards import Held
from extract.keyed import Keyed
from extract.manifest import Manifest
from extract.rows import Demand, Rows

ROWS, SHARDS = 2_000_000, 40
UNREAD = Held(Manifest(Path("posts"), "table", (), {}, ()))


def drawn(rows: int, modalities: list[str]) -> list[Keyed]:
    """What the shards of a data set would tell: different ids, no groups, all contents present."""
    rng, n = np.random.default_rng(0), rows // SHARDS

    def keys() -> np.ndarray:
        return rng.integers(0, 256, (n, 16), dtype=np.uint8)

    def contents() -> np.ndarray:
        found = keys()
        found[: n // 10] = found[n // 10 : 2 * (n // 10)]
        return found

    return [
        Keyed(
            number,
            UNREAD.manifest,
            Part(f"{number}", n, ""),
            keys(),
            np.zeros((n, 16), np.uint8),
            {name: contents() for name in modalities},
            {name: np.zeros(n, np.uint8) for name in modalities},
            modalities=tuple(modalities),
        )
        for number in range(SHARDS)
    ]


def plan(rows: int, modalities: list[str]) -> int:
    """All that the driver does with the rows; how many items are to be encoded."""
    known = Rows(FeatureStore("nowhere"), "posts", drawn(rows, modalities))
    stored = {name: known.items[name][::5] for name in modalities}
    demands = [Demand(known, [name], stored[name], {}, [UNREAD] * SHARDS) for name in modalities]
    missing = sum(one.missing for one in demands)
    demands.clear()
    known.groups([[name] for name in modalities])
    places = [KeyIndex(known.items[name]).find(known.items[name]) for name in modalities]
    assert all((one >= 0).all() for one in places)
    return missing


def measured(do: Callable[[], int]) -> tuple[int, float, int]:
    """Most bytes, seconds, and what `do` gives."""
    started = time.perf_counter()
    found = do()
    seconds = time.perf_counter() - started
    tracemalloc.start()
    do()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most, seconds, found


@click.command()
@click.option("--rows", default=ROWS, show_default=True)
def main(rows: int) -> None:
    """Plans data sets of one, two and three modalities, and writes what it took."""
    runs: list[dict[str, Any]] = []
    for count in (1, 2, 3):
        most, seconds, missing = measured(functools.partial(plan, rows, [f"image_{n}" for n in range(count)]))
        runs.append({"modalities": count, "bytes_a_row": most / rows, "seconds": seconds, "missing": missing})
    lines = [
        f"{rows} rows in {SHARDS} shards; a tenth of the contents stands twice, a fifth is stored.",
        "",
        "| modalities | bytes a row | a row and modality | seconds |",
        "|---|---|---|---|",
        *(
            f"| {one['modalities']} | {one['bytes_a_row']:.0f} | {one['bytes_a_row'] / one['modalities']:.0f} | "
            f"{one['seconds']:.1f} |"
            for one in runs
        ),
    ]
    if rows == ROWS:
        write_result("driver", "Memory of the driver", {"machine": machine(), "rows": rows, "runs": runs}, lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
