"""A run that was stopped, damaged or run twice at once gives the bits of a run that was not."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cache import EncoderStore, FeatureStore, StoreError, collect, load, read_view
from extract.batching import Budget
from extract.decode import DecodeError
from extract.encoders.image import ImageEncoder
from extract.encoders.text import TextEncoder

KINDS = {"text": TextEncoder, "image": ImageEncoder}
OUTPUTS = {"text": "mean", "image": "pool"}
ROOT = Path(__file__).resolve().parent.parent.parent
Encoded = list[tuple[str, int]]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.runtime.CPU_TEXT", Budget(cost=16, items=3))
    monkeypatch.setattr("extract.runtime.CPU_IMAGE", Budget(cost=3, items=3))


@pytest.fixture(autouse=True)
def a_corrupt_picture(posts) -> None:
    path = posts.folder / "5.png"
    path.write_bytes(path.read_bytes()[:-40])


@pytest.fixture
def clean(posts, bench, tmp_path: Path) -> Callable[..., np.ndarray]:
    """Vectors of an uninterrupted run over the posts as they are now, in a store of its own."""

    def vectors(modality: str) -> np.ndarray:
        kept, bench.store = bench.store, tmp_path / "clean"
        try:
            return bench.vectors(bench.extract(posts.read(), getattr(bench, modality)), modality)
        finally:
            bench.store = kept

    return vectors


def stop(posts, bench, modality: str, batches: int, **options: object) -> None:
    """Extracts until the encoder is given its next batch after so many."""
    inner, calls = KINDS[modality].encode, itertools.count()

    def stopped(self, batch):
        if next(calls) == batches:
            raise KeyboardInterrupt
        return inner(self, batch)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(KINDS[modality], "encode", stopped)
        with pytest.raises(KeyboardInterrupt):
            bench.extract(posts.read(), getattr(bench, modality), **options)


def only_store(bench) -> EncoderStore:
    (store,) = FeatureStore(bench.store).encoders()
    return store


def flip(store: EncoderStore, number: int, output: str) -> int:
    """Flips a byte of a vector and returns how many items its segment holds."""
    segment = store.segments()[number]
    raw = bytearray(segment.path.read_bytes())
    raw[segment.outputs[output].offset + 5] ^= 1
    segment.path.write_bytes(raw)
    return len(segment)


def same(one: np.ndarray, two: np.ndarray) -> bool:
    return np.array_equal(one, two, equal_nan=True)


@pytest.mark.parametrize(
    ("modality", "batches"), [*itertools.product(["text"], [0, 1, 3, 4]), ("image", 1), ("image", 2)]
)
def test_a_stopped_run_goes_on_to_the_same_bits(posts, bench, clean, modality: str, batches: int):
    expected, sound = clean(modality), 9 if modality == "image" else 10
    stop(posts, bench, modality, batches)
    stored = only_store(bench).items()
    assert len(only_store(bench).segments()) == batches
    done = bench.extract(posts.read(), getattr(bench, modality))
    assert same(bench.vectors(done, modality), expected)
    assert (done.encoded, done.reused) == (sound - len(stored), len(stored))
    assert done.failed_ids == (["p5"] if modality == "image" else [])


def test_a_run_that_is_stopped_again_and_again_gives_the_same_bits(posts, bench, clean):
    expected = clean("text")
    for _ in range(3):
        stop(posts, bench, "text", 1)
    assert len(only_store(bench).segments()) == 3
    assert same(bench.vectors(bench.extract(posts.read(), bench.text), "text"), expected)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_damaged_vector_heals_to_the_same_bits(posts, bench, clean, modality: str):
    expected = clean(modality)
    bench.extract(posts.read(), getattr(bench, modality))
    damaged = flip(only_store(bench), 0, OUTPUTS[modality])
    done = bench.extract(posts.read(), getattr(bench, modality))
    assert same(bench.vectors(done, modality), expected)
    assert done.encoded == damaged
    assert any("was damaged and set aside" in warning for warning in done.warnings)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_one_damaged_segment_of_a_stopped_run_heals_to_the_same_bits(
    posts, bench, clean, monkeypatch: pytest.MonkeyPatch, modality: str
):
    inner, batches = KINDS[modality].encode, []
    seen = lambda self, batch: (batches.append([one.tobytes() for one in batch]), inner(self, batch))[1]  # noqa: E731
    monkeypatch.setattr(KINDS[modality], "encode", seen)
    expected = clean(modality)
    planned = list(batches)
    stop(posts, bench, modality, 3)
    stored = len(only_store(bench).items())
    damaged = flip(only_store(bench), 1, OUTPUTS[modality])
    batches.clear()
    done = bench.extract(posts.read(), getattr(bench, modality))
    assert same(bench.vectors(done, modality), expected)
    assert sorted(batches) == sorted([planned[1], *planned[3:]])  # rounding may depend on who is beside whom
    assert done.reused == stored - damaged
    assert done.encoded == len(only_store(bench).items()) - done.reused


def test_planned_batches_that_fit_no_more_are_planned_anew(
    posts, bench, clean, monkeypatch: pytest.MonkeyPatch, encoded: Encoded
):
    expected = clean("text")
    stop(posts, bench, "text", 1)
    stored = len(only_store(bench).items())
    monkeypatch.setattr("extract.runtime.CPU_TEXT", Budget(cost=14, items=2))
    encoded.clear()
    done = bench.extract(posts.read(), bench.text)
    assert max(size for _, size in encoded) <= 2
    assert sum(size for _, size in encoded) == done.encoded == 10 - stored
    np.testing.assert_allclose(bench.vectors(done, "text"), expected, atol=1e-5, rtol=0)


def test_batches_keep_to_the_plan_under_a_larger_budget(
    posts, bench, clean, monkeypatch: pytest.MonkeyPatch, encoded: Encoded
):
    expected = clean("text")
    stop(posts, bench, "text", 1)
    monkeypatch.setattr("extract.runtime.CPU_TEXT", Budget(cost=1024, items=256))
    encoded.clear()
    assert same(bench.vectors(bench.extract(posts.read(), bench.text), "text"), expected)
    assert max(size for _, size in encoded) <= 3


def test_added_samples_alone_are_encoded(posts, bench, clean, encoded: Encoded):
    before = clean("text")
    bench.extract(posts.read(), bench.text)
    for number in (10, 11):
        posts.rows.append(
            {"id": f"p{number}", "text": f"sun {'rain ' * number}", "image": "", "label": "", "group": ""}
        )
    encoded.clear()
    done = bench.extract(posts.read(), bench.text)
    assert (done.encoded, done.reused, sum(size for _, size in encoded)) == (2, 10, 2)
    assert same(bench.vectors(done, "text")[:10], before)


def test_a_run_that_grew_after_a_stop_keeps_the_batches_of_before(posts, bench, monkeypatch: pytest.MonkeyPatch):
    inner, batches = TextEncoder.encode, []

    def seen(self, batch):
        batches.append(tuple(one.tobytes() for one in batch))
        return inner(self, batch)

    monkeypatch.setattr(TextEncoder, "encode", seen)
    kept, bench.store = bench.store, bench.store.with_name("whole")
    bench.extract(posts.read(), bench.text)
    planned, batches[:] = set(batches), []
    bench.store = kept
    stop(posts, bench, "text", 2)
    for number in range(1, 5):  # their lengths lie between those of the others
        posts.rows.append({"id": f"n{number}", "text": "sun " * number, "image": "", "label": "", "group": ""})
    done = bench.extract(posts.read(), bench.text)
    assert planned < set(batches)
    assert sum(len(batch) for batch in set(batches) - planned) == 4
    assert done.encoded + done.reused == 14


def test_samples_removed_after_a_stop_are_not_encoded(posts, bench, clean):
    expected = clean("text")
    stop(posts, bench, "text", 2)
    stored = set(only_store(bench).items())
    del posts.rows[7:9], posts.rows[0]
    done = bench.extract(posts.read(), bench.text)
    assert done.view.ids.tolist() == ["p1", "p2", "p3", "p4", "p5", "p6", "p9"]
    wanted = {row.tobytes() for row in done.view.blocks["text"].items}
    assert (done.encoded, done.reused) == (len(wanted - stored), len(wanted & stored))
    np.testing.assert_allclose(bench.vectors(done, "text"), expected[[1, 2, 3, 4, 5, 6, 9]], atol=1e-5, rtol=0)


def test_what_a_run_wants_is_written_down_until_it_is_done(posts, bench, monkeypatch: pytest.MonkeyPatch):
    store, seen = FeatureStore(bench.store), []
    stop(posts, bench, "text", 1)
    assert (store.pending(), store.names()) == (["posts"], [])
    assert (bench.store / "posts.pending.h5").exists()
    assert read_view(store, "posts", pending=True).ids.tolist() == [row["id"] for row in posts.rows]
    inner = TextEncoder.encode
    monkeypatch.setattr(
        TextEncoder, "encode", lambda self, batch: (seen.append(store.pending()), inner(self, batch))[1]
    )
    bench.extract(posts.read(), bench.text)
    assert seen
    assert all(names == ["posts"] for names in seen)
    assert (store.pending(), store.names()) == ([], ["posts"])


@pytest.mark.parametrize("modality", ["text", "image"])
def test_nothing_that_was_encoded_before_a_stop_is_collected(posts, bench, clean, modality: str):
    expected = clean(modality)
    stop(posts, bench, modality, 2)
    stored, planned = only_store(bench).items(), sorted(bench.store.glob("*/*.plan"))
    result = collect(FeatureStore(bench.store))
    assert (result["items"], result["files"], only_store(bench).items()) == (0, [], stored)
    assert sorted(bench.store.glob("*/*.plan")) == planned != []
    assert same(bench.vectors(bench.extract(posts.read(), getattr(bench, modality)), modality), expected)


def test_nothing_that_a_stopped_retry_encoded_is_collected(posts, bench, monkeypatch: pytest.MonkeyPatch):
    def refuse(raw: bytes, draft: int | None = None) -> None:
        raise DecodeError("this decoder is too old")

    monkeypatch.setattr("extract.runtime.CPU_IMAGE", Budget(cost=1, items=1))
    with monkeypatch.context() as patched:
        patched.setattr("extract.encoders.picture.decoding", refuse)
        assert len(bench.extract(posts.read(), bench.image).failed_ids) == 10
    stop(posts, bench, "image", 3, retry_failed=True)
    stored = only_store(bench).items()
    assert stored
    assert collect(FeatureStore(bench.store))["items"] == 0
    assert only_store(bench).items() == stored


def test_a_store_that_vanishes_is_an_error_that_says_so(posts, bench, monkeypatch: pytest.MonkeyPatch):
    inner, calls = TextEncoder.encode, itertools.count()

    def vanishing(self, batch):
        if next(calls) == 1:
            only_store(bench).folder.rename(bench.store.parent / "gone")  # at once; a batch may be on its way to it
        return inner(self, batch)

    monkeypatch.setattr(TextEncoder, "encode", vanishing)
    with pytest.raises(StoreError, match="cannot write"):
        bench.extract(posts.read(), bench.text)


TWO_AT_ONCE = """
import contextlib, json, sys, time, types
from pathlib import Path
import numpy as np
from cache import KEY_SCHEMA, EncoderKey
from extract import EncoderSpec, Settings, extract, read_manifest
from extract.batching import Budget
import extract.chosen, extract.engine

