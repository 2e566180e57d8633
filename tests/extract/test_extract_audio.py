"""Audio files by speech models: wav2vec 2.0 of both kinds, HuBERT."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache import FAILED, MISSING, DataError, EncoderKey, FeatureStore, ModelError, Ragged, UsageError, table_of
from extract import EncoderSpec, Manifest, choose_specs, found_in, originals, read_manifest
from extract.batching import Budget
from extract.deep import verify_by_encoding
from extract.encoders.audio import AudioEncoder
from extract.manifest import Aligned
from extract.sound import read_clip
from tests.extract.audio_data import RATE, speech_model, tone, wav

LENGTHS = (0.9, 0.3, 0.62, 0.3, 0.05, 0.41, 0.3, 0.77)
KINDS = ("group", "layer", "hubert")


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with tiny models; copy one before changing it."""
    folder = tmp_path_factory.mktemp("speech")
    return {kind: speech_model(folder / kind, kind) for kind in KINDS}


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A table of 8 clips of several lengths, three of them of one."""
    folder = tmp_path / "clips"
    folder.mkdir()
    rows = ["id,clip,label"]
    for number, seconds in enumerate(LENGTHS):
        (folder / f"{number}.wav").write_bytes(wav(tone(seconds, seed=number)))
        rows.append(f"c{number},{number}.wav,{'xy'[number % 2]}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def read(folder: Path, **columns: str) -> Manifest:
    return read_manifest(folder, columns=columns or {"audio": "clip"})


def chosen(manifest: Manifest, model: Path, **options: Any) -> EncoderSpec:
    given = {"audio": {"model": str(model), **options}}
    return choose_specs(manifest.modalities, given, {}, {}, found_in(manifest))[0]


def alone(model: Path, clip: np.ndarray) -> np.ndarray:
    """REFERENCE: the frames of one clip by transformers itself, without any batch or padding, `(T, D)`."""
    from transformers import AutoFeatureExtractor, AutoModel

    extractor = AutoFeatureExtractor.from_pretrained(model)
    given = extractor(clip, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        return AutoModel.from_pretrained(model).eval()(given["input_values"]).last_hidden_state[0].numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_transformers_on_one_clip(clips: Path, bench, speech, kind: str):
    manifest = read(clips)
    done = bench.extract(manifest, chosen(manifest, speech[kind], tokens=True))
    assert (done.encoded, done.failed_ids, done.truncated) == (8, [], 0)
    table = table_of(FeatureStore(bench.store), done.view)
    for number in range(8):
        states = alone(speech[kind], read_clip((clips / f"{number}.wav").read_bytes(), RATE, 30))
        np.testing.assert_allclose(table.block("audio")[number], states.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(table.tokens("audio")[number], states, atol=5e-3)
        assert table.tokens("audio")[number].shape == states.shape


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fused", [True, False])
def test_a_vector_does_not_depend_on_its_batch(clips: Path, speech, runtime, kind: str, fused: bool, monkeypatch):
    monkeypatch.setattr("extract.runtime.Runtime.fused", fused and runtime.fused)
    encoder = AudioEncoder(EncoderSpec("audio", str(speech[kind]), tokens=True), runtime)
    inputs = [encoder.decode((clips / f"{number}.wav").read_bytes()) for number in range(8)]
    inputs.append(encoder.blank())
    single = [encoder.encode([one]) for one in inputs]
    for order in (np.arange(9), np.arange(9)[::-1], np.array([4, 0]), np.array([1, 3, 4, 6])):
        found = encoder.encode([inputs[number] for number in order])
        assert isinstance(found["tokens"], Ragged)
        for place, number in enumerate(order.tolist()):
            np.testing.assert_allclose(found["mean"][place], single[number]["mean"][0], atol=1e-5)
            np.testing.assert_allclose(found["tokens"][place], single[number]["tokens"][0], atol=1e-5)


def test_clips_are_padded_only_where_it_leaves_no_trace(speech, runtime, tmp_path: Path, monkeypatch):
    calls: list[int] = []
    inner = AudioEncoder._hidden
    monkeypatch.setattr(AudioEncoder, "_hidden", lambda self, found: calls.append(len(found)) or inner(self, found))
    unlike = {
        "adapter": speech_model(tmp_path / "a", "layer", add_adapter=True, output_hidden_size=12, num_adapter_layers=1),
        "batch norm": speech_model(tmp_path / "b", "hubert", conv_pos_batch_norm=True),
    }
    expected = {"group": [1, 2], "layer": [3], "hubert": [3], "adapter": [1, 2], "batch norm": [1, 2]}
    for kind, folder in {**speech, **unlike}.items():
        encoder = AudioEncoder(EncoderSpec("audio", str(folder)), runtime)
        made = [encoder.decode(wav(tone(seconds, seed=seed))) for seed, seconds in enumerate((0.5, 0.2, 0.2))]
        calls.clear()
        found = encoder.encode(made)["mean"]
        assert sorted(calls) == expected[kind], kind
        for number, one in enumerate(made):
            np.testing.assert_allclose(found[number], encoder.encode([one])["mean"][0], atol=1e-5)
        clip = read_clip(wav(tone(0.5, seed=0)), RATE, 30)
        np.testing.assert_allclose(found[0], alone(folder, clip).mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_batches_order_and_resume_leave_vectors_as_they_are(
    clips: Path, bench, speech, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    manifest = read(clips)
    spec = chosen(manifest, speech[kind], tokens=True)
    whole = bench.extract(manifest, spec)
    vectors = bench.vectors(whole, "audio")
    bench.store = tmp_path / "other"
    monkeypatch.setattr("extract.runtime.CPU_AUDIO", Budget(cost=8, items=3))
    turned = dataclasses.replace(manifest, samples=manifest.samples[::-1])
    inner, calls = AudioEncoder.encode, []

    def stops(self, batch):
        calls.append(len(batch))
        if len(calls) == 3:
            raise RuntimeError("stopped")
        return inner(self, batch)

    monkeypatch.setattr(AudioEncoder, "encode", stops)
    with pytest.raises(RuntimeError, match="stopped"):
        bench.extract(turned, spec)
    done = bench.extract(turned, spec)
    assert max(calls) <= 3
    assert done.encoded + done.reused == 8
    assert done.view.blocks["audio"].encoder == whole.view.blocks["audio"].encoder
    np.testing.assert_allclose(bench.vectors(done, "audio")[::-1], vectors, atol=1e-5)


def test_broken_clips_are_recorded_and_move_no_other_row(clips: Path, bench, speech, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    good = (clips / "0.wav").read_bytes()
    reasons = {
        0: "the WAV file is cut off: it has 14300 of the 14400 frames that its header promises",
        1: "the file is empty",
        2: "no audio file that is known",
        3: "the clip has no samples",
        4: "the clip is too short for the model: 0.625 ms",
        5: "it needs soundfile, which decodes FLAC, MP3, Ogg and WAV that is not PCM: pip install soundfile",
    }
    broken = (good[:-200], b"", b"<html></html>", wav(np.zeros((0, 1))), wav(np.zeros((10, 1))), b"fLaC" + good)
    for number, raw in enumerate(broken):
        (clips / f"{number}.wav").write_bytes(raw)
    (clips / "6.wav").unlink()
    manifest = read(clips)
    done = bench.extract(manifest, chosen(manifest, speech["layer"]))
    recorded = {one["id"]: one["reason"] for one in bench.failures(done, "audio")}
    assert sorted(recorded) == [f"c{number}" for number in reasons]
    for number, reason in reasons.items():
        assert reason in recorded[f"c{number}"]
    assert done.view.blocks["audio"].state.tolist() == [FAILED] * 6 + [MISSING, 1]
    states = alone(speech["layer"], read_clip((clips / "7.wav").read_bytes(), RATE, 30))
    np.testing.assert_allclose(bench.vectors(done, "audio")[7], states.mean(axis=0), atol=1e-5)


def test_long_clips_are_cut_and_counted(clips: Path, bench, speech):
    (clips / "0.wav").write_bytes(wav(tone(2.5, 8000), 8000))
    manifest = read(clips)
    done = bench.extract(manifest, chosen(manifest, speech["layer"], max_length=1, tokens=True))
    assert (done.truncated, done.failed_ids) == (1, [])
    states = alone(speech["layer"], read_clip((clips / "0.wav").read_bytes(), RATE, 1))
    np.testing.assert_allclose(bench.vectors(done, "audio")[0], states.mean(axis=0), atol=1e-5)
    whole = bench.extract(manifest, chosen(manifest, speech["layer"]))
    assert whole.truncated == 0
    assert whole.view.blocks["audio"].encoder != done.view.blocks["audio"].encoder


def test_two_columns_of_clips_share_one_store(clips: Path, bench, speech):
    (clips / "clips.csv").write_text("id,one,two\n1,0.wav,1.wav\n2,1.wav,\n")
    manifest = read(clips, audio="one", audio_2="two")
    given = {"audio": {"model": str(speech["layer"])}}
    specs = choose_specs(manifest.modalities, given, {}, {}, found_in(manifest))
    assert [spec.kind for spec in specs] == ["audio", "audio"]
    done = bench.extract(manifest, *specs)
    assert done.encoded == 2
    np.testing.assert_array_equal(bench.vectors(done, "audio_2")[0], bench.vectors(done, "audio")[1])
    assert originals(done.view, ["1"]).left_out == 0


def test_clips_beside_words_are_not_aligned_and_arrays_stay_arrays(tmp_path: Path):
    rows = [{"words": ["a", "day"], "one": "a.wav", "two": "b.npy"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    np.save(tmp_path / "b.npy", np.ones((2, 3)))
    manifest = read(tmp_path, words="words", audio="one", audio_2="two")
    assert manifest.samples[0].inputs["audio"] == tmp_path / "a.wav"
    assert isinstance(manifest.samples[0].inputs["audio_2"], Aligned)
    found = found_in(manifest)
    assert found["audio"] == {"model": "", "precision": "fp32"}
    assert found["audio_2"] == {"model": "array", "precision": "fp32", "width": 3, "aligned": True}


def test_audio_files_need_a_model(clips: Path):
    manifest = read(clips)
    message = "audio holds audio files, for which there is no default model; give one by --audio-model NAME_OR_FOLDER"
    with pytest.raises(UsageError, match=message):
        choose_specs(manifest.modalities, {}, {}, {}, found_in(manifest))
    with pytest.raises(UsageError, match=message):
        choose_specs(["audio"], {}, {"": 0}, {})


def test_compressed_files_without_soundfile_are_refused_at_once(clips: Path, monkeypatch: pytest.MonkeyPatch):
    (clips / "clips.csv").write_text("id,clip\n1,0.wav\n2,1.MP3\n3,2.flac\n")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(
        UsageError, match=r"2 of the 3 files of audio are no WAV, such as 1.MP3, .* pip install soundfile"
    ):
        found_in(read(clips))


@pytest.fixture
def key(speech, runtime) -> Callable[..., EncoderKey]:
    def made(model: Path | None = None, **options: Any) -> EncoderKey:
        return AudioEncoder(EncoderSpec("audio", str(model or speech["layer"]), **options), runtime).key

    return made


@pytest.mark.parametrize(
    "option", [{"max_length": 29}, {"tokens": True}, {"dtype": "float16"}, {"precision": "bf16"}, {"random_init": 1}]
)
def test_what_changes_a_vector_changes_the_key(key, option: dict[str, Any]):
    assert key(**option).digest != key().digest
    assert key().digest == key(max_length=30).digest


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("preprocessor_config.json", "do_normalize", False),
        ("preprocessor_config.json", "sampling_rate", 8000),
        ("preprocessor_config.json", "padding_value", 0.5),
        ("config.json", "layer_norm_eps", 1e-3),
        ("config.json", "hidden_act", "relu"),
    ],
)
def test_settings_of_the_model_change_the_key(key, speech, tmp_path: Path, file: str, field: str, value: Any):
    folder = shutil.copytree(speech["layer"], tmp_path / "other")
    content = json.loads((folder / file).read_text())
    assert content.get(field) != value
    (folder / file).write_text(json.dumps({**content, field: value}))
    assert key(folder).digest != key().digest


def test_weights_change_the_key_and_the_place_does_not(key, speech, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(speech["layer"], tmp_path / "other")
    assert key(folder).digest == key().digest
    weights = load_file(folder / "model.safetensors")
    # Drawn anew at each loading where a checkpoint lacks it, and of no use but in training.
    weights.pop("masked_spec_embed")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert key(folder).digest == key(folder).digest == key().digest
    name = next(name for name in weights if name.startswith("encoder.layers.0"))
    save_file({**weights, name: weights[name] + 1e-3}, folder / "model.safetensors", {"format": "pt"})
    assert key(folder).digest != key().digest
    del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"do not fit its config.json: 1 missing \(encoder"):
        key(folder)


def test_what_is_no_speech_model_is_said(key, bert: Path, speech, tmp_path: Path):
    with pytest.raises(ModelError, match=r"cannot load the audio model '.*nowhere'.*by --audio-model FOLDER"):
        key(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"cannot load the audio model '.*bert'"):
        key(bert)
    folder = shutil.copytree(bert, tmp_path / "both")
    shutil.copy(speech["group"] / "preprocessor_config.json", folder)
    with pytest.raises(ModelError, match="is a bert, which is no encoder of waveforms"):
        key(folder)
    with pytest.raises(UsageError, match="--max-seconds 0: a clip keeps 1 second or more"):
        key(max_length=0)


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_bfloat16_is_near_float32(clips: Path, speech, runtime, kind: str):
    both = [AudioEncoder(EncoderSpec("audio", str(speech[kind]), precision=name), runtime) for name in ("fp32", "bf16")]
    inputs = [both[0].decode((clips / f"{number}.wav").read_bytes()) for number in range(8)]
    one, two = (encoder.encode(inputs)["mean"] for encoder in both)
    cosine = (one * two).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    assert cosine.min() > 0.99


def test_again_loads_no_model_and_what_is_stored_is_found_by_encoding(
    clips: Path, bench, speech, no_models: Callable[[], None]
):
    manifest = read(clips)
    spec = chosen(manifest, speech["group"], tokens=True)
    done = bench.extract(manifest, spec)
    result = verify_by_encoding(bench.store, 4, device="cpu")
    assert (result["rows"], result["changed"], result["findings"]) == (4, 0, [])
    no_models()
    assert bench.extract(manifest, spec).encoded == 0
    base = {"audio": json.loads(json.dumps(done.view.blocks["audio"].spec))}
    assert choose_specs(["audio"], {}, {}, base) == (spec,)


def test_a_run_on_clips_is_not_given_arrays(clips: Path, bench, speech):
    manifest = read(clips)
    spec = chosen(manifest, speech["layer"])
    done = bench.extract(manifest, spec)
    np.save(clips / "a.npy", np.ones((2, 3)))
    (clips / "clips.csv").write_text("id,clip\n1,a.npy\n")
    expected = {"audio": done.view.blocks["audio"].encoder}
    again = bench.extract(read(clips), spec, expected=expected)
    assert [one.reason for one in again.failures["audio"]] == [
        "no audio file that is known: expected WAV, FLAC, MP3 or Ogg"
    ]
    with pytest.raises(DataError, match="has no audio_2"):
        found_in(manifest, ["audio_2"])
