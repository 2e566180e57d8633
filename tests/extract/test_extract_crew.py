"""The engine's threads: whatever a stage does, all end, and what was encoded is stored."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from test_extract_engine import Lengths, Threads, outcomes, stored

from cache import DeviceError, EncoderStore, FeatureStore, FeatureWriter, item_key
from extract.batching import Budget
from extract.encoders.spec import BrokenInputs

TEXTS = [chr(97 + number % 26) * (1 + number % 9) + str(number) for number in range(60)]
EXPECTED = {item_key(text): [len(text), ord(text[0])] for text in TEXTS}
LIMIT = 20.0
"""Seconds after which a test that should end is taken to hang."""


@pytest.fixture
def store(tmp_path: Path) -> EncoderStore:
    made = FeatureStore(tmp_path).encoder(Lengths.key.digest)
    made.create(Lengths.key)
    return made


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + LIMIT
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left == set()


def in_time(work: Callable[[], object]) -> object:
    """What the work gives or raises; fails where it hangs."""
    found: list[object] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive(), "it hangs"
    if raised:
        raise raised[0]
    return found[0]


def encode(encoder: Lengths, store: EncoderStore, texts: Sequence[str] = TEXTS, **options: object) -> list:
    settings = {"budget": Budget(cost=40, items=4), "machine": Threads(replicas=2), **options}
    return in_time(lambda: list(outcomes(encoder, store, texts, **settings)))


class Rounding(Lengths):
    """Vectors that depend on who is beside whom, as those of a real network do in their last digits."""

    def encode(self, batch: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        time.sleep(0.002 * (threading.get_ident() % 3))  # replicas overtake each other
        found = super().encode(batch)["pair"]
        return {"pair": found / np.float32(3) + np.float32(1e-3) * np.arange(len(found), dtype=np.float32)[:, None]}


def test_no_bit_depends_on_the_number_of_threads_or_the_order_of_contents(tmp_path: Path):
    shuffled = [TEXTS[number] for number in np.random.default_rng(0).permutation(len(TEXTS))]
    found = []
    for replicas, decoders, texts in ((1, 1, TEXTS), (2, 2, TEXTS), (5, 3, TEXTS), (5, 3, shuffled)):
        store = FeatureStore(tmp_path / str(len(found))).encoder(Lengths.key.digest)
        store.create(Lengths.key)
        encode(Rounding(), store, texts, machine=Threads(replicas, decoders))
        found.append(stored(store))
    assert set(found[0]) == set(EXPECTED)
    assert found[1:] == found[:1] * 3


def test_replicas_encode_at_the_same_time(store: EncoderStore):
    meeting = threading.Barrier(3)

    class Meeting(Lengths):
        def encode(self, batch):
            meeting.wait(LIMIT)  # breaks unless three are here at once
            return super().encode(batch)

    encode(Meeting(), store, TEXTS[:12], budget=Budget(cost=99, items=2), machine=Threads(replicas=3))
    assert len(stored(store)) == 12


def test_every_replica_is_made_one_by_the_machine(store: EncoderStore):
    entered, encoding, left = [], set(), []

    class Watched(Threads):
        def replica(self):
            @contextlib.contextmanager
            def watch():
                entered.append(threading.get_ident())
                try:
                    yield
                finally:
                    left.append(threading.get_ident())

            return watch()

    class Telling(Lengths):
        def encode(self, batch):
            encoding.add(threading.get_ident())
            return super().encode(batch)

    encode(Telling(), store, machine=Watched(replicas=3))
    assert len(entered) == 3
    assert encoding <= set(entered)
    assert sorted(left) == sorted(entered)


class Cramped(Lengths):
    """Runs out of memory above a padded cost."""

    def __init__(self, memory: int) -> None:
        super().__init__()
        self.memory = memory
        self.tried: list[int] = []

    def encode(self, batch: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        self.tried.append(len(batch))
        if len(batch) * max(len(str(one[0])) for one in batch) > self.memory:
            raise MemoryError
        return super().encode(batch)


def test_a_batch_is_halved_until_it_fits_and_the_limit_is_remembered(store: EncoderStore):
    encoder, texts = Cramped(memory=20), [f"{number:05}" for number in range(32)]
    found = encode(encoder, store, texts, budget=Budget(cost=80, items=16), machine=Threads())
    assert encoder.tried == [16, 8, *[4] * 4, *[4] * 4]  # the second batch is not tried whole
    assert stored(store) == {item_key(text): [5, 48] for text in texts}
    assert [len(one.encoded) for one in found] == [16, 16]


def test_the_limit_is_one_of_the_cost_and_not_of_the_number(store: EncoderStore):
    encoder = Cramped(memory=40)
    texts = [f"{number:020}" for number in range(4)] + [f"{number:05}" for number in range(16)]
    encode(encoder, store, texts, budget=Budget(cost=80, items=16), machine=Threads())
    assert encoder.tried == [4, 2, 2, 8, 8]


def test_parts_of_a_halved_batch_keep_their_order_and_their_blanks(store: EncoderStore):
    encoder = Cramped(memory=12)
    texts = [f"{letter}{number}xx" for number, letter in enumerate("abcde")] + ["bad1", "nan1"]
    (outcome,) = encode(encoder, store, texts, budget=Budget(cost=100, items=9), machine=Threads())
    assert encoder.tried == [7, 3, 3, 1]
    assert stored(store) == {item_key(text): [4, ord(text[0])] for text in texts[:5]}
    assert set(outcome.failed) == {item_key("bad1"), item_key("nan1")}


def test_a_single_item_that_does_not_fit_is_an_error_of_the_device(store: EncoderStore):
    encoder = Cramped(memory=12)
    with pytest.raises(DeviceError, match="memory does not hold a single text input"):
        encode(encoder, store, ["a" * 13, "b" * 13], budget=Budget(cost=99, items=2), machine=Threads())
    assert encoder.tried == [2, 1]
    assert stored(store) == {}


def test_many_replicas_that_run_out_of_memory_at_once_all_find_a_limit(store: EncoderStore):
    encoder, texts = Cramped(memory=10), [f"{number:05}" for number in range(128)]
    encode(encoder, store, texts, budget=Budget(cost=80, items=16), machine=Threads(replicas=5))
    assert set(stored(store)) == {item_key(text) for text in texts}


class Fragile(Lengths):
    """`late...` turns out to be broken only when it is encoded, one in a call."""

    def encode(self, batch: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        broken = [one for one in batch if str(one[0]).startswith("late")]
        if broken:
            raise BrokenInputs(broken[:1], f"{broken[0][0]} is broken")
        return super().encode(batch)


def test_inputs_that_break_in_the_model_are_recorded_and_the_others_encoded(store: EncoderStore):
    encoder, texts = Fragile(), ["sound", "late1", "right", "late2", "bad-1"]
    (outcome,) = encode(encoder, store, texts, budget=Budget(cost=100, items=9), machine=Threads())
    assert {item: (one.reason, one.final) for item, one in outcome.failed.items()} == {
        item_key("late1"): ("late1 is broken", True),
        item_key("late2"): ("late2 is broken", True),
        item_key("bad-1"): ("bad-1 is bad", True),
    }
    in_order = [text if text in ("sound", "right") else "" for text in sorted(texts, key=item_key)]
    assert encoder.batches == [in_order]  # a blank in the place of each
    assert set(stored(store)) == {item_key("sound"), item_key("right")}


def test_of_equal_inputs_only_the_one_that_breaks_is_recorded(store: EncoderStore):
    class Alike(Lengths):
        def decode(self, light):
            return np.array(["same"])

        def encode(self, batch):
            if str(batch[-1][0]):
                raise BrokenInputs([batch[-1]], "the last is broken")
            return super().encode(batch)

    texts = ["one", "two", "six"]
    (outcome,) = encode(Alike(), store, texts, budget=Budget(cost=99, items=9), machine=Threads())
    *sound, broken = sorted(item_key(text) for text in texts)
    assert list(outcome.failed) == [broken]
    assert set(stored(store)) == set(sound)


def fails_at(number: int, inner: Callable, error: BaseException) -> Callable:
    """The function, which raises when it is called for that time."""
    calls = itertools.count(1)

    def failing(*args: object) -> object:
        if next(calls) == number:
            raise error
        return inner(*args)

    return failing


@pytest.mark.parametrize("error", [ValueError("of a kind"), KeyboardInterrupt("of a kind")])
@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("stage", ["prepare", "decode", "encode", "write", "lacking", "plan"])
def test_an_error_anywhere_reaches_the_caller_and_what_was_encoded_is_stored(
    store: EncoderStore, monkeypatch: pytest.MonkeyPatch, stage: str, replicas: int, error: BaseException
):
    monkeypatch.setattr("extract.planner.WINDOW", 12)
    encoder, written, done = Lengths(), [], []
    if stage in ("prepare", "decode", "encode"):
        number = {"prepare": 3, "decode": 30, "encode": 5}[stage]
        setattr(encoder, stage, fails_at(number, getattr(encoder, stage), error))
    elif stage == "plan":
        from extract.planner import plan_batches

        monkeypatch.setattr("extract.planner.plan_batches", fails_at(3, plan_batches, error))
    else:
        inner = getattr(FeatureWriter, stage)
        monkeypatch.setattr(FeatureWriter, stage, fails_at({"write": 3, "lacking": 7}[stage], inner, error))
    write = FeatureWriter.write

    def noted(self, items, outputs):
        write(self, items, outputs)
        written.extend(items)

    monkeypatch.setattr(FeatureWriter, "write", noted)

    def run() -> None:
        for outcome in outcomes(encoder, store, TEXTS, Budget(cost=40, items=4), machine=Threads(replicas)):
            done.extend(outcome.encoded)

    with pytest.raises(type(error), match="of a kind"):
        in_time(run)
    found = stored(store)
    assert set(found) == set(written) == set(done)
    assert all(EXPECTED[item] == values for item, values in found.items())
    if stage != "write":  # all that was encoded is there
        assert set(found) == {item_key(text) for batch in encoder.batches for text in batch}
        assert found
    rest = encode(Lengths(), store, [text for text in TEXTS if item_key(text) not in found])
    assert stored(store) == EXPECTED
    assert rest


def test_an_error_in_one_replica_does_not_lose_what_another_is_encoding(store: EncoderStore):
    second = threading.Event()

    class Racing(Lengths):
        def encode(self, batch):
            if str(batch[0][0]).startswith("z"):  # the costliest: the first
                assert second.wait(LIMIT)
                raise ValueError("of a kind")
            second.set()
            time.sleep(0.2)
            return super().encode(batch)

    with pytest.raises(ValueError, match="of a kind"):
        encode(Racing(), store, ["z" * 9, "a" * 5, "b" * 3], budget=Budget(cost=9, items=1))
    assert item_key("a" * 5) in stored(store)


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_closing_early_ends_all_threads_and_stores_what_was_in_flight(store: EncoderStore, taken: int, replicas: int):
    encoder, before = Lengths(), set(threading.enumerate())

    def run() -> None:
        running = outcomes(encoder, store, TEXTS, Budget(cost=40, items=2), machine=Threads(replicas))
        for _ in range(taken):
            next(running)
        running.close()

    in_time(run)
    assert [one for one in threading.enumerate() if one not in before and "run" not in one.name] == []
    encoded = {item_key(text) for batch in encoder.batches for text in batch}
    assert set(stored(store)) == encoded
    assert 2 * taken <= len(encoded) < len(TEXTS) or not taken


def test_an_exception_of_the_caller_ends_all_threads(store: EncoderStore):
    def run() -> None:
        def progress(what: str, done: int, total: int) -> None:
            raise KeyboardInterrupt("of the caller")

        list(outcomes(Lengths(), store, TEXTS, Budget(cost=40, items=2), progress))

    with pytest.raises(KeyboardInterrupt, match="of the caller"):
        in_time(run)
    assert stored(store)


def test_batches_of_half_a_second_are_one_segment(store: EncoderStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("extract.engine.SAVE_EVERY", 60.0)
    found = encode(Lengths(), store)
    assert len(store.segments()) == 1
    assert len(found) > 10  # an outcome for each batch all the same
    assert stored(store) == EXPECTED


def test_a_slow_encoders_batches_are_stored_as_they_come(store: EncoderStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("extract.engine.SAVE_EVERY", 0.05)
    there: list[int] = []

    class Slow(Lengths):
        def encode(self, batch):
            there.append(len(store.segments()))
            time.sleep(0.15)
            return super().encode(batch)

    encode(Slow(), store, TEXTS[:8], budget=Budget(cost=99, items=2), machine=Threads())
    assert all(number - 1 <= count <= number for number, count in enumerate(there)), there  # one is on its way
    assert len(store.segments()) == 4


def test_what_waits_is_stored_even_if_no_other_batch_comes(store: EncoderStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("extract.engine.SAVE_EVERY", 0.1)
    waited = threading.Event()

    class Stuck(Lengths):
        def encode(self, batch):
            if len(self.batches) == 2:
                deadline = time.monotonic() + LIMIT
                while len(stored(store)) < 4 and time.monotonic() < deadline:
                    time.sleep(0.01)
                if len(stored(store)) == 4:
                    waited.set()
            return super().encode(batch)

    encode(Stuck(), store, TEXTS[:6], budget=Budget(cost=99, items=2), machine=Threads())
    assert waited.is_set()


def test_no_more_bytes_wait_than_are_allowed(store: EncoderStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("extract.engine.SAVE_EVERY", 60.0)
    monkeypatch.setattr("extract.engine.SAVE_BYTES", 5 * 8)  # five vectors of two float32
    encode(Lengths(), store, TEXTS[:20], budget=Budget(cost=99, items=2), machine=Threads())
    assert [len(segment) for segment in store.segments()] == [6, 6, 6, 2] or sorted(
        len(segment) for segment in store.segments()
    ) == [2, 6, 6, 6]
