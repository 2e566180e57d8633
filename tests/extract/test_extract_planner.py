"""Lanes and windows: side by side, in time, and every item once."""
# ruff: noqa: F811 - fixtures are imported, and named as parameters

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from test_extract_crew import EXPECTED, TEXTS, Rounding, encode, in_time, no_thread_is_left, store  # noqa: F401
from test_extract_engine import Lengths, Threads, stored

from cache import KEY_SCHEMA, EncoderKey, EncoderStore, FeatureStore, FeatureWriter, item_key
from cache.batches import plan_paths, read_batches
from extract.batching import Budget
from extract.clock import Clock
from extract.planner import Lane, Work
from extract.workers import encode_all


class Pictures(Lengths):
    key = EncoderKey({"schema": KEY_SCHEMA, "modality": "image", "outputs": {"pair": 2}, "dtype": "float32"})


def lane(encoder: Lengths, root: Path, texts: Sequence[str], budget: Budget) -> Lane:
    store = FeatureStore(root).encoder(encoder.key.digest)
    store.create(encoder.key)
    by_key = {item_key(text): text for text in texts}
    return Lane(encoder, Work(by_key, sorted(by_key)), store, FeatureWriter(store, ["pair"], {}), budget)


def test_two_lanes_advance_side_by_side_and_both_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("extract.engine.SAVE_EVERY", 60.0)
    texts, order = [f"t{number:03}" for number in range(80)], []
    few = [f"i{number:03}" for number in range(20)]
    lanes = [
        lane(Lengths(), tmp_path, texts, Budget(cost=99, items=2)),
        lane(Pictures(), tmp_path, few, Budget(cost=99, items=1)),
    ]
    told = []
    for one in in_time(lambda: list(encode_all(lanes, Threads(), Clock(), lambda *step: told.append(step)))):
        order.append(one.modality)
    assert len(order) == 60
    assert [segment.path for one in lanes for segment in one.store.segments()] != []
    assert {len(one.store.segments()) for one in lanes} == {1}  # one segment a modality
    for one, wanted in zip(lanes, (texts, few), strict=True):
        assert stored(one.store) == {item_key(text): [4, ord(text[0])] for text in wanted}
    assert (told[-1][1:], {what: done for what, done, _ in told}) in (
        ((80, 80), {"text": 80, "image": 20}),
        ((20, 20), {"text": 80, "image": 20}),
    )


def test_lanes_are_interleaved_in_proportion(tmp_path: Path):
    order: list[str] = []

    class Noting(Lengths):
        def encode(self, batch):
            order.append("text")
            return super().encode(batch)

    class NotingPictures(Pictures):
        def encode(self, batch):
            order.append("image")
            return super().encode(batch)

    lanes = [
        lane(Noting(), tmp_path, [f"t{number:03}" for number in range(80)], Budget(cost=99, items=2)),
        lane(NotingPictures(), tmp_path, [f"i{number:03}" for number in range(20)], Budget(cost=99, items=1)),
    ]
    in_time(lambda: list(encode_all(lanes, Threads(), Clock(), lambda *_: None)))
    assert (order.count("text"), order.count("image")) == (40, 20)
    # Whichever lane was ready first may run ahead by a little, and never by much.
    for at in range(15, 60, 15):
        share = order[:at].count("text") / 40, order[:at].count("image") / 20
        assert abs(share[0] - share[1]) < 0.35, order


def test_a_lane_without_work_does_not_hold_the_other(tmp_path: Path):
    lanes = [
        lane(Lengths(), tmp_path, [], Budget(cost=99, items=2)),
        lane(Pictures(), tmp_path, ["i1", "i2", "i3"], Budget(cost=99, items=2)),
    ]
    found = in_time(lambda: list(encode_all(lanes, Threads(), Clock(), lambda *_: None)))
    assert [(one.modality, len(one.encoded)) for one in found] == [("image", 2), ("image", 1)]


