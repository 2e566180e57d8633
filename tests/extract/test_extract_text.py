import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cache import ModelError, PipelineError, UsageError
from extract import EncoderSpec
from extract.encoders.text import TextEncoder
from extract.runtime import Runtime

TEXTS = ["the day", "", "love " * 40, "rain suns", "a great my awful city?", "unknownword", "home " * 22]
POSITIONS = 24
Build = Callable[..., TextEncoder]


@pytest.fixture
def build(runtime: Runtime, bert: Path) -> Build:
    def build(folder: Path = bert, **options: object) -> TextEncoder:
        return TextEncoder(EncoderSpec("text", str(folder), **options), runtime)

    return build


@pytest.fixture
def copy(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "elsewhere" / "renamed"))


def set_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def test_both_outputs_equal_transformers_on_each_text_alone(build: Build, bert_alone):
    encoder = build()
    lights, costs = encoder.prepare(TEXTS)
    assert costs == [4, 2, 24, 5, 8, 3, 24]
    found = encoder.encode([encoder.decode(light) for light in lights])
    mean, cls = (np.stack(column) for column in zip(*map(bert_alone, TEXTS), strict=True))
    assert found["mean"].dtype == np.float32
    np.testing.assert_allclose(found["mean"], mean, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found["cls"], cls, atol=1e-5, rtol=0)
    assert np.abs(mean[0] - mean[1]).max() > 0.1  # the model tells texts apart


def test_texts_above_the_longest_input_are_cut_and_counted(build: Build):
    encoder = build()
    encoder.prepare(TEXTS)
    assert encoder.truncated == 1  # "home" times 22 just fits
    short = build(max_length=5)
    lights, _ = short.prepare(["a day my city", "a day"])
    assert [len(light) for light in lights] == [5, 4]
    assert short.truncated == 1


def test_longest_input_must_fit_the_model(build: Build):
    for length in (2, 25):
        with pytest.raises(UsageError, match=f"--max-length {length}: .* takes 3 to 24 tokens"):
            build(max_length=length)


def test_dropout_is_off(build: Build):
    encoder = build()
    lights, _ = encoder.prepare(TEXTS)
    assert np.array_equal(encoder.encode(lights)["mean"], encoder.encode(lights)["mean"])


def test_lone_surrogates_are_encoded(build: Build):
    encoder = build()
    lights, _ = encoder.prepare(["the \ud800 day"])
    assert np.isfinite(encoder.encode(lights)["mean"]).all()


def test_key_does_not_depend_on_where_the_model_lies_or_which_output_is_read(build: Build, copy: Path):
    key = build().key.digest
    assert build(copy).key.digest == key
    assert build(output="cls").key.digest == key
    set_config(copy, architectures=["BertForMaskedLM"], transformers_version="4.0.0", _name_or_path="x")
    assert build(copy).key.digest == key


def test_key_does_not_depend_on_weights_that_no_output_uses(build: Build, copy: Path):
    weights = load_file(copy / "model.safetensors")
    dropped = {name: part for name, part in weights.items() if not name.startswith("pooler.")}
    save_file(dropped, copy / "model.safetensors", metadata={"format": "pt"})
    assert build(copy).key.digest == build().key.digest


def test_key_depends_on_the_last_bit_of_a_weight(build: Build, copy: Path):
    weights = load_file(copy / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"].view(torch.int32)[0, 0] ^= 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert build(copy).key.digest != build().key.digest


def test_key_depends_on_vocabulary_casing_length_seed_and_config(build: Build, copy: Path):
    keys = {
        "as it is": build(),
        "max_length": build(max_length=23),
        "seed 0": build(random_init=0),
        "seed 1": build(random_init=1),
    }
    words = (copy / "vocab.txt").read_text(encoding="utf-8").split("\n")
    words[5], words[6] = words[6], words[5]
    (copy / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    keys["vocab"] = build(copy)
    words[5], words[6] = words[6], words[5]
    (copy / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    for name, value in (("layer_norm_eps", 1e-6), ("hidden_act", "relu"), ("num_attention_heads", 8)):
        before = (copy / "config.json").read_text(encoding="utf-8")
        set_config(copy, **{name: value})
        keys[name] = build(copy)
        (copy / "config.json").write_text(before, encoding="utf-8")
    tokenizer = json.loads((copy / "tokenizer_config.json").read_text(encoding="utf-8"))
    (copy / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "do_lower_case": False}), encoding="utf-8")
    keys["case"] = build(copy)
    digests = {name: encoder.key.digest for name, encoder in keys.items()}
    assert len(set(digests.values())) == len(digests), digests


def test_random_weights_are_those_of_the_seed_and_leave_the_global_generator_alone(build: Build):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = build(random_init=7)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert build(random_init=7).key.digest == first.key.digest
    assert build(random_init=11).key.digest == build().key.digest  # the seed of which the saved weights are


def test_a_file_of_weights_is_not_ignored(build: Build, tmp_path: Path):
    with pytest.raises(PipelineError, match="weights"):
        build(weights=str(tmp_path / "nowhere.safetensors"))


def test_missing_models_say_where_they_were_looked_for(build: Build, tmp_path: Path, copy: Path):
    with pytest.raises(ModelError, match=r"cannot load the text model '.*nowhere'.* Give a folder with config\.json"):
        build(tmp_path / "nowhere")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"looked for in the folder .*renamed: .*model\.safetensors.*--random-init"):
        build(copy)
    assert build(copy, random_init=0).key.digest == build(random_init=0).key.digest


