"""Stored vectors compared with what their encoders give now."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cache import CacheIncomplete, DataError, EncoderStore, FeatureStore, ModelError, verify_store
from cache.segment import write_segment
from extract import verify_by_encoding
from extract.batching import Budget
from extract.decode import DecodeError


@pytest.fixture
def verify(bench) -> Callable[..., dict]:
    return lambda rows=10, **options: verify_by_encoding(bench.store, rows, device="cpu", **options)


def store_of(bench, done, modality: str) -> EncoderStore:
    return FeatureStore(bench.store).encoder(done.view.blocks[modality].encoder)


def swap(store: EncoderStore, output: str, one: bytes, two: bytes) -> None:
    """Gives each of two items the other's vector, in a segment whose checksums fit."""
    (segment,) = store.segments()
    items = [row.tobytes() for row in segment.items]
    outputs = {name: np.array(segment.map(name)) for name in segment.outputs}
    outputs[output][[items.index(one), items.index(two)]] = outputs[output][[items.index(two), items.index(one)]]
    write_segment(store.folder, items, outputs, segment.written_by)
    segment.path.unlink()


def test_a_clean_store_has_no_findings(posts, bench, verify, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("extract.runtime.CPU_TEXT", Budget(cost=60, items=4))
    bench.extract(posts.read())
    found = verify()
    assert (found["name"], found["rows"], found["changed"], found["findings"]) == ("posts", 20, 0, [])
    assert found["largest_difference"] < 1e-4


@pytest.mark.parametrize("options", [{"tokens": True}, {"dtype": "float16"}, {"output": "cls"}, {"max_length": 6}])
def test_every_kind_of_stored_vector_is_compared(posts, bench, verify, options: dict):
    bench.extract(posts.read(), dataclasses.replace(bench.text, **options))
    found = verify()
    assert (found["rows"], found["changed"], found["findings"]) == (10, 0, [])
    assert found["largest_difference"] < 2e-3


def test_as_many_rows_are_compared_as_asked_for(posts, bench, verify):
    bench.extract(posts.read())
    assert verify(3)["rows"] == 6
    told = []
    assert verify(2, seed=4, progress=lambda *step: told.append(step)) == verify(2, seed=4)
    assert told[-1] == ("encode image again", 2, 2)


@pytest.mark.parametrize(("modality", "output"), [("text", "mean"), ("image", "pool")])
def test_vectors_in_each_others_place_are_found(posts, bench, verify, modality: str, output: str):
    done = bench.extract(posts.read())
    items = done.view.blocks[modality].items
    store = store_of(bench, done, modality)
    swap(store, output, items[2].tobytes(), items[7].tobytes())
    assert verify_store(FeatureStore(bench.store)).findings == []  # every checksum fits
    found = verify()
    assert sorted(one["problem"].split(" differs")[0] for one in found["findings"]) == [
        f"{modality} of p2",
        f"{modality} of p7",
    ]
    assert {one["file"] for one in found["findings"]} == {str(store.folder)}
    assert found["largest_difference"] > 0.01


def test_missing_and_failed_rows_are_left_out(posts, bench, verify):
    (posts.folder / "3.png").unlink()
    (posts.folder / "5.png").write_bytes(b"<html></html>")
    bench.extract(posts.read(), bench.image)
    assert (verify()["rows"], verify()["changed"]) == (8, 0)


def test_changed_data_is_counted_and_not_compared(posts, bench, verify):
    bench.extract(posts.read())
    posts.rows[1]["text"] = "another text"
    Image.new("RGB", (9, 9)).save(posts.folder / "2.png")
    (posts.folder / "6.png").unlink()
    posts.read()
    found = verify()
    assert (found["rows"], found["changed"], found["findings"]) == (17, 3, [])


def test_data_of_which_nothing_is_left_is_an_error(posts, bench, verify):
    bench.extract(posts.read(), bench.text)
    for row in posts.rows:
        row["text"] += " sun"
    posts.read()
    with pytest.raises(DataError, match="holds none of the contents from which posts was made; give --data"):
        verify()


def test_moved_data_is_given_by_name(posts, bench, verify, tmp_path: Path):
    bench.extract(posts.read())
    shutil.move(posts.folder, tmp_path / "moved")
    with pytest.raises(DataError, match="there is no data at"):
        verify()
    found = verify(data=str(tmp_path / "moved"))
    assert (found["rows"], found["changed"], found["findings"]) == (20, 0, [])


@pytest.mark.parametrize("forged", [False, True])
def test_another_model_in_its_place_is_refused(posts, bench, verify, tmp_path: Path, forged: bool):
    model = Path(shutil.copytree(bench.bert, tmp_path / "model"))
    bench.bert = model
    bench.extract(posts.read(), bench.text)
    weights, before = load_file(model / "model.safetensors"), (model / "model.safetensors").stat()
    weights["encoder.layer.1.output.dense.weight"].view(torch.int32)[0, 0] ^= 1
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    if forged:
        os.utime(model / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ModelError, match="nothing can be compared"):
        verify()
    shutil.rmtree(model)
    with pytest.raises(ModelError, match="cannot load the text model"):
        verify()


def test_what_can_no_more_be_decoded_is_a_finding(posts, bench, verify, monkeypatch: pytest.MonkeyPatch):
    from extract.encoders import picture

    bench.extract(posts.read(), bench.image)
    inner, refused = picture.decoding, (posts.folder / "4.png").read_bytes()

    def decode(raw: bytes, draft: int | None = None) -> AbstractContextManager[Image.Image]:
        if raw == refused:
            raise DecodeError("this decoder is too new")
        return inner(raw, draft)

    monkeypatch.setattr(picture, "decoding", decode)
    found = verify()
    assert found["rows"] == 9
    (finding,) = found["findings"]
    assert finding["problem"] == "image of p4 is stored, but cannot be decoded now: this decoder is too new"


def test_an_encoder_that_gives_nan_now_is_a_finding(posts, bench, verify, monkeypatch: pytest.MonkeyPatch):
    from extract.encoders.text import TextEncoder

    bench.extract(posts.read(), bench.text)
    inner = TextEncoder.encode
    nan = np.float32(np.nan)
    monkeypatch.setattr(TextEncoder, "encode", lambda self, batch: {n: v * nan for n, v in inner(self, batch).items()})
    assert len(verify()["findings"]) == 10


def test_a_store_of_several_data_sets_must_be_told_which(posts, bench, verify):
    with pytest.raises(CacheIncomplete, match="holds none"):
        verify()
    bench.extract(posts.read(), bench.text)
    shutil.copy(bench.store / "posts.view.h5", bench.store / "twice.view.h5")
    with pytest.raises(CacheIncomplete, match="choose one by --name"):
        verify()
    assert verify(name="posts")["rows"] == 10
