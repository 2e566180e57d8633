import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cache import DataError
from extract import EncoderSpec, Manifest, bench, bench_lines, read_manifest
from extract.measure import bare_seconds, matrix_gflops, together, write_bench_posts
from extract.runtime import Runtime


class Counting:
    """Counts the inputs that it is given."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def encode(self, batch: list[np.ndarray]) -> None:
        self.given += [int(one[0]) for one in batch]


@pytest.mark.slow
def test_every_stage_is_measured_and_nothing_stays(posts, bert: Path, shufflenet: Path, tmp_path: Path):
    (posts.folder / "4.png").write_bytes(b"broken")
    asked: list[Path | None] = []
    before = sorted(tmp_path.rglob("*"))
    manifest = posts.read()

    def specs(data: Manifest, model: Path | None) -> tuple[EncoderSpec, ...]:
        asked.append(model)
        return EncoderSpec("text", str(bert)), EncoderSpec("image", "shufflenet_v2_x0_5", weights=str(shufflenet))

    found = bench(manifest, specs, "cpu", samples=6)
    assert (asked, found["samples"], found["generated"]) == ([None], 6, False)
    text, image = found["modalities"]["text"], found["modalities"]["image"]
    assert (text["items"], image["items"], image["model"]) == (6, 5, "shufflenet_v2_x0_5")
    assert (text["decode"], image["prepare"]) == (None, None)
    assert min(text["prepare"], text["forward"], image["decode"], image["forward"]) > 0
    alone = text["items"] / text["forward"] + image["items"] / image["forward"]
    assert found["forward_seconds"] == pytest.approx(alone, rel=0.1, abs=0.002)
    assert found["seconds"] > 0
    assert set(found["stage_seconds"]) >= {"read and hash", "text: encode", "image: decode", "image: encode", "write"}
    assert sorted(tmp_path.rglob("*")) == sorted({*before, posts.folder, *posts.folder.iterdir()})
    lines = "\n".join(bench_lines(found))
    assert "bare forward, items/s" in lines
    assert "a million samples like these take about" in lines


def test_what_cannot_be_encoded_at_all_is_an_error(posts, shufflenet: Path):
    for number in range(10):
        (posts.folder / f"{number}.png").write_bytes(b"broken")
    spec = EncoderSpec("image", "shufflenet_v2_x0_5", weights=str(shufflenet))
    with pytest.raises(DataError, match="nothing of the first 10 samples"):
        bench(posts.read(), lambda *_: (spec,), "cpu", samples=10)


def test_generated_posts_are_read_and_come_with_a_model(tmp_path: Path):
    model = write_bench_posts(tmp_path, 5)
    manifest = read_manifest(tmp_path / "posts")
    assert (len(manifest.samples), manifest.modalities) == (5, ("text", "image"))
    assert (model / "config.json").is_file()
    again = write_bench_posts(tmp_path / "again", 5)
    assert [one.read_bytes() for one in sorted((tmp_path / "posts").iterdir())] == [
        one.read_bytes() for one in sorted((again.parent / "posts").iterdir())
    ]


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_bare_pass_encodes_every_batch_once_and_one_to_warm_up(runtime: Runtime, replicas: int):
    encoder = Counting()
    batches = [("text", [np.array([number])]) for number in range(20)]
    assert bare_seconds(batches, {"text": encoder}, replicas, runtime.replica) > 0
    assert sorted(encoder.given) == sorted([*range(20), *[0] * replicas])


def test_a_thread_that_fails_holds_no_other():
    first = iter([True])

    def work(start: threading.Barrier) -> None:
        if next(first, False):
            raise MemoryError("full")
        start.wait(timeout=20)

    with pytest.raises(MemoryError, match="full"):
        together(3, work)


def test_a_bare_pass_takes_smaller_batches_where_the_memory_is_full(runtime: Runtime):
    from extract.measure import _bare_seconds_that_fit

    sizes = []

    class Cramped(Counting):
        key = SimpleNamespace(modality="image")

        def encode(self, batch: list[np.ndarray]) -> None:
            sizes.append(len(batch))
            if len(batch) > 3:
                raise torch.OutOfMemoryError("full")

    assert _bare_seconds_that_fit(Cramped(), [np.zeros(1)] * 16, [1] * 16, runtime) > 0
    assert (max(sizes), sizes[-1]) == (8, 2)


def test_the_rate_of_products_is_of_a_plausible_size(runtime: Runtime, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("extract.measure.MATRIX", 256)
    assert 0.1 < matrix_gflops(runtime, "fp32") < 1e6
