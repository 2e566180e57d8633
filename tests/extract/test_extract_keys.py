"""What a stored vector is keyed by: everything that could change it, and nothing else."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cache import EncoderKey, FeatureStore, item_key
from extract import EncoderSpec
from extract.batching import Budget
from extract.encoders import build_encoder
from extract.encoders.picture import Preset
from extract.encoders.text import TextEncoder
from extract.runtime import Runtime

WEIGHT = "encoder.layer.1.output.dense.weight"
FIELDS = (
    *("decoder", "draft", "exif", "colour", "transparency"),
    *("resize", "interpolation", "antialias", "crop", "mean", "std"),
)
Key = Callable[..., EncoderKey]


@pytest.fixture
def model(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "model"))


@pytest.fixture
def text(model: Path, runtime: Runtime) -> Key:
    def key(folder: Path = model, runtime: Runtime = runtime, **options: object) -> EncoderKey:
        return build_encoder(EncoderSpec("text", str(folder), **options), runtime).key

    return key


@pytest.fixture
def image(shufflenet: Path, runtime: Runtime) -> Key:
    def key(weights: Path = shufflenet, runtime: Runtime = runtime, **options: object) -> EncoderKey:
        return build_encoder(EncoderSpec("image", "shufflenet_v2_x0_5", str(weights), **options), runtime).key

    return key


def last_bit(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights[WEIGHT].view(torch.int32)[0, 0] ^= 1
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def other_weights(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    draw = torch.Generator().manual_seed(1)
    drawn = {name: torch.randn(part.shape, generator=draw) for name, part in weights.items()}
    save_file(drawn, model / "model.safetensors", metadata={"format": "pt"})


def swapped_tokens(model: Path) -> None:
    path = model / "vocab.txt"
    size = path.stat().st_size
    words = path.read_text(encoding="utf-8").split("\n")
    words[5], words[6] = words[6], words[5]
    path.write_text("\n".join(words), encoding="utf-8")
    assert path.stat().st_size == size


def set_tokenizer(model: Path, **values: object) -> None:
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def cased(model: Path) -> None:
    set_tokenizer(model, do_lower_case=False)


@pytest.mark.parametrize("change", [last_bit, other_weights, swapped_tokens, cased])
def test_a_changed_file_of_a_text_model_changes_its_key(text: Key, model: Path, change: Callable[[Path], None]):
    before = text()
    change(model)
    assert text().digest != before.digest


@pytest.mark.parametrize("option", [{"max_length": 23}, {"dtype": "float16"}, {"tokens": True}, {"random_init": 0}])
def test_an_option_that_changes_what_is_stored_of_a_text_changes_the_key(text: Key, option: dict[str, Any]):
    assert text(**option).digest != text().digest


@pytest.mark.parametrize(
    ("values", "words"),
    [({"truncation_side": "left"}, "my sun " * 20 + "day"), ({"split_special_tokens": True}, "[SEP]")],
)
def test_what_changes_the_token_ids_changes_the_key(
    model: Path, runtime: Runtime, values: dict[str, object], words: str
):
    spec = EncoderSpec("text", str(model))
    before = TextEncoder(spec, runtime)
    set_tokenizer(model, **values)
    after = TextEncoder(spec, runtime)
    (one,), (two,) = before.prepare([words])[0], after.prepare([words])[0]
    assert np.array_equal(one, two) or before.key.digest != after.key.digest


@pytest.mark.parametrize("option", [{"dtype": "float16"}, {"tokens": True}])
def test_an_option_that_changes_what_is_stored_of_a_picture_changes_the_key(image: Key, option: dict[str, Any]):
    assert image(**option).digest != image().digest


def test_the_last_bit_of_an_image_weight_changes_the_key(image: Key, shufflenet: Path, tmp_path: Path):
    state = torch.load(shufflenet, weights_only=True)
    state["conv5.0.weight"].view(torch.int32)[0, 0] ^= 1
    torch.save(state, tmp_path / "bit.pth")
    assert image(tmp_path / "bit.pth").digest != image().digest


@pytest.mark.parametrize(
    ("name", "value"),
    [("crop", 192), ("resize", 257), ("interpolation", "bicubic"), ("mean", (0.5,) * 3), ("std", (0.3,) * 3)],
)
def test_every_value_of_the_preprocessing_changes_the_key(
    image: Key, monkeypatch: pytest.MonkeyPatch, name: str, value: object
):
    from extract.encoders import picture as module

    before, inner = image(), module.preset_of
    monkeypatch.setattr(module, "preset_of", lambda model: dataclasses.replace(inner(model), **{name: value}))
    assert image().digest != before.digest


@pytest.mark.parametrize("name", FIELDS)
def test_every_named_operation_on_a_picture_changes_the_key(image: Key, monkeypatch: pytest.MonkeyPatch, name: str):
    before, inner = image(), Preset.fields
    monkeypatch.setattr(Preset, "fields", lambda *given: {**inner(*given), name: "another way"})
    assert image().digest != before.digest


def test_all_operations_on_a_picture_are_named(image: Key):
    assert sorted(image().fields["preprocessing"]) == sorted(FIELDS)
    assert {field.name for field in dataclasses.fields(Preset)} <= set(FIELDS)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_every_field_of_a_key_counts(request: pytest.FixtureRequest, modality: str):
    key = request.getfixturevalue(modality)()
    for name in key.fields:
        assert EncoderKey({**key.fields, name: "another"}).digest != key.digest, name
        assert EncoderKey({other: value for other, value in key.fields.items() if other != name}).digest != key.digest


def test_architecture_layer_and_pooling_stand_in_the_key(text: Key, image: Key, runtime: Runtime):
    words, pixels = text(tokens=True).fields, image(tokens=True).fields
    assert (words["architecture"], words["layer"]) == ("transformers/bert", "last hidden state")
    assert words["outputs"] == {"cls": 32, "mean": 32, "tokens": 32}
    assert words["tokens"] == {"layer": "last hidden state", "dtype": "float16"}
    assert (pixels["architecture"], pixels["layer"]) == ("torchvision/shufflenet_v2_x0_5", "input of fc, pooled")
    assert pixels["outputs"] == {"pool": 1024, "tokens": 1024}
    assert pixels["tokens"] == {"layer": "conv5", "dtype": "float16"}
    networks = [EncoderSpec("image", name, random_init=0) for name in ("squeezenet1_0", "squeezenet1_1")]
    names = [build_encoder(spec, runtime).key.fields["architecture"] for spec in networks]
    assert names == ["torchvision/squeezenet1_0", "torchvision/squeezenet1_1"]


def test_where_a_model_lies_and_which_output_is_read_change_no_key(
    text: Key, image: Key, model: Path, shufflenet: Path, tmp_path: Path
):
    shutil.copytree(model, tmp_path / "far" / "away")
    shutil.copy(shufflenet, tmp_path / "renamed.pth")
    assert text(tmp_path / "far" / "away").digest == text().digest == text(output="cls").digest
    assert image(tmp_path / "renamed.pth").digest == image().digest == image(output="pool").digest


def test_device_name_threads_and_budgets_change_no_key(text: Key, image: Key, monkeypatch: pytest.MonkeyPatch):
    before = text().digest, image().digest
    other = Runtime(torch.device("cpu"), "another CPU")
    assert (text(runtime=other).digest, image(runtime=other).digest) == before
    monkeypatch.setattr("extract.runtime.CPU_TEXT", Budget(cost=40, items=3))
    monkeypatch.setattr("extract.runtime.CPU_IMAGE", Budget(cost=1, items=1))
    torch.set_num_threads(2)
    try:
        assert (text().digest, image().digest) == before
    finally:
        torch.set_num_threads(1)


def test_what_the_data_says_of_a_sample_changes_no_key(posts, bench, no_models: Callable[[], None]):
    first = bench.extract(posts.read(), bench.text)
    no_models()
    posts.rows.reverse()
    for row in posts.rows:
        row.update(id=f"new {row['id']}", label="other", group=f"of {row['id']}")
    done = bench.extract(posts.read(), bench.text)
    assert (done.encoded, done.reused) == (0, 10)
    assert np.array_equal(bench.vectors(done, "text"), bench.vectors(first, "text")[::-1])
    assert done.view.blocks["text"].encoder == first.view.blocks["text"].encoder


def test_a_renamed_or_touched_picture_is_the_same_item(posts, bench, no_models: Callable[[], None]):
    bench.extract(posts.read(), bench.image)
    no_models()
    (posts.folder / "3.png").rename(posts.folder / "three.png")
    posts.rows[3]["image"] = "three.png"
    os.utime(posts.folder / "4.png", (1, 1))
    done = bench.extract(posts.read(), bench.image)
    assert (done.encoded, done.reused) == (0, 10)


def test_one_pixel_or_one_byte_makes_another_item(posts, bench):
    done = bench.extract(posts.read(), bench.image)
    before = bench.vectors(done, "image")
    with Image.open(posts.folder / "3.png") as opened:
        pixels = np.array(opened)
    pixels[30, 25] ^= 255
    Image.fromarray(pixels).save(posts.folder / "3.png")
    with (posts.folder / "4.png").open("ab") as file:
        file.write(b"\0")  # behind the picture's end: the same pixels
    done = bench.extract(posts.read(), bench.image)
    after = bench.vectors(done, "image")
    assert (done.encoded, done.reused) == (2, 8)
    assert done.view.blocks["image"].items[4].tobytes() == item_key((posts.folder / "4.png").read_bytes())
    assert not np.array_equal(after[3], before[3])
    np.testing.assert_allclose(after[4], before[4], atol=1e-4, rtol=1e-4)


def test_texts_that_differ_in_case_or_spaces_are_different_items(posts, bench):
    posts.rows[1]["text"], posts.rows[2]["text"] = "Love my day", "love my day"
    assert bench.extract(posts.read(), bench.text).encoded == 10
    assert item_key("love my day") != item_key("love  my day")


@pytest.mark.parametrize("forged", [False, True])
@pytest.mark.parametrize("change", [last_bit, swapped_tokens])
def test_a_changed_model_is_noticed_and_nothing_of_the_old_one_is_reused(
    posts, bench, model: Path, change: Callable[[Path], None], forged: bool
):
    spec = EncoderSpec("text", str(model))
    first = bench.extract(posts.read(), spec)
    vectors = bench.vectors(first, "text")
    before = {path: path.stat() for path in (model, *model.iterdir())}
    change(model)
    if forged:
        for path, state in before.items():
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        found = {path: path.stat() for path in before}
        assert {path: (state.st_size, state.st_mtime_ns) for path, state in found.items()} == {
            path: (state.st_size, state.st_mtime_ns) for path, state in before.items()
        }
    done = bench.extract(posts.read(), spec)
    assert (done.encoded, done.reused) == (10, 0)
    assert done.view.blocks["text"].encoder != first.view.blocks["text"].encoder
    assert len(FeatureStore(bench.store).encoders()) == 2
    assert np.array_equal(bench.vectors(first, "text"), vectors)


def test_changed_image_weights_are_noticed_behind_a_forged_time(posts, bench, tmp_path: Path):
    path, state = tmp_path / "weights.pth", torch.load(bench.shufflenet, weights_only=True)
    torch.save(state, path)
    spec = EncoderSpec("image", "shufflenet_v2_x0_5", weights=str(path))
    bench.extract(posts.read(), spec)
    before = path.stat()
    state["conv5.0.weight"].view(torch.int32)[0, 0] ^= 1
    torch.save(state, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    done = bench.extract(posts.read(), spec)
    assert (done.encoded, done.reused, len(FeatureStore(bench.store).encoders())) == (10, 0, 2)


def test_another_folder_under_the_same_name_is_told(posts, bench):
    bench.extract(posts.read(), bench.text)
    assert bench.extract(posts.read(), bench.text).warnings == []
    posts.folder = Path(shutil.copytree(posts.folder, posts.folder.parent / "others"))
    done = bench.extract(posts.read(), bench.text)
    assert (done.encoded, done.reused) == (0, 10)
    (warning,) = done.warnings
    assert "the data set posts was" in warning
    assert "others now; give another --name to keep both" in warning
