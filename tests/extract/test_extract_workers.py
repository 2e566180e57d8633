"""Several worker processes: as one, but for the time. Each imports torch, so few are started here."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from PIL import Image

from cache import DeviceError, FeatureStore, table_of
from extract import EncoderSpec, Extraction, Manifest, Sample, Settings, extract
from extract.batching import Budget
from extract.clock import Clock
from extract.workers import Order, _Workers

TEXTS, PICTURES = 600, 40
BROKEN = "p2"


@dataclass
class Case:
    """Posts, and what one process made of them."""

    manifest: Manifest
    specs: tuple[EncoderSpec, ...]
    alone: dict[str, np.ndarray]

    def extract(self, store: Path, device: str, progress: Callable[[str, int, int], None]) -> Extraction:
        return extract(self.manifest, Settings(store, "posts", self.specs, device=device), progress)


def vectors(store: Path, done: Extraction) -> dict[str, np.ndarray]:
    table = table_of(FeatureStore(store), done.view)
    return {name: np.array(table.block(name, missing=np.nan)) for name in ("text", "image")}


def write_posts(folder: Path) -> Manifest:
    """All texts differ; some samples have a picture, of which one is broken."""
    words, draw = ["sun", "rain", "love", "hate", "city", "street", "my", "day", "a", "the"], np.random.default_rng(0)
    folder.mkdir()
    samples = []
    for number in range(TEXTS):
        digits = [words[int(digit)] for digit in str(number)]
        inputs: dict[str, str | Path] = {"text": " ".join([*digits, "great", *draw.choice(words[:4], number % 11)])}
        if number < PICTURES:
            inputs["image"] = folder / f"{number}.png"
            Image.fromarray(draw.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        samples.append(Sample(f"p{number}", inputs))
    broken = folder / "2.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    return Manifest(folder, "table", tuple(samples))


@pytest.fixture(scope="module", autouse=True)
def none_of_joblib() -> None:
    """Workers that joblib keeps from earlier tests are children of this process, too."""
    get_reusable_executor().shutdown(wait=True)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, bert: Path, shufflenet: Path, one_thread: None) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("workers")
    specs = EncoderSpec("text", str(bert)), EncoderSpec("image", "shufflenet_v2_x0_5", weights=str(shufflenet))
    made = Case(write_posts(folder / "posts"), specs, {})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("extract.runtime.CPU_TEXT", Budget(cost=32, items=2))
        patched.setattr("extract.runtime.CPU_IMAGE", Budget(cost=2, items=2))
        patched.setattr("extract.engine.SAVE_EVERY", 60.0)
        made.alone = vectors(folder / "alone", made.extract(folder / "alone", "cpu", lambda *_: None))
        yield made


def same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], two[name], equal_nan=True) for name in ("text", "image"))


@pytest.mark.slow
def test_two_worker_processes_give_the_bits_of_one(case: Case, tmp_path: Path):
    told: list[tuple[str, int, int]] = []
    workers: set[int | None] = set()

    def progress(*step: object) -> None:
        told.append(step)
        workers.update(child.pid for child in multiprocessing.active_children())

    done = case.extract(tmp_path / "store", "cpu,cpu", progress)
    assert same(vectors(tmp_path / "store", done), case.alone)
    assert (done.encoded, done.reused) == (TEXTS + PICTURES - 1, 0)
    assert done.failed_ids == [BROKEN]
    assert "broken picture" in done.failures["image"][0].reason
    assert np.isnan(case.alone["image"]).all(axis=1).tolist() == [
        number >= PICTURES or f"p{number}" == BROKEN for number in range(TEXTS)
    ]
    assert len(workers) == 2
    assert multiprocessing.active_children() == []
    assert {step for step in told if step[1] == step[2]} >= {("text", TEXTS, TEXTS), ("image", PICTURES, PICTURES)}
    assert [what in done.stage_seconds for what in ("text: encode", "image: decode", "write")] == [True] * 3  # workers'
    again = case.extract(tmp_path / "store", "cpu,cpu", progress)  # with nothing to do it starts none
    assert (again.encoded, again.reused, again.failed_ids) == (0, TEXTS + PICTURES - 1, [BROKEN])
    assert len(workers) == 2


@pytest.mark.slow
def test_a_killed_worker_is_an_error_that_says_what_to_do_and_costs_only_its_batches(case: Case, tmp_path: Path):
    killed: list[int] = []

    def kill(what: str, done: int, total: int) -> None:
        children = multiprocessing.active_children()
        if what in ("text", "image") and not killed and children:
            killed.append(children[0].pid or 0)
            os.kill(killed[0], signal.SIGKILL)

    match = r"a worker process ended with -9, .*what was encoded is kept, run the same command again with fewer devices"
    with pytest.raises(DeviceError, match=match):
        case.extract(tmp_path / "store", "cpu,cpu", kill)
    assert killed
    assert multiprocessing.active_children() == []
    kept = sum(len(one.items()) for one in FeatureStore(tmp_path / "store").encoders())
    assert kept > 0
    done = case.extract(tmp_path / "store", "cpu,cpu", lambda *_: None)
    assert (done.encoded, done.reused) == (TEXTS + PICTURES - 1 - kept, kept)
    assert done.failed_ids == [BROKEN]
    assert same(vectors(tmp_path / "store", done), case.alone)


class Unspeakable(Exception):
    """Cannot be sent to another process, as some errors of `torch.compile` cannot."""

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("it cannot be pickled")


class Silent:
    """A spec whose encoder cannot be built, for a reason that cannot be told."""

    model = "silent"

    @property
    def kind(self) -> str:
        raise Unspeakable


@pytest.mark.slow
def test_a_worker_whose_error_cannot_be_told_does_not_hang_the_run(tmp_path: Path):
    workers = _Workers([Order(tmp_path, {"text": (Silent(), "")}, "cpu", False, 1)], Clock())
    with pytest.raises(RuntimeError, match=r"in the worker process of cpu:\n(.*\n)+.*Unspeakable"):
        list(workers.run(iter([])))