folder, mine, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

class Slow:
    key = EncoderKey({"schema": KEY_SCHEMA, "modality": "text", "outputs": {"mean": 2}, "dtype": "float32"})
    files, truncated = (), 0
    def __init__(self, *_): pass
    def prepare(self, contents): return list(contents), [len(one) for one in contents]
    def decode(self, light): return np.array([light])
    def encode(self, batch):
        (folder / mine).touch()
        deadline = time.monotonic() + 30
        while not (folder / other).exists() and time.monotonic() < deadline: time.sleep(0.002)
        time.sleep(0.02)
        return {"mean": np.array([[len(str(one[0])), int(str(one[0]).split()[-1])] for one in batch], dtype=np.float32)}

here = types.SimpleNamespace(
    name="CPU", budget=lambda _: Budget(cost=10**6, items=4), record=dict,
    replicas=1, decoders=0, replica=contextlib.nullcontext, has_bf16=False,
)
# Without torch: it loads slowly.
sys.modules["extract.runtime"] = types.SimpleNamespace(choose_runtimes=lambda *_: [here])
extract.engine.SAVE_EVERY = 0.0
extract.chosen.build_encoder = Slow
spec = EncoderSpec("text", "slow")
done = extract.extract(read_manifest(folder / "data"), Settings(folder / "store", "data", (spec,)))
print(json.dumps([done.encoded, done.reused]))
"""


def test_two_runs_at_once_share_the_work(tmp_path: Path):
    texts = [f"{'word ' * (number % 7)}{number}" for number in range(120)]
    (tmp_path / "data").mkdir()
    rows = [f"{number},{text},yes" for number, text in enumerate(texts)]
    (tmp_path / "data" / "rows.csv").write_text("\n".join(["id,text,label", *rows]) + "\n", encoding="utf-8")
    running = []
    for mine, other in (("one", "two"), ("two", "one")):
        command = [sys.executable, "-c", TWO_AT_ONCE, str(tmp_path), mine, other]
        running.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        while not (tmp_path / mine).exists() and running[-1].poll() is None:  # the first has planned, and waits
            time.sleep(0.01)
    ended = [(process.communicate(timeout=60), process.returncode) for process in running]
    assert [code for _, code in ended] == [0, 0], ended
    counts = [json.loads(out) for (out, _), _ in ended]
    assert all(sum(count) == 120 for count in counts), counts
    assert 120 <= sum(encoded for encoded, _ in counts) < 200, counts
    table = load(tmp_path / "store", "data", check=True)
    assert table.ids.tolist() == [str(number) for number in range(120)]
    assert table.to_numpy().tolist() == [[len(text), number] for number, text in enumerate(texts)]
