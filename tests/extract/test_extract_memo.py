import os
import shutil
from pathlib import Path

import pytest

from extract import EncoderSpec
from extract.encoders import build_encoder
from extract.encoders.memo import MEMO_FILE, recall, remember
from extract.runtime import Runtime


@pytest.fixture
def model(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "model"))


def load_and_remember(root: Path, spec: EncoderSpec, runtime: Runtime) -> None:
    encoder = build_encoder(spec, runtime)
    remember(root, spec, encoder.key, encoder.files)


@pytest.fixture
def text(model: Path, tmp_path: Path, runtime: Runtime) -> EncoderSpec:
    """A text encoder whose key is remembered in `tmp_path`."""
    spec = EncoderSpec("text", str(model))
    load_and_remember(tmp_path, spec, runtime)
    return spec


def test_a_key_is_recalled_as_loading_gives_it(text: EncoderSpec, tmp_path: Path, runtime: Runtime, shufflenet: Path):
    image = EncoderSpec("image", "shufflenet_v2_x0_5", weights=str(shufflenet))
    untrained = EncoderSpec("image", "squeezenet1_1", random_init=3)
    for spec in (image, untrained):
        assert recall(tmp_path, spec) is None
        load_and_remember(tmp_path, spec, runtime)
    for spec in (text, image, untrained):
        assert recall(tmp_path, spec) == build_encoder(spec, runtime).key


def test_what_changes_the_key_is_not_recalled_and_the_output_is(text: EncoderSpec, tmp_path: Path):
    assert recall(tmp_path, EncoderSpec("text", text.model, output="cls")) == recall(tmp_path, text)
    for other in ({"max_length": 9}, {"random_init": 0}):
        assert recall(tmp_path, EncoderSpec("text", text.model, **other)) is None


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors"])
def test_a_changed_file_is_noticed(text: EncoderSpec, tmp_path: Path, model: Path, name: str):
    path = model / name
    stamp = path.stat().st_mtime_ns
    raw = path.read_bytes()
    path.write_bytes(raw + b"\n")
    os.utime(path, ns=(stamp, stamp))
    assert recall(tmp_path, text) is None
    path.write_bytes(raw[:-1] + b"?")
    os.utime(path, ns=(stamp, stamp))  # size and time as before; the time of change cannot be set
    assert recall(tmp_path, text) is None
    os.utime(path, ns=(stamp, stamp + 1_000_000))
    assert recall(tmp_path, text) is None


def test_a_removed_file_is_noticed(text: EncoderSpec, tmp_path: Path, model: Path):
    (model / "vocab.txt").unlink()
    assert recall(tmp_path, text) is None


def test_an_added_file_that_changes_the_key_is_noticed(
    text: EncoderSpec, tmp_path: Path, model: Path, runtime: Runtime
):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.backend_tokenizer.add_tokens(["my day"])
    tokenizer.backend_tokenizer.save(str(model / "tokenizer.json"))
    found = recall(tmp_path, text)
    assert found is None or found == build_encoder(text, runtime).key


def test_a_relative_path_means_the_folder_that_it_meant(
    text: EncoderSpec, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(model.parent)
    assert recall(tmp_path, EncoderSpec("text", "model")) == recall(tmp_path, text)
    other = tmp_path / "elsewhere"
    shutil.copytree(model, other / "model")
    monkeypatch.chdir(other)
    assert recall(tmp_path, EncoderSpec("text", "model")) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00", None])
def test_a_lost_or_damaged_memory_recalls_nothing(text: EncoderSpec, tmp_path: Path, content: bytes | None):
    path = tmp_path / MEMO_FILE
    path.unlink() if content is None else path.write_bytes(content)
    assert recall(tmp_path, text) is None
