import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cache import KEY_SCHEMA, EncoderKey, EncoderStore, FeatureStore, FeatureWriter, item_key, silent
from extract.batching import Budget
from extract.clock import Clock
from extract.decode import DecodeError
from extract.engine import Outcome
from extract.planner import Lane, Work
from extract.workers import encode_all


class Lengths:
    """A text becomes its length and its first letter's number; `bad...` is broken, `nan...` gives NaN."""

    key = EncoderKey({"schema": KEY_SCHEMA, "modality": "text", "outputs": {"pair": 2}, "dtype": "float32"})
    files = ()
    truncated = 0

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.decoded = 0
        self.most_ahead = 0
        self.lock = threading.Lock()

    def prepare(self, contents: Sequence[str | Path]) -> tuple[list[object], list[int]]:
        return list(contents), [1 if isinstance(one, Path) else len(one) for one in contents]

    def decode(self, light: str | bytes) -> np.ndarray:
        text = light.decode() if isinstance(light, bytes) else light
        with self.lock:
            self.decoded += 1
            self.most_ahead = max(self.most_ahead, self.decoded - sum(map(len, self.batches)))
        if text.startswith("bad"):
            raise DecodeError(f"{text} is bad")
        return np.array([text])

    def blank(self) -> np.ndarray:
        return np.array([""])

    def encode(self, batch: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        texts = [str(one[0]) for one in batch]
        self.batches.append(texts)
        rows = [[np.nan if text.startswith("nan") else len(text), ord(text[0]) if text else 0] for text in texts]
        return {"pair": np.array(rows, dtype=np.float32)}


@pytest.fixture
def store(tmp_path: Path) -> EncoderStore:
    made = FeatureStore(tmp_path).encoder(Lengths.key.digest)
    made.create(Lengths.key)
    return made


@dataclass
class Threads:
    """A machine of so many threads whose memory runs out by MemoryError."""

    replicas: int = 1
    decoders: int = 2

    def replica(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)


def outcomes(
    encoder: Lengths,
    store: EncoderStore,
    contents: Sequence[str | Path],
    budget: Budget,
    progress=silent,
    machine: Threads | None = None,
):
    by_key = {item_key(one.read_bytes() if isinstance(one, Path) else one): one for one in contents}
    work = Work(by_key, sorted(by_key))
    lane = Lane(encoder, work, store, FeatureWriter(store, ["pair"], {}), budget)
    return encode_all([lane], machine or Threads(), Clock(), progress)


def stored(store: EncoderStore) -> dict[bytes, list[float]]:
    return {
        row.tobytes(): values.tolist()
        for segment in store.segments()
        for row, values in zip(segment.items, segment.map("pair"), strict=True)
    }


def test_every_item_gets_its_own_vector_and_an_outcome_is_durable(store: EncoderStore):
    texts = [chr(97 + number) * (number + 1) for number in range(20)]
    encoder, seen = Lengths(), []
    for outcome in outcomes(encoder, store, texts, Budget(cost=40, items=4)):
        seen += outcome.encoded
        assert set(seen) <= store.items()
    assert stored(store) == {item_key(text): [len(text), ord(text[0])] for text in texts}
    assert sorted(seen) == sorted(item_key(text) for text in texts)
    assert encoder.batches[0] == ["t" * 20, "s" * 19]  # the costliest first


def test_broken_and_non_finite_items_are_told_and_their_place_is_blank(store: EncoderStore):
    encoder = Lengths()
    texts = ["good", "bad1", "fine", "nan1"]
    (outcome,) = outcomes(encoder, store, texts, Budget(cost=100, items=9))
    assert {item: (one.reason, one.final) for item, one in outcome.failed.items()} == {
        item_key("bad1"): ("bad1 is bad", True),
        item_key("nan1"): ("the encoder gave NaN or infinite values", True),
    }
    in_order = [text if text != "bad1" else "" for text in sorted(texts, key=item_key)]
    assert encoder.batches == [in_order]
    assert stored(store) == {item_key(text): [4, ord(text[0])] for text in ("good", "fine")}


def test_a_batch_without_a_sound_item_stores_nothing(store: EncoderStore):
    (outcome,) = outcomes(Lengths(), store, ["bad1", "bad2"], Budget(cost=100, items=9))
    assert (outcome.encoded, len(outcome.failed), store.segments()) == ([], 2, [])


def test_files_that_change_or_vanish_meanwhile_may_be_tried_again(store: EncoderStore, tmp_path: Path):
    changed, gone, kept = (tmp_path / name for name in ("changed", "gone", "kept"))
    for path in (changed, gone, kept):
        path.write_bytes(path.name.encode())
    running = outcomes(Lengths(), store, [changed, gone, kept], Budget(cost=9, items=9))
    changed.write_bytes(b"other")  # a generator starts when it is first asked
    gone.unlink()
    (outcome,) = running
    assert outcome.encoded == [item_key("kept")]
    assert "the file changed while it was being encoded" in outcome.failed[item_key("changed")].reason
    assert "cannot be read: No such file" in outcome.failed[item_key("gone")].reason
    assert not any(one.final for one in outcome.failed.values())


def test_no_more_than_some_batches_are_decoded_ahead(store: EncoderStore):
    encoder = Lengths()
    assert len(list(outcomes(encoder, store, [f"{n:03}" for n in range(90)], Budget(cost=99, items=3)))) == 30
    assert encoder.most_ahead <= 5 * 3  # 3 in the queue, 1 on its way into it, 1 being encoded


def test_what_was_encoded_before_an_error_is_kept(store: EncoderStore):
    class Failing(Lengths):
        def encode(self, batch):
            if len(self.batches) == 2:
                raise RuntimeError("out of memory")
            return super().encode(batch)

    encoder, done = Failing(), []
    with pytest.raises(RuntimeError, match="out of memory"):
        done.extend(outcomes(encoder, store, [f"{n:03}" for n in range(12)], Budget(cost=99, items=3)))
    assert set(stored(store)) == {item_key(text) for batch in encoder.batches for text in batch}
    assert len(stored(store)) == 6


def test_progress_ends_at_the_number_of_items(store: EncoderStore):
    told = []
    list(outcomes(Lengths(), store, list("abcde"), Budget(cost=2, items=2), lambda *step: told.append(step)))
    assert told == [("text", 2, 5), ("text", 4, 5), ("text", 5, 5)]


def test_nothing_to_encode(store: EncoderStore):
    results: list[Outcome] = list(outcomes(Lengths(), store, [], Budget(cost=2, items=2)))
    assert results == []