def test_an_error_in_one_lane_ends_both_and_both_keep_what_they_have(tmp_path: Path):
    class Failing(Lengths):
        def encode(self, batch):
            if len(self.batches) == 3:
                raise ValueError("of a kind")
            return super().encode(batch)

    encoders = [Failing(), Pictures()]
    lanes = [
        lane(one, tmp_path, [f"{one.key.modality}{number:03}" for number in range(40)], Budget(cost=400, items=2))
        for one in encoders
    ]
    with pytest.raises(ValueError, match="of a kind"):
        in_time(lambda: list(encode_all(lanes, Threads(2), Clock(), lambda *_: None)))
    for one, encoder in zip(lanes, encoders, strict=True):
        assert set(stored(one.store)) == {item_key(text) for batch in encoder.batches for text in batch}
    assert len(stored(lanes[0].store)) == 6


class Preparing(Lengths):
    """Notes how far ahead of the encoding a window is prepared."""

    def __init__(self) -> None:
        super().__init__()
        self.windows: list[int] = []
        self.prepared = 0
        self.most_prepared = 0

    def prepare(self, contents: Sequence[str | Path]) -> tuple[list[object], list[int]]:
        with self.lock:
            self.windows.append(len(contents))
            self.prepared += len(contents)
            self.most_prepared = max(self.most_prepared, self.prepared - sum(map(len, self.batches)))
        return super().prepare(contents)

    def encode(self, batch: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        time.sleep(0.002)
        return super().encode(batch)


def plans(store: EncoderStore) -> list[list[bytes]]:
    return [batch for path in plan_paths(store.folder) for batch in read_batches(path)]


def test_windows_cover_every_item_once_and_are_prepared_just_in_time(
    store: EncoderStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("extract.planner.WINDOW", 30)
    texts = [f"{number + 100}" for number in range(220)]
    encoder = Preparing()
    found = encode(encoder, store, texts, budget=Budget(cost=99, items=3), machine=Threads())
    assert encoder.windows == [30] * 7 + [10]
    given = [item for one in found for item in one.encoded]
    assert sorted(given) == sorted(item_key(text) for text in texts)
    assert stored(store) == {item_key(text): [3, ord(text[0])] for text in texts}
    planned = plans(store)
    assert sorted(map(tuple, planned)) == sorted(tuple(item_key(text) for text in batch) for batch in encoder.batches)
    # Two windows, and what of the one before is decoded, encoded or written.
    assert 60 <= encoder.most_prepared <= 2 * 30 + 5 * 3


def test_batches_are_written_down_before_they_are_encoded(store: EncoderStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("extract.planner.WINDOW", 12)
    unplanned: list[list[str]] = []

    class Looking(Lengths):
        def encode(self, batch):
            texts = [str(one[0]) for one in batch]
            if [item_key(text) for text in texts] not in plans(store):
                unplanned.append(texts)
            return super().encode(batch)

    encode(Looking(), store)
    assert unplanned == []


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_stopped_run_over_several_windows_goes_on_with_the_same_batches(
    store: EncoderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replicas: int
):
    monkeypatch.setattr("extract.planner.WINDOW", 16)
    whole = FeatureStore(tmp_path / "whole").encoder(Lengths.key.digest)
    whole.create(Lengths.key)
    encode(Rounding(), whole, machine=Threads(replicas))

    class Stopping(Rounding):
        def encode(self, batch):
            if len(self.batches) >= 7:
                raise KeyboardInterrupt
            return super().encode(batch)

    with pytest.raises(KeyboardInterrupt):
        encode(Stopping(), store, machine=Threads(replicas))
    left = [text for text in TEXTS if item_key(text) not in stored(store)]
    assert 0 < len(left) < len(TEXTS)
    encode(Rounding(), store, left, machine=Threads(replicas))
    batches = {tuple(batch) for batch in plans(whole)}
    again = stored(store)
    kept = [item for batch in batches if batch in {tuple(one) for one in plans(store)} for item in batch]
    assert len(kept) >= 32  # the windows that were planned before the stop
    assert {item: again[item] for item in kept} == {item: stored(whole)[item] for item in kept}
    assert set(again) == set(EXPECTED)


def test_the_clock_names_every_stage(store: EncoderStore):
    clock, encoder = Clock(), Lengths()
    made = lane(encoder, store.folder.parent, TEXTS, Budget(cost=40, items=4))
    in_time(lambda: list(encode_all([made], Threads(), clock, lambda *_: None)))
    stages = {"text: prepare", "text: decode", "wait for input", "text: encode", "wait for the disk", "write"}
    assert set(clock.seconds()) == stages
    assert all(seconds >= 0 for seconds in clock.seconds().values())
