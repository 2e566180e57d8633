"""Short loops of `benchmarks/fuzz.py`: damaged and hostile input, each case in a watched process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import ROOT


def fuzz(**options: int) -> dict[str, Any]:
    """What the loop found; other cases than those of the first numbers are for `make fuzz`."""
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, str(ROOT / "benchmarks" / "fuzz.py"), *given, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_damaged_pictures_and_tables_are_read_right_or_refused() -> None:
    found = fuzz(images=240, tables=240, stores=0, runs=0)
    assert found["pictures, decoded"]["outcomes"].keys() == {"decoded", "refused"}
    assert found["pictures, decoded"]["inputs"] == 240
    tables = [one for name, one in found.items() if name not in ("targets", "pictures, decoded")]
    assert sum(one["inputs"] for one in tables) >= 240
    assert all({"read", "refused"} <= one["outcomes"].keys() for one in tables)


@pytest.mark.slow
def test_rows_stay_aligned_and_damaged_stores_and_runs_are_noticed_or_right() -> None:
    found = fuzz(images=250, tables=500, stores=12, runs=24)
    assert found["pictures, extracted"]["outcomes"]["rows"] == 250
    assert 0 < found["pictures, extracted"]["outcomes"]["failed"] < 250
    assert found["damaged stores"]["inputs"] == 12
    assert found["damaged runs"]["outcomes"].keys() == {"labelled", "refused"}


def test_the_watch_finds_what_raises_crashes_hangs_and_takes_too_much_memory() -> None:
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import json, os, time
from benchmarks.fuzzing.watch import watched
def work(case):
    if case == 1: raise KeyError("traceback")
    if case == 2: os.abort()
    if case == 3: time.sleep(60)
    if case == 4: bytearray(2**30)
    return {{"outcome": "good"}}
print(json.dumps(watched(work, range(6), 2, 1.0, 500)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    assert [one["case"] for one in found] == list(range(6))
    said = [one.get("finding", one.get("outcome")) for one in found]
    assert (said[0], said[5]) == ("good", "good")
    for number, part in enumerate(
        ("KeyError: 'traceback'", "died with status", "no answer within 1 s", "MemoryError"), 1
    ):
        assert part in said[number]
