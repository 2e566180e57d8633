"""Ctrl-C in the middle of an extraction, as a user presses it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cache import FeatureStore

ROOT = Path(__file__).resolve().parent.parent.parent

SLOWLY = """
import runpy, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts the tests may have it ignored
import extract.engine, extract.runtime
from extract.batching import Budget
from extract.encoders.text import TextEncoder

inner = TextEncoder.encode

def slow(self, batch):
    time.sleep(0.05)
    return inner(self, batch)

TextEncoder.encode = slow
extract.engine.SAVE_EVERY = 0.0
extract.runtime.CPU_TEXT = Budget(cost=128, items=8)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def stored(store: Path) -> int:
    return sum(len(one.items()) for one in FeatureStore(store).encoders()) if store.is_dir() else 0


@pytest.mark.slow
def test_a_run_that_is_interrupted_says_so_in_one_line_and_goes_on(
    tmp_path: Path, bert: Path, run: Callable[..., object]
):
    texts = [
        f"{number},the {'sun ' * (number % 9)}{'rain ' * (number // 9 % 9)}{'love ' * (number // 81)},yes"
        for number in range(324)
    ]
    (tmp_path / "posts").mkdir()
    (tmp_path / "posts" / "rows.csv").write_text("\n".join(["id,text,label", *texts]) + "\n", encoding="utf-8")
    args = ["extract", "posts", "--text-model", str(bert), "--store", "features", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, str(ROOT / "pipeline.py"), *args],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while stored(tmp_path / "features") < 20 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    pressed = time.monotonic()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 1, err
    assert time.monotonic() - pressed < 5
    assert out == ""
    said = [line for line in err.replace("\r", "\n").splitlines() if line.strip() and "it/s" not in line]
    assert [line for line in said if "%|" not in line] == [
        "stopped; what was done is kept, the same command goes on from there"
    ], err
    kept = stored(tmp_path / "features")
    assert 20 <= kept < 324
    done = run(*args)
    assert (done.code, done.json["encoded"], done.json["reused"]) == (0, 324 - kept, kept), done.err
    assert stored(tmp_path / "features") == 324
