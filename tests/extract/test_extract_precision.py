"""Float32 or bfloat16: what is measured, what is remembered, and what the store decides."""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from cache import KEY_SCHEMA, EncoderKey, FeatureStore, UsageError
from extract import EncoderSpec
from extract.decode import DecodeError
from extract.encoders import build_encoder
from extract.encoders.spec import BrokenInputs
from extract.precision import choose_precision, probe_contents
from extract.runtime import Runtime

Choose = Callable[..., tuple[str, str]]
TEXTS = ["one", "two", "three"]


class Fake:
    """An encoder that takes so many seconds for a batch, and gives one vector for each text."""

    key = EncoderKey({"schema": KEY_SCHEMA, "modality": "text", "outputs": {"mean": 2}, "dtype": "float32"})
    files = ()
    truncated = 0

    def __init__(self, seconds: float, vector: Sequence[float] = (3.0, 4.0), last: Sequence[float] | None = None):
        self.seconds = seconds
        self.vector, self.last = vector, vector if last is None else last
        self.given: list[str] = []

    def prepare(self, contents: Sequence[str | Path]) -> tuple[list[object], list[int]]:
        self.truncated += 1
        return list(contents), [1 if isinstance(one, Path) else len(one) for one in contents]

    def decode(self, light: str | bytes) -> np.ndarray:
        text = light.decode() if isinstance(light, bytes) else light
        if text.startswith("bad"):
            raise DecodeError(f"{text} is bad")
        return np.array([text])

    def encode(self, batch: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        self.given = [str(one[0]) for one in batch]
        time.sleep(self.seconds)
        return {"mean": np.array([self.vector] * (len(batch) - 1) + [self.last], dtype=np.float32)}


@pytest.fixture
def choose(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Choose:
    monkeypatch.setattr("extract.precision.FASTER", 1.2)

    def choose(full: Fake, half: Fake, contents: Sequence[str | Path] = TEXTS) -> tuple[str, str]:
        return choose_precision(full, half, contents, runtime)

    return choose


SLOW, FAST = 0.03, 0.003


def at_cosine(cosine: float) -> list[float]:
    """A vector at that cosine to (3, 4)."""
    along, across = np.array([0.6, 0.8]), np.array([-0.8, 0.6])
    return (2 * (cosine * along + np.sqrt(1 - cosine**2) * across)).tolist()


def test_what_is_faster_and_equal_is_taken(choose: Choose):
    precision, why = choose(Fake(SLOW), Fake(FAST))
    assert precision == "bf16"
    assert "times as fast as fp32 here, cosine 1.00000, on 3 samples" in why


@pytest.mark.parametrize(("cosine", "expected"), [(0.99, "fp32"), (0.9985, "fp32"), (0.9995, "bf16"), (-1.0, "fp32")])
def test_the_vector_farthest_off_decides(choose: Choose, cosine: float, expected: str):
    precision, why = choose(Fake(SLOW), Fake(FAST, last=at_cosine(cosine)))
    assert precision == expected
    assert f"cosine {cosine:.5f}" in why


@pytest.mark.parametrize(("full", "half"), [(FAST, SLOW), (SLOW, SLOW)])
def test_what_is_not_clearly_faster_is_not_taken(choose: Choose, full: float, half: float):
    assert choose(Fake(full), Fake(half))[0] == "fp32"


@pytest.mark.parametrize(
    ("full", "half", "expected"),
    [
        ((3.0, 4.0), (np.nan, 4.0), "fp32"),
        ((np.nan, 4.0), (np.nan, 4.0), "fp32"),
        ((3.0, 4.0), (0.0, 0.0), "fp32"),
        ((0.0, 0.0), (0.0, 1e-3), "fp32"),
        ((0.0, 0.0), (0.0, 0.0), "bf16"),
    ],
)
def test_nan_and_zeros(choose: Choose, full: tuple[float, ...], half: tuple[float, ...], expected: str):
    assert choose(Fake(SLOW, last=full), Fake(FAST, last=half))[0] == expected


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_infinite_values_are_not_close(choose: Choose):
    assert choose(Fake(SLOW), Fake(FAST, last=(np.inf, 4.0)))[0] == "fp32"


def test_infinite_values_are_not_close_and_no_warning_is_shown(choose: Choose):
    assert choose(Fake(SLOW), Fake(FAST, last=(np.inf, 4.0)))[0] == "fp32"


@pytest.mark.parametrize("contents", [[], ["bad1", "bad2"], [Path("nowhere")]])
def test_without_anything_decodable_it_is_float32(choose: Choose, contents: Sequence[str | Path]):
    assert choose(Fake(0), Fake(0), contents) == ("fp32", "nothing could be decoded to measure bf16 on")


def test_broken_and_absent_contents_are_passed_over(choose: Choose, tmp_path: Path):
    (tmp_path / "file").write_text("sound")
    contents = ["bad1", tmp_path / "nowhere", tmp_path / "file", "bad2", "last", *map(str, range(20))]
    full, half = Fake(SLOW), Fake(FAST)
    precision, why = choose(full, half, contents)
    assert (precision, why.endswith("on 8 samples")) == ("bf16", True)
    assert set(full.given) == set(half.given) == {"sound", "last", *map(str, range(6))}
    assert (full.truncated, half.truncated) == (0, 0)  # the extraction itself counts


def test_what_breaks_only_in_the_model_does_not_stop_the_choice(choose: Choose):
    class Fragile(Fake):
        def encode(self, batch: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
            if broken := [one for one in batch if one[0] == "late"]:
                raise BrokenInputs(broken[:1], "late is broken")
            return super().encode(batch)

    assert choose(Fragile(SLOW), Fragile(FAST), ["late", "one", "two"])[0] == "bf16"


def test_only_the_first_samples_of_the_modality_are_probed(posts):
    for row in posts.rows[:3]:
        row["text"] = ""
    manifest = posts.read()
    texts = [sample.inputs["text"] for sample in manifest.samples if "text" in sample.inputs]
    assert len(texts) == 7
    assert probe_contents(manifest.samples, "text") == texts
    assert len(probe_contents(manifest.samples * 20, "text")) == 64


def has_bf16(monkeypatch: pytest.MonkeyPatch, yes: bool) -> None:
    monkeypatch.setattr("extract.runtime.Runtime.has_bf16", property(lambda _: yes))


@pytest.fixture
def half_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.precision.FASTER", 0.0)
    monkeypatch.setattr("extract.precision.COSINE", 0.9)
    has_bf16(monkeypatch, True)


def auto(spec: EncoderSpec) -> EncoderSpec:
    return dataclasses.replace(spec, precision="auto")


def half(spec: EncoderSpec) -> EncoderSpec:
    return dataclasses.replace(spec, precision="bf16")


@pytest.mark.usefixtures("half_wins")
@pytest.mark.parametrize("modality", ["text", "image"])
def test_auto_takes_what_is_faster_and_keeps_to_it(posts, bench, no_models, modality: str):
    spec = auto(getattr(bench, modality))
    first = bench.extract(posts.read(), spec)
    assert first.precision[modality][0] == "bf16"
    assert "times as fast" in first.precision[modality][1]
    assert first.view.blocks[modality].spec["precision"] == "bf16"
    no_models()
    again = bench.extract(posts.read(), spec)
    assert again.precision == {modality: ("bf16", "as the store has it")}
    assert (again.encoded, again.reused) == (0, 10)


@pytest.mark.parametrize("kept", ["fp32", "bf16"])
@pytest.mark.parametrize("forgotten", [False, True])
def test_auto_keeps_what_the_store_has(
    posts, bench, no_models, monkeypatch: pytest.MonkeyPatch, kept: str, forgotten: bool
):
    has_bf16(monkeypatch, True)
    monkeypatch.setattr("extract.precision.FASTER", {"fp32": 0.0, "bf16": float("inf")}[kept])  # against the store
    first = bench.extract(posts.read(), dataclasses.replace(bench.text, precision=kept))
    if forgotten:
        (bench.store / "encoders.json").unlink()
    else:
        no_models()
    done = bench.extract(posts.read(), auto(bench.text))
    assert done.precision == {"text": (kept, "as the store has it")}
    assert (done.encoded, done.reused) == (0, 10)
    assert done.view.blocks["text"].encoder == first.view.blocks["text"].encoder
    no_models()  # it was remembered again
    assert bench.extract(posts.read(), auto(bench.text)).precision == {"text": (kept, "as the store has it")}


@pytest.mark.parametrize("modality", ["text", "image"])
def test_keys_of_both_precisions_differ_in_nothing_else(bench, runtime: Runtime, modality: str):
    spec = getattr(bench, modality)
    full, rounded = (build_encoder(one, runtime).key for one in (spec, half(spec)))
    assert full.digest != rounded.digest
    assert (full.fields["compute"], rounded.fields["compute"]) == ("float32", "bfloat16")
    assert {**full.fields, "compute": "bfloat16"} == rounded.fields
    assert full.name == rounded.name


def encoders_of(bench, name: str = "posts") -> set[str]:
    from cache import read_view

    return {block.encoder for block in read_view(FeatureStore(bench.store), name).blocks.values()}


@pytest.mark.parametrize(("first", "last"), [("fp32", "bf16"), ("bf16", "fp32")])
@pytest.mark.parametrize("forgotten", [False, True])
def test_with_both_in_the_store_a_data_set_keeps_its_own(posts, bench, first: str, last: str, forgotten: bool):
    for precision in (first, last):
        bench.extract(posts.read(), dataclasses.replace(bench.text, precision=precision))
    own = encoders_of(bench)
    if forgotten:
        (bench.store / "encoders.json").unlink()
    done = bench.extract(posts.read(), auto(bench.text))
    assert done.precision["text"] == (last, "as the store has it")
    assert (done.encoded, done.reused) == (0, 10)
    assert encoders_of(bench) == own


def test_a_data_set_keeps_its_own_precision_even_if_only_the_other_is_remembered(posts, bench):
    from extract import Settings, extract

    bench.extract(posts.read(), half(bench.text))
    (bench.store / "encoders.json").unlink()  # or the libraries are of another version, or the files were touched
    extract(posts.read(), Settings(bench.store, "another", (bench.text,), device="cpu"))
    done = bench.extract(posts.read(), auto(bench.text))
    assert done.precision["text"][0] == "bf16"
    assert (done.encoded, done.reused) == (0, 10)


def test_a_device_without_bfloat16_gives_float32(posts, bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("extract.precision.FASTER", 0.0)
    has_bf16(monkeypatch, False)
    done = bench.extract(posts.read(), auto(bench.text), auto(bench.image))
    why = "this device has no bf16"
    assert done.precision == {"text": ("fp32", why), "image": ("fp32", why)}
    assert done.encoded == 20


def test_what_was_asked_for_is_not_measured(posts, bench, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise AssertionError("it was measured")

    monkeypatch.setattr("extract.chosen.choose_precision", refuse)
    bench.extract(posts.read(), half(bench.text))
    done = bench.extract(posts.read())
    assert done.precision == {"text": ("fp32", ""), "image": ("fp32", "")}


def test_a_truncated_text_is_counted_once_whatever_is_measured(posts, bench, monkeypatch: pytest.MonkeyPatch):
    posts.rows[0]["text"] = "sun " * 60
    for store, wins in (("full", float("inf")), ("half", 0.0)):
        bench.store = bench.store.with_name(store)
        monkeypatch.setattr("extract.precision.FASTER", wins)
        monkeypatch.setattr("extract.precision.COSINE", -1.0)
        has_bf16(monkeypatch, True)
        done = bench.extract(posts.read(), auto(bench.text))
        assert (done.precision["text"][0], done.truncated) == ({"full": "fp32", "half": "bf16"}[store], 1)


def test_specs_of_before_there_was_a_precision_still_work(posts, bench, no_models):
    content = bench.text.as_json()
    old = {name: value for name, value in content.items() if name not in ("precision", "decoder")}
    assert EncoderSpec.from_json(old) == bench.text
    assert EncoderSpec.from_json(json.loads(json.dumps(content))) == bench.text
    assert EncoderSpec.from_json(auto(bench.text).as_json()).precision == "auto"
    bench.extract(posts.read(), bench.text)
    no_models()
    assert bench.extract(posts.read(), EncoderSpec.from_json(old)).reused == 10


@pytest.mark.parametrize("precision", ["fp16", "", "float32", "BF16"])
def test_unknown_precisions_are_refused(bench, precision: str):
    with pytest.raises(UsageError, match="the precision is one of auto, fp32, bf16"):
        dataclasses.replace(bench.text, precision=precision)


def test_an_encoder_is_not_built_before_its_precision_is_settled(bench, runtime: Runtime):
    for spec in (bench.text, bench.image):
        with pytest.raises(UsageError, match="computes in one of fp32, bf16, not in 'auto'"):
            build_encoder(auto(spec), runtime)


@pytest.mark.parametrize(("modality", "least"), [("text", 0.9999), ("image", 0.999)])
def test_vectors_in_bfloat16_are_close_to_those_in_float32(posts, bench, runtime: Runtime, modality: str, least: float):
    """The shufflenet is deep and untrained; torchvision's own in bfloat16 loses as much."""
    if not runtime.has_bf16:
        pytest.skip("no bfloat16 here")
    spec = getattr(bench, modality)
    exact, rounded = (bench.vectors(bench.extract(posts.read(), one), modality) for one in (spec, half(spec)))
    assert not np.array_equal(exact, rounded)
    assert rounded.dtype == np.float32
    cosine = (exact * rounded).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert cosine.min() >= least
