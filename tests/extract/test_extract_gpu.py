"""What only a GPU can show; skipped elsewhere. `pytest -m gpu` runs these alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cache import FeatureStore, table_of
from extract import EncoderSpec, Extraction, Manifest, Settings, extract
from extract.batching import Budget

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def on(device: str, bench, manifest: Manifest, *specs: EncoderSpec, name: str = "") -> tuple[Extraction, np.ndarray]:
    """An extraction into a store of its own, and its vectors side by side."""
    store = bench.store.with_name(f"{device}{name}".replace(":", "-"))
    done = extract(manifest, Settings(store, "posts", specs, device=device))
    return done, table_of(FeatureStore(store), done.view).to_numpy()


def cosine(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return (one * two).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_gives_the_vectors_of_the_cpu(posts, bench, precision: str):
    manifest = posts.read()
    for spec in (bench.text, bench.image):
        _, expected = on("cpu", bench, manifest, spec, name=spec.modality)
        done, found = on("cuda", bench, manifest, replace(spec, precision=precision), name=spec.modality + precision)
        assert done.encoded == 10
        if precision == "fp32":
            assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
        else:
            assert cosine(found, expected).min() >= 0.999


def test_no_vector_depends_on_the_batches_of_a_gpu(posts, bench, monkeypatch: pytest.MonkeyPatch):
    manifest = posts.read()
    _, expected = on("cuda", bench, manifest, bench.text, bench.image)
    monkeypatch.setattr("extract.runtime.GPU_TEXT", Budget(cost=40, items=3))
    monkeypatch.setattr("extract.runtime.GPU_IMAGE", Budget(cost=3, items=3))
    _, found = on("cuda", bench, manifest, bench.text, bench.image, name="small")
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_nvjpeg_decodes_what_pillow_does_and_leaves_the_rest_to_it(posts, bench):
    for number, row in enumerate(posts.rows[:8]):  # two PNGs remain
        with Image.open(posts.folder / row["image"]) as image:
            row["image"] = f"{number}.jpg"
            image.resize((640, 480)).convert("RGB").save(posts.folder / row["image"], quality=90)
    path = posts.folder / "3.jpg"
    path.write_bytes(path.read_bytes()[:-200])  # truncated: no decoder may repair it
    manifest = posts.read()
    done, expected = on("cuda", bench, manifest, bench.image, name="pillow")
    again, found = on("cuda", bench, manifest, replace(bench.image, decoder="nvjpeg"), name="nvjpeg")
    assert done.failed_ids == again.failed_ids == ["p3"]
    sound = np.arange(10) != 3
    assert cosine(found[sound], expected[sound]).min() >= 0.999


def test_a_full_memory_makes_smaller_batches(posts, bench, monkeypatch: pytest.MonkeyPatch):
    from extract.encoders.text import TextEncoder

    manifest, inner, sizes = posts.read(), TextEncoder.encode, []

    def encode(self: TextEncoder, batch: list[np.ndarray]) -> object:
        sizes.append(len(batch))
        if len(batch) > 2:
            torch.empty(2**50, device="cuda")  # a thousand terabytes: the allocator's own error
        return inner(self, batch)

    _, expected = on("cuda", bench, manifest, bench.text)
    monkeypatch.setattr(TextEncoder, "encode", encode)
    done, found = on("cuda", bench, manifest, bench.text, name="full")
    assert (done.encoded, max(sizes) > 2, np.abs(found - expected).max() <= 1e-5) == (10, True, True)


def test_a_compiled_encoder_gives_the_same_vectors(posts, bench):
    manifest = posts.read()
    _, expected = on("cuda", bench, manifest, bench.text, bench.image)
    settings = Settings(
        bench.store.with_name("compiled"), "posts", (bench.text, bench.image), device="cuda", compile=True
    )
    found = table_of(FeatureStore(settings.store), extract(manifest, settings).view).to_numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
