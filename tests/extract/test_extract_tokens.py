"""Vectors of every token, and vectors kept in half precision."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cache import FAILED, CacheIncomplete, FeatureStore, FeatureTable, ModelError, Ragged, table_of
from extract import EncoderSpec, Extraction
from extract.batching import Budget
from extract.encoders.text import TextEncoder


@pytest.fixture(scope="module")
def states_alone(bert: Path) -> Callable[[str], np.ndarray]:
    """Last hidden states `(T, 32)` of one text by transformers itself."""
    from transformers import BertModel, BertTokenizerFast

    tokenizer, model = BertTokenizerFast.from_pretrained(bert), BertModel.from_pretrained(bert).eval()

    def states(text: str) -> np.ndarray:
        with torch.no_grad():
            tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=24)
            return model(**tokens).last_hidden_state[0].numpy()

    return states


def table(bench, done: Extraction) -> FeatureTable:
    return table_of(FeatureStore(bench.store), done.view)


def tokens_of(bench, done: Extraction, modality: str) -> Ragged:
    return table(bench, done).tokens(modality)


def kept(spec: EncoderSpec, **options: object) -> EncoderSpec:
    return dataclasses.replace(spec, tokens=True, **options)


def test_tokens_of_a_text_are_its_last_hidden_states(posts, bench, states_alone, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("extract.runtime.CPU_TEXT", Budget(cost=40, items=3))
    posts.rows[2]["text"] = "love " * 40  # is cut
    done = bench.extract(posts.read(), kept(bench.text))
    tokens, expected = tokens_of(bench, done, "text"), [states_alone(row["text"]) for row in posts.rows]
    assert tokens.dtype == np.float16
    assert tokens.lengths.tolist() == [len(states) for states in expected]
    assert tokens.lengths[2] == 24
    for found, states, mean in zip(tokens, expected, bench.vectors(done, "text"), strict=True):
        np.testing.assert_allclose(found.astype(np.float32), states, atol=2e-3, rtol=0)
        np.testing.assert_allclose(found.astype(np.float32).mean(axis=0), mean, atol=2e-3, rtol=0)


def test_tokens_follow_rows_that_are_chosen_or_repeated(posts, bench, states_alone):
    posts.rows[4]["text"] = posts.rows[2]["text"]
    done = bench.extract(posts.read(), kept(bench.text))
    chosen = table(bench, done)[[4, 9, 2]].tokens("text")
    for found, number in zip(chosen, (4, 9, 2), strict=True):
        np.testing.assert_allclose(
            found.astype(np.float32), states_alone(posts.rows[number]["text"]), atol=2e-3, rtol=0
        )
    assert np.array_equal(chosen[0], chosen[2])


def test_the_first_token_is_cls(posts, bench):
    done = bench.extract(posts.read(), kept(bench.text, output="cls"))
    firsts = np.stack([tokens[0] for tokens in tokens_of(bench, done, "text")]).astype(np.float32)
    np.testing.assert_allclose(firsts, bench.vectors(done, "text"), atol=2e-3, rtol=0)


def test_tokens_of_a_picture_are_the_grid_that_is_pooled(posts, bench):
    done = bench.extract(posts.read(), kept(bench.image))
    tokens, pooled = tokens_of(bench, done, "image"), bench.vectors(done, "image")
    assert tokens.lengths.tolist() == [49] * 10
    assert tokens.shape == (10, 1024)
    means = np.stack([grid.astype(np.float32).mean(axis=0) for grid in tokens])
    np.testing.assert_allclose(means, pooled, atol=2e-3, rtol=2e-3)
    assert np.ptp(tokens[0].astype(np.float32), axis=0).max() > 0.1  # places differ


def test_pooled_vectors_beside_tokens_are_those_without_them(posts, bench, tmp_path: Path):
    with_tokens = bench.extract(posts.read(), kept(bench.text), kept(bench.image))
    vectors = {modality: bench.vectors(with_tokens, modality) for modality in ("text", "image")}
    bench.store = tmp_path / "plain"
    plain = bench.extract(posts.read())
    for modality, found in vectors.items():
        np.testing.assert_allclose(found, bench.vectors(plain, modality), atol=1e-6, rtol=1e-6)


@pytest.mark.slow
def test_tokens_of_a_transformer_are_a_sequence(posts, bench):
    done = bench.extract(posts.read(), EncoderSpec("image", "vit_b_16", random_init=0, tokens=True))
    tokens = tokens_of(bench, done, "image")
    assert tokens.lengths.tolist() == [197] * 10
    assert tokens.shape == (10, 768)
    firsts = np.stack([sequence[0] for sequence in tokens]).astype(np.float32)
    np.testing.assert_allclose(firsts, bench.vectors(done, "image"), atol=5e-3, rtol=0)


def test_a_network_without_a_fitting_map_is_refused(posts, bench):
    with pytest.raises(ModelError, match=r"alexnet has no feature map of 4096 channels.*leave out --tokens"):
        bench.extract(posts.read(), EncoderSpec("image", "alexnet", random_init=0, tokens=True))


def test_missing_and_failed_rows_have_no_tokens(posts, bench):
    (posts.folder / "3.png").unlink()
    (posts.folder / "5.png").write_bytes(b"<html></html>")
    posts.rows[8]["text"] = ""
    done = bench.extract(posts.read(), kept(bench.text), kept(bench.image))
    assert (done.failed_ids, done.missing) == (["p5"], {"text": 1, "image": 1})
    assert np.flatnonzero(tokens_of(bench, done, "image").lengths == 0).tolist() == [3, 5]
    assert np.flatnonzero(tokens_of(bench, done, "text").lengths == 0).tolist() == [8]
    assert tokens_of(bench, done, "image")[3].shape == (0, 1024)


def test_half_precision_is_the_rounded_vector(posts, bench, tmp_path: Path):
    whole = {modality: bench.vectors(bench.extract(posts.read()), modality) for modality in ("text", "image")}
    bench.store = tmp_path / "half"
    specs = [dataclasses.replace(spec, dtype="float16") for spec in (bench.text, bench.image)]
    done = bench.extract(posts.read(), *specs)
    assert table(bench, done).dtype == np.float16
    for modality, vectors in whole.items():
        found = bench.vectors(done, modality)
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, vectors.astype(np.float16))


def test_heads_fit_on_half_precision(posts, bench):
    from fuse import make_classifier

    spec = dataclasses.replace(bench.text, dtype="float16")
    features = table(bench, bench.extract(posts.read(), spec))
    fitted = make_classifier("logreg").fit(features, features.y)
    assert fitted.predict(features).shape == (10,)
    assert np.isfinite(fitted.predict_proba(features)).all()


@pytest.mark.parametrize("output", ["mean", "tokens"])
def test_a_value_above_half_precision_fails_and_says_what_to_do(
    posts, bench, monkeypatch: pytest.MonkeyPatch, output: str
):
    inner, spec = TextEncoder.encode, kept(bench.text, dtype="float16" if output == "mean" else "float32")
    longest = max(posts.rows, key=lambda row: len(row["text"].split()))

    def large(self, batch):
        outputs = inner(self, batch)
        row = max(range(len(batch)), key=lambda number: len(batch[number]))
        if output == "mean":
            outputs["mean"][row, 3] = 7e4
        else:
            outputs["tokens"][row][1, 3] = -7e4
        return outputs

    monkeypatch.setattr(TextEncoder, "encode", large)
    done = bench.extract(posts.read(), spec)
    assert done.failed_ids == [longest["id"]]
    assert np.flatnonzero(done.view.blocks["text"].state == FAILED).tolist() == [posts.rows.index(longest)]
    (failure,) = bench.failures(done, "text")
    remedy = "extract with --dtype float32" if output == "mean" else "leave out --tokens"
    assert failure["reason"] == f"its {output} vector has a value of 7e+04, too large for float16: {remedy}"
    assert done.encoded == 9


def test_float32_keeps_values_above_half_precision(posts, bench, monkeypatch: pytest.MonkeyPatch):
    inner = TextEncoder.encode

    def large(self, batch):
        return {name: values * np.float32(1e5) for name, values in inner(self, batch).items()}

    monkeypatch.setattr(TextEncoder, "encode", large)
    done = bench.extract(posts.read(), bench.text)
    assert done.failed_ids == []
    assert np.abs(bench.vectors(done, "text")).max() > 65504


def test_a_plain_run_takes_what_was_stored_beside_tokens(posts, bench, encoded: list[tuple[str, int]]):
    first = bench.extract(posts.read(), kept(bench.text), kept(bench.image))
    encoded.clear()
    done = bench.extract(posts.read())
    assert (done.encoded, done.reused, encoded) == (0, 20, [])
    for modality, block in done.view.blocks.items():
        assert block.encoder == first.view.blocks[modality].encoder
        assert np.array_equal(bench.vectors(done, modality), bench.vectors(first, modality))


def test_a_plain_run_beside_tokens_loads_no_model(posts, bench, no_models: Callable[[], None]):
    bench.extract(posts.read(), kept(bench.text))
    bench.extract(posts.read(), bench.text)  # not even the second time
    no_models()
    assert bench.extract(posts.read(), bench.text).encoded == 0


def test_tokens_after_a_plain_run_are_encoded_and_both_stand(posts, bench, no_models: Callable[[], None]):
    plain = bench.extract(posts.read(), bench.text)
    vectors = bench.vectors(plain, "text")
    with pytest.raises(CacheIncomplete, match="has no text tokens; run extract again with --tokens"):
        tokens_of(bench, plain, "text")
    done = bench.extract(posts.read(), kept(bench.text))
    assert (done.encoded, done.reused) == (10, 0)
    assert len(FeatureStore(bench.store).encoders()) == 2
    assert np.array_equal(bench.vectors(plain, "text"), vectors)
    no_models()
    again = bench.extract(posts.read(), bench.text)
    assert (again.encoded, again.view.blocks["text"].encoder) == (0, plain.view.blocks["text"].encoder)
    assert bench.extract(posts.read(), kept(bench.text)).encoded == 0


def test_a_damaged_key_of_another_encoder_stops_no_extraction(posts, bench):
    first = bench.extract(posts.read(), bench.image)
    (bench.store / first.view.blocks["image"].encoder / "key.json").write_text("{", encoding="utf-8")
    assert bench.extract(posts.read(), bench.text).encoded == 10
