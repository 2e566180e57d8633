import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache import FAILED, MISSING, PRESENT, DataError, EncoderStore, FeatureStore, ModelError, UsageError, item_key
from extract import EncoderSpec
from extract.batching import Budget
from extract.decode import DecodeError

Encoded = list[tuple[str, int]]


def store_of(bench, done, modality: str) -> EncoderStore:
    return FeatureStore(bench.store).encoder(done.view.blocks[modality].encoder)


def by_id(bench, done, modality: str) -> dict[str, np.ndarray]:
    return dict(zip(done.view.ids.tolist(), bench.vectors(done, modality), strict=True))


def corrupt(posts, number: int) -> bytes:
    """Cuts a picture in half such that its item key keeps its rank: all batches stay as they were."""
    keys = [item_key((posts.folder / f"{n}.png").read_bytes()) for n in range(len(posts.rows))]
    raw = (posts.folder / f"{number}.png").read_bytes()
    others = [key for n, key in enumerate(keys) if n != number]
    rank = sum(key < keys[number] for key in others)
    for tail in itertools.count():
        broken = raw[: len(raw) // 2] + tail.to_bytes(4, "big")
        if sum(key < item_key(broken) for key in others) == rank:
            (posts.folder / f"{number}.png").write_bytes(broken)
            return broken
    raise AssertionError


def test_every_row_holds_the_vector_of_its_own_text(posts, bench, bert_alone):
    done = bench.extract(posts.read(), bench.text)
    assert done.view.ids.tolist() == [row["id"] for row in posts.rows]
    assert done.view.labels.tolist() == [row["label"] for row in posts.rows]
    expected = np.stack([bert_alone(row["text"])[0] for row in posts.rows])
    np.testing.assert_allclose(bench.vectors(done, "text"), expected, atol=1e-5, rtol=0)
    assert (done.samples, done.encoded, done.reused, done.failed_ids) == (10, 10, 0, [])
    assert done.device.startswith("CPU")


def test_vectors_do_not_depend_on_batches_or_on_the_order_of_samples(
    posts, bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    done = bench.extract(posts.read())
    first = {modality: by_id(bench, done, modality) for modality in ("text", "image")}
    monkeypatch.setattr("extract.runtime.CPU_TEXT", Budget(cost=40, items=3))
    monkeypatch.setattr("extract.runtime.CPU_IMAGE", Budget(cost=5, items=5))
    posts.rows.reverse()
    bench.store = tmp_path / "other"
    again = bench.extract(posts.read())
    assert again.view.ids.tolist() == [row["id"] for row in posts.rows]
    for modality, vectors in first.items():
        found = by_id(bench, again, modality)
        assert max(np.abs(found[name] - vectors[name]).max() for name in vectors) < 1e-5
        assert np.abs(found["p0"] - vectors["p1"]).max() > 0.01
        assert again.view.blocks[modality].encoder == done.view.blocks[modality].encoder


@pytest.mark.parametrize("modality", ["text", "image"])
def test_vectors_in_bfloat16_do_not_depend_on_batches_or_threads(
    posts, bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, modality: str
):
    import torch

    spec = replace(getattr(bench, modality), precision="bf16")
    expected = bench.vectors(bench.extract(posts.read(), spec), modality)
    monkeypatch.setattr("extract.runtime.CPU_TEXT", Budget(cost=40, items=3))
    monkeypatch.setattr("extract.runtime.CPU_IMAGE", Budget(cost=3, items=3))
    found = []
    for threads in (3, 1):
        torch.set_num_threads(threads)
        bench.store = tmp_path / str(threads)
        found.append(bench.vectors(bench.extract(posts.read(), spec), modality))
    norms = np.linalg.norm(found[0], axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found[0] * expected).sum(axis=1) / norms).min() >= 0.9999
    assert np.array_equal(found[0], found[1])


def test_an_interrupted_run_is_continued(
    posts, bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoded: Encoded
):
    from extract.encoders.text import TextEncoder

    manifest = posts.read()
    clean = bench.vectors(bench.extract(manifest, bench.text), "text")
    bench.store = tmp_path / "interrupted"
    monkeypatch.setattr("extract.runtime.CPU_TEXT", Budget(cost=1000, items=3))
    with monkeypatch.context() as patched:
        inner, calls = TextEncoder.encode, itertools.count()

        def interrupted(self, batch):
            if next(calls) == 2:
                raise KeyboardInterrupt
            return inner(self, batch)

        patched.setattr(TextEncoder, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench.extract(manifest, bench.text)
    assert FeatureStore(bench.store).names() == []
    encoded.clear()
    done = bench.extract(manifest, bench.text)
    assert (done.encoded, done.reused) == (4, 6)
    assert sum(size for _, size in encoded) == 4
    assert "4 of 10 items" in done.reasons["text"]
    np.testing.assert_allclose(bench.vectors(done, "text"), clean, atol=1e-5, rtol=0)
    assert len(store_of(bench, done, "text").segments()) == 1


def test_a_second_run_encodes_nothing_and_loads_no_model(posts, bench, no_models: Callable, encoded: Encoded):
    first = bench.extract(posts.read())
    vectors = bench.vectors(first, "image")
    no_models()
    encoded.clear()
    again = bench.extract(posts.read())
    assert (again.encoded, again.reused, encoded) == (0, 20, [])
    assert again.view.digest == first.view.digest
    assert np.array_equal(bench.vectors(again, "image"), vectors)


def test_equal_content_is_encoded_once(posts, bench, encoded: Encoded):
    posts.rows[4]["text"] = posts.rows[2]["text"]
    (posts.folder / "7.png").write_bytes((posts.folder / "1.png").read_bytes())
    done = bench.extract(posts.read())
    assert done.encoded == 9 + 9
    assert sum(size for _, size in encoded) == 9 + 9
    texts, images = bench.vectors(done, "text"), bench.vectors(done, "image")
    assert np.array_equal(texts[4], texts[2])
    assert np.array_equal(images[7], images[1])
    assert not np.array_equal(texts[4], texts[3])


def test_a_corrupt_picture_is_recorded_and_no_other_row_is_touched(posts, bench, tmp_path: Path):
    manifest = posts.read()
    clean = bench.vectors(bench.extract(manifest, bench.image), "image")
    broken = corrupt(posts, 5)
    bench.store = tmp_path / "other"
    done = bench.extract(manifest, bench.image)
    found = bench.vectors(done, "image")
    others = [n for n in range(10) if n != 5]
    assert np.array_equal(found[others], clean[others])
    assert np.isnan(found[5]).all()
    assert done.view.blocks["image"].state.tolist() == [FAILED if n == 5 else PRESENT for n in range(10)]
    assert (done.encoded, done.failed_ids, done.missing) == (9, ["p5"], {"image": 0})
    (recorded,) = bench.failures(done, "image")
    assert recorded["id"] == "p5"
    assert recorded["digest"] == item_key(broken).hex()
    assert recorded["reason"].startswith("broken picture: ")


def test_missing_content_is_missing_and_not_failed(posts, bench):
    (posts.folder / "3.png").unlink()
    posts.rows[6]["image"] = "nowhere/6.png"
    posts.rows[8]["image"] = ""
    posts.rows[9]["text"] = ""
    done = bench.extract(posts.read())
    images, texts = done.view.blocks["image"], done.view.blocks["text"]
    assert np.flatnonzero(images.state == MISSING).tolist() == [3, 6, 8]
    assert np.flatnonzero(texts.state == MISSING).tolist() == [9]
    assert FAILED not in [*images.state, *texts.state]
    assert images.row[[3, 6, 8]].tolist() == [-1, -1, -1]
    assert done.missing == {"text": 1, "image": 3}
    assert (done.failed_ids, bench.failures(done, "image")) == ([], [])
    assert len(done.view.ids) == 10


def test_what_cannot_be_read_fails_and_is_tried_again(posts, bench):
    raw = (posts.folder / "3.png").read_bytes()
    (posts.folder / "3.png").unlink()
    (posts.folder / "3.png").mkdir()
    done = bench.extract(posts.read(), bench.image)
    assert np.flatnonzero(done.view.blocks["image"].state == FAILED).tolist() == [3]
    assert bench.failures(done, "image")[0]["reason"].startswith("cannot be read: ")
    (posts.folder / "3.png").rmdir()
    (posts.folder / "3.png").write_bytes(raw)
    again = bench.extract(posts.read(), bench.image)
    assert (again.encoded, again.failed_ids, bench.failures(again, "image")) == (1, [], [])


def test_failed_items_are_not_tried_again_until_asked(posts, bench, monkeypatch: pytest.MonkeyPatch):
    def refuse(raw: bytes, draft: int | None = None) -> None:
        raise DecodeError("this decoder is too old")

    for number, row in enumerate(posts.rows):
        row["image"] = "5.png" if number in (5, 6) else ""
    manifest = posts.read()
    with monkeypatch.context() as patched:
        patched.setattr("extract.encoders.picture.decoding", refuse)
        assert bench.extract(manifest, bench.image).failed_ids == ["p5", "p6"]
    with monkeypatch.context() as patched:
        patched.setattr("extract.chosen.build_encoder", lambda *_: pytest.fail("a model was loaded"))
        again = bench.extract(manifest, bench.image)
    assert (again.encoded, again.failed_ids) == (0, ["p5", "p6"])
    assert [failure.reason for failure in again.failures["image"]] == ["this decoder is too old"] * 2
    retried = bench.extract(manifest, bench.image, retry_failed=True)
    assert (retried.encoded, retried.failed_ids, bench.failures(retried, "image")) == (1, [], [])


def test_another_version_of_the_decoder_is_asked_once(posts, bench, no_models: Callable, encoded: Encoded):
    corrupt(posts, 5)
    done = bench.extract(posts.read(), bench.image)
    path = store_of(bench, done, "image").folder / "failures.jsonl"
    (entry,) = bench.failures(done, "image")
    path.write_text(json.dumps({**entry, "decoder": "pillow 0.1"}) + "\n", encoding="utf-8")
    encoded.clear()
    assert bench.extract(posts.read(), bench.image).failed_ids == ["p5"]
    assert encoded == [("image", 1)]  # the blank in its place
    no_models()
    assert bench.extract(posts.read(), bench.image).failed_ids == ["p5"]


@pytest.mark.parametrize("options", [{"fail_fast": True}, {"max_failures": 1}])
def test_too_many_failures_are_an_error_that_keeps_what_was_encoded(posts, bench, options: dict):
    for number in (5, 6):
        (posts.folder / f"{number}.png").write_bytes(b"<html>%d</html>" % number)
    manifest = posts.read()
    with pytest.raises(DataError, match=r"samples? failed, [01] are allowed \(p.*no picture.*what was encoded is kept"):
        bench.extract(manifest, bench.image, **options)
    (store,) = FeatureStore(bench.store).encoders()
    kept = len(store.items())
    assert kept > 0
    done = bench.extract(manifest, bench.image, max_failures=2)
    assert (done.encoded, done.reused, done.failed_ids) == (8 - kept, kept, ["p5", "p6"])
    with pytest.raises(DataError, match="2 samples failed"):
        bench.extract(manifest, bench.image, **options)


def test_failures_are_counted_by_sample_and_not_by_content(posts, bench):
    for number in (5, 6):
        (posts.folder / f"{number}.png").write_bytes(b"<html></html>")
    with pytest.raises(DataError, match="2 samples failed, 1 are allowed"):
        bench.extract(posts.read(), bench.image, max_failures=1)


def test_relabelling_encodes_nothing(posts, bench, no_models: Callable):
    bench.extract(posts.read(), bench.text)
    no_models()
    for row in posts.rows:
        row["label"], row["id"] = f"new {row['label']}", f"new {row['id']}"
    done = bench.extract(posts.read(), bench.text)
    assert (done.encoded, done.reused) == (0, 10)
    assert done.view.labels.tolist()[:2] == ["new bad", "new good"]


def test_another_image_encoder_encodes_images_only(posts, bench, encoded: Encoded):
    before = bench.extract(posts.read())
    texts = bench.vectors(before, "text")
    encoded.clear()
    done = bench.extract(posts.read(), bench.text, EncoderSpec("image", "shufflenet_v2_x0_5", random_init=1))
    assert {modality for modality, _ in encoded} == {"image"}
    assert (done.encoded, done.reused) == (10, 10)
    assert np.array_equal(bench.vectors(done, "text"), texts)
    assert done.view.blocks["image"].encoder != before.view.blocks["image"].encoder


def test_another_output_encodes_nothing(posts, bench, no_models: Callable, bert_alone):
    bench.extract(posts.read(), bench.text)
    no_models()
    done = bench.extract(posts.read(), EncoderSpec("text", bench.text.model, output="cls"))
    assert done.encoded == 0
    expected = np.stack([bert_alone(row["text"])[1] for row in posts.rows])
    np.testing.assert_allclose(bench.vectors(done, "text"), expected, atol=1e-5, rtol=0)


def test_an_encoder_other_than_the_expected_one_is_refused(posts, bench):
    manifest = posts.read()
    with pytest.raises(ModelError, match=r"the run was trained on text features of the encoder 0{32}, but .* is now"):
        bench.extract(manifest, bench.text, expected={"text": "0" * 32})
    assert FeatureStore(bench.store).encoders() == []
    key = bench.extract(manifest, bench.text).view.blocks["text"].encoder
    assert bench.extract(manifest, bench.text, expected={"text": key}).encoded == 0
    with pytest.raises(ModelError, match=key):  # from the remembered key as well
        bench.extract(manifest, bench.text, expected={"text": "0" * 32})


def test_equal_text_equal_picture_and_group_join_rows(posts, bench):
    posts.rows[3]["text"] = posts.rows[0]["text"]
    (posts.folder / "5.png").write_bytes((posts.folder / "3.png").read_bytes())
    (posts.folder / "6.png").unlink()
    (posts.folder / "8.png").unlink()  # two that are missing are not equal
    for number in (7, 9):
        posts.rows[number]["group"] = "ann"
    assert bench.extract(posts.read()).view.groups.tolist() == [0, 1, 2, 0, 3, 0, 4, 5, 6, 5]


def test_texts_that_were_cut_are_counted(posts, bench):
    posts.rows[2]["text"] = "love " * 40
    assert bench.extract(posts.read(), bench.text).truncated == 1


def test_a_damaged_segment_is_set_aside_and_encoded_again(posts, bench):
    first = bench.extract(posts.read(), bench.text)
    vectors = bench.vectors(first, "text")
    (segment,) = store_of(bench, first, "text").segment_paths()
    segment.write_bytes(segment.read_bytes()[:700])
    done = bench.extract(posts.read(), bench.text)
    assert done.encoded == 10
    assert any(segment.stem in warning and "was damaged" in warning for warning in done.warnings)
    assert np.array_equal(bench.vectors(done, "text"), vectors)


def test_a_view_is_written_only_if_it_is_to_be_kept(posts, bench):
    done = bench.extract(posts.read(), bench.text, keep=False)
    assert bench.vectors(done, "text").shape == (10, 32)
    assert FeatureStore(bench.store).names() == []
    bench.extract(posts.read(), bench.text)
    assert FeatureStore(bench.store).names() == ["posts"]


def test_modalities_and_outputs_that_there_are_not(posts, bench):
    for row in posts.rows:
        row["image"] = ""
    with pytest.raises(DataError, match="has no image; it has text: see --modalities and --columns"):
        bench.extract(posts.read())
    with pytest.raises(UsageError, match="the text encoder has no output 'pool'; it has cls, mean"):
        bench.extract(posts.read(), EncoderSpec("text", bench.text.model, output="pool"))
    with pytest.raises(UsageError, match="'smell'"):
        EncoderSpec.from_json({"modality": "text", "model": "x", "smell": 1})
