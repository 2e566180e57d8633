"""Whatever happens to a store, an extraction ends with every sample's own vector."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cache import (
    FAILED,
    KEY_SCHEMA,
    MISSING,
    PRESENT,
    EncoderKey,
    EncoderStore,
    FeatureStore,
    FeatureTable,
    StoreDamaged,
    collect,
    compact_store,
    load,
    table_of,
)
from extract import EncoderSpec, Extraction, Manifest, Sample, Settings, extract
from extract.batching import Budget
from extract.decode import DecodeError

WIDTH = 3
NAMES = st.sampled_from(["one", "two"])
LENGTHS = st.sampled_from([8, 9])
CONTENTS = st.one_of(
    st.none(), st.sampled_from(["bad", "bad words"]), st.sampled_from([f"{'word ' * n}{n}" for n in range(14)])
)
SAMPLES = st.lists(st.tuples(CONTENTS, st.sampled_from(["", "good", "bad"])), min_size=1, max_size=5)


def vector(length: int, text: str) -> list[float]:
    """What an encoder of this version gives: a pure function of both."""
    raw = hashlib.blake2b(f"{length} {text}".encode(), digest_size=4 * WIDTH).digest()
    return (np.frombuffer(raw, dtype="<u4") >> 9).astype(np.float32).tolist()  # below 2**24: exact


class Pure:
    """An encoder whose vectors are digests; `bad...` is broken. It stops after `left` batches."""

    left: int | None = None
    encoded = 0
    files = ()
    truncated = 0

    def __init__(self, spec: EncoderSpec, _runtime: object) -> None:
        self._length = spec.max_length or 0
        fields = {"schema": KEY_SCHEMA, "modality": "text", "outputs": {"mean": WIDTH}, "dtype": "float32"}
        self.key = EncoderKey({**fields, "max_length": self._length}, name="pure")

    def prepare(self, contents: Sequence[str | Path]) -> tuple[list[str], list[int]]:
        return [str(one) for one in contents], [len(str(one)) for one in contents]

    def decode(self, light: str) -> np.ndarray:
        if light.startswith("bad"):
            raise DecodeError(f"{light} is bad")
        return np.array([light])

    def blank(self) -> np.ndarray:
        return np.array([""])

    def encode(self, batch: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        if Pure.left is not None:
            if Pure.left == 0:
                raise KeyboardInterrupt
            Pure.left -= 1
        Pure.encoded += len(batch)
        return {"mean": np.array([vector(self._length, str(one[0])) for one in batch], dtype=np.float32)}


@contextmanager
def stopped_at(batches: int | None = None, writes: int | None = None) -> Iterator[None]:
    """Stops what runs inside as its encoder gets one more batch, or as one more file is to take its place."""
    inner, left = os.replace, writes

    def replace(*args: object) -> None:
        nonlocal left
        if left is not None:
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
        inner(*args)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Pure, "left", batches)
        patched.setattr("cache.files.os.replace", replace)
        yield


class Stores(RuleBasedStateMachine):
    """Two data sets in one store.

    `_views` holds what each was at its last extraction that ended; `_suspect` names those that
    were not extracted since a file was damaged; `_broken` are files that were.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp())
        self._patched = pytest.MonkeyPatch()
        self._patched.setattr("extract.chosen.build_encoder", Pure)
        self._patched.setattr("extract.runtime.CPU_TEXT", Budget(cost=60, items=2))
        self._patched.setattr("cache.files.os.fsync", lambda _descriptor: None)  # no power is lost here
        self._data: dict[str, list[Sample]] = {"one": [], "two": []}
        self._views: dict[str, tuple[list[Sample], int]] = {}
        self._suspect: set[str] = set()
        self._broken: set[Path] = set()
        self._made = 0

    def teardown(self) -> None:
        self._patched.undo()
        shutil.rmtree(self._folder)

    @property
    def _store(self) -> FeatureStore:
        return FeatureStore(self._folder / "store")

    def _new(self, content: str | None, label: str) -> Sample:
        self._made += 1
        return Sample(f"s{self._made}", {} if content is None else {"text": content}, label)

    def _run(self, name: str, length: int) -> Extraction:
        # One sample with a text that is its own, for a data set without any is refused.
        samples = (*self._data[name], Sample("last", {"text": f"the end of {name}"}, "good"))
        spec = EncoderSpec("text", "pure", max_length=length)
        chosen = Settings(self._store.root, name, (spec,), device="cpu")
        return extract(Manifest(self._folder / name, "made", samples), chosen)

    @initialize(one=SAMPLES, two=SAMPLES)
    def begin(self, one: list, two: list) -> None:
        for name, rows in (("one", one), ("two", two)):
            self._data[name] = [self._new(*row) for row in rows]

    @rule(name=NAMES, rows=SAMPLES)
    def add(self, name: str, rows: list) -> None:
        self._data[name] = [*self._data[name], *(self._new(*row) for row in rows)]

    @rule(name=NAMES, draw=st.randoms(use_true_random=False))
    def remove(self, name: str, draw) -> None:
        self._data[name] = [sample for sample in self._data[name] if draw.random() < 0.6]

    @rule(name=NAMES, draw=st.randoms(use_true_random=False))
    def shuffle(self, name: str, draw) -> None:
        self._data[name] = draw.sample(self._data[name], len(self._data[name]))

    @rule(name=NAMES, label=st.sampled_from(["", "new"]))
    def relabel(self, name: str, label: str) -> None:
        self._data[name] = [Sample(one.id, one.inputs, label) for one in self._data[name]]

    @rule(name=NAMES, content=CONTENTS)
    def change(self, name: str, content: str | None) -> None:
        self._data[name] = [*self._data[name][:-1], self._new(content, "changed")]

    @rule(name=NAMES, length=LENGTHS)
    def extract(self, name: str, length: int) -> None:
        before = None if self._damaged() else self._items(length)
        done = self._run(name, length)
        samples = [*self._data[name], Sample("last", {"text": f"the end of {name}"}, "good")]
        self._views[name] = samples, length
        self._suspect.discard(name)
        self._reads_right(table_of(self._store, done.view), name)
        if before is not None:
            texts = {sample.inputs["text"] for sample in samples if "text" in sample.inputs}
            assert done.encoded == len(self._items(length) - before)
            assert done.encoded + done.reused == sum(not text.startswith("bad") for text in texts)

    @rule(name=NAMES, length=LENGTHS)
    def extract_twice(self, name: str, length: int) -> None:
        self.extract(name, length)
        Pure.encoded = 0
        assert self._run(name, length).encoded == Pure.encoded == 0

    @rule(name=NAMES, length=LENGTHS, batches=st.integers(0, 3))
    def kill_while_encoding(self, name: str, length: int, batches: int) -> None:
        with stopped_at(batches=batches):
            self._stopped(lambda: self.extract(name, length))

    @rule(name=NAMES, length=LENGTHS, writes=st.integers(0, 9))
    def kill_while_extracting(self, name: str, length: int, writes: int) -> None:
        with stopped_at(writes=writes):
            self._stopped(lambda: self.extract(name, length))

    @rule(writes=st.integers(0, 3), action=st.sampled_from([collect, compact_store]))
    def kill_while_tidying(self, writes: int, action: Callable[[FeatureStore], dict]) -> None:
        with stopped_at(writes=writes):
            self._stopped(lambda: self._tidy(action))

    def _stopped(self, action: Callable[[], None]) -> None:
        try:
            action()
        except KeyboardInterrupt:
            return

    @rule()
    def compact(self) -> None:
        self._tidy(compact_store)

    @rule()
    def gc(self) -> None:
        self._tidy(collect)

    def _tidy(self, action: Callable[[FeatureStore], dict]) -> None:
        if not self._store.root.is_dir():
            return
        try:
            action(self._store)
        except StoreDamaged:
            assert self._damaged()

    @rule(draw=st.randoms(use_true_random=False))
    def damage(self, draw) -> None:
        paths = sorted(path for end in ("h5", "plan", "jsonl") for path in self._store.root.glob(f"*/*.{end}"))
        if paths:
            path = draw.choice(paths)
            raw = bytearray(path.read_bytes())
            raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
            path.write_bytes(raw)
            self._broken.add(path)
            self._suspect = {"one", "two"}

    @invariant()
    def views_read_right(self) -> None:
        for name in set(self._views) - self._suspect:
            self._reads(name)

    def _reads(self, name: str) -> None:
        self._reads_right(load(self._store.root, name, check=True), name)

    def _reads_right(self, table: FeatureTable, name: str) -> None:
        samples, length = self._views[name]
        assert table.ids.tolist() == [sample.id for sample in samples]
        assert table.labels.tolist() == [sample.label for sample in samples]
        texts = [sample.inputs.get("text") for sample in samples]
        states = [MISSING if text is None else FAILED if text.startswith("bad") else PRESENT for text in texts]
        assert table.view.blocks["text"].state.tolist() == states
        lost = [-1.0] * WIDTH
        pairs = zip(texts, states, strict=True)
        expected = [vector(length, text or "") if state == PRESENT else lost for text, state in pairs]
        assert table.block("text", missing=-1).tolist() == expected

    def _damaged(self) -> bool:
        return any(path.exists() for path in self._broken)

    def _items(self, length: int) -> set[bytes]:
        digest = Pure(EncoderSpec("text", "pure", max_length=length), None).key.digest
        return EncoderStore(self._store.root / digest).items()


Stores.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
test_every_extraction_ends_right = Stores.TestCase