@pytest.mark.parametrize("length", ["x", -5, 0, 2, [32], float("nan")])
def test_a_longest_text_that_is_none_is_refused(build: Build, copy: Path, length: object):
    settings = json.loads((copy / "tokenizer_config.json").read_text(encoding="utf-8"))
    (copy / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": length}), encoding="utf-8")
    with pytest.raises(ModelError, match="model_max_length"):
        build(copy)


@pytest.mark.parametrize("name", ["vocab.txt", "config.json"])
def test_missing_parts_of_a_model_are_refused(build: Build, copy: Path, name: str):
    (copy / name).unlink()
    with pytest.raises(ModelError, match="cannot load the text model"):
        build(copy)


@pytest.mark.parametrize("length", [0, 100, 5000])
def test_half_files_of_weights_are_refused(build: Build, copy: Path, length: int):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError, match="cannot load the text model"):
        build(copy)


def test_broken_configs_are_refused(build: Build, copy: Path):
    set_config(copy, hidden_size="wide")
    with pytest.raises(ModelError, match="cannot load the text model"):
        build(copy)
    (copy / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot load the text model"):
        build(copy)


def test_weights_that_lack_a_tensor_are_refused_by_name(build: Build, copy: Path):
    weights = load_file(copy / "model.safetensors")
    del weights["encoder.layer.0.output.dense.bias"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 missing \(encoder\.layer\.0\.output\.dense\.bias\)"):
        build(copy)


def test_weights_of_another_shape_are_refused_by_name(build: Build, copy: Path):
    weights = load_file(copy / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"] = torch.zeros(31)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"encoder\.layer\.0\.output\.dense\.bias"):
        build(copy)


def test_a_vocabulary_larger_than_the_model_is_refused(build: Build, copy: Path):
    with (copy / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("zebra\n")
    with pytest.raises(ModelError, match="vocab"):
        build(copy)


@pytest.mark.parametrize("kind", ["wordpiece", "byte pairs", "no words"])
def test_the_start_of_a_long_text_has_the_tokens_of_the_whole(kind: str, monkeypatch: pytest.MonkeyPatch):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from extract.encoders import text as module

    draw = random.Random(4)  # noqa: S311
    parts = [
        "love",
        " ",
        "  ",
        "\n",
        "the",
        "ing",
        "!",
        ",",
        "今天",
        "é",
        "a\u0301",
        "x" * 150,
        "city",
        "'s",
        "\t",
        "🙂",
    ]
    texts = ["".join(draw.choices(parts, k=draw.randint(1, 400))) for _ in range(150)]
    make = {"wordpiece": trainers.WordPieceTrainer, "byte pairs": trainers.BpeTrainer, "no words": trainers.BpeTrainer}
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]") if kind == "wordpiece" else models.BPE())  # noqa: S106
    if kind == "byte pairs":
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    elif kind == "wordpiece":
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(texts[:50], make[kind](vocab_size=150, special_tokens=["[UNK]"], show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")  # noqa: S106
    whole = [module.token_ids(tokenizer, [text], 20) for text in texts]
    cut = []

    def start_of(*args: object, inner=module._start_of) -> str:
        cut.append(inner(*args) != args[1])
        return inner(*args)

    monkeypatch.setattr(module, "LETTERS_A_TOKEN", 3)
    monkeypatch.setattr(module, "_start_of", start_of)
    for text, (ids, truncated) in zip(texts, whole, strict=True):
        found = module.token_ids(tokenizer, [text], 20)
        assert (found[0][0].tolist(), found[1]) == (ids[0].tolist(), truncated)
    assert (sum(cut) > 40) == (kind != "no words")


LONG = {
    "words": "the great street and my home, ",
    "one word": "x",
    "signs without spaces": "home!coffee?",
    "chinese": "今天天气很好",
    "blanks, then words": " " * 40_000 + "the rain ",
    "long words": "home" * 30 + " sun ",
    "marks that combine": "e\u0301\u0300 day ",
}


@pytest.mark.parametrize("name", LONG)
def test_long_texts_are_cut_to_the_pieces_that_they_have_as_a_whole(bert: Path, name: str):
    from transformers import BertTokenizerFast

    from extract.encoders import text as module

    tokenizer = BertTokenizerFast.from_pretrained(bert)
    first = POSITIONS * module.LETTERS_A_TOKEN
    for length in (first - 1, first, first + 1, 90_000):
        content = (LONG[name] * (length // len(LONG[name]) + 1))[:length]
        ids, truncated = module.token_ids(tokenizer, [content, "a day"], POSITIONS)
        whole = tokenizer([content, "a day"], truncation=True, max_length=POSITIONS)
        assert [one.tolist() for one in ids] == whole["input_ids"]
        assert truncated == sum(bool(one.overflowing) for one in whole.encodings)
