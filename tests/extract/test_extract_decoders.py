"""Ways to decode pictures other than Pillow as it is: JPEGs at a reduced size, JPEGs by nvJPEG.

There is no NVIDIA GPU where these tests run: torchvision's decoder for the CPU, which takes the
same arguments, stands in the place of nvJPEG.
"""

import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.io
from PIL import Image

from cache import DeviceError, UsageError
from extract import EncoderSpec
from extract.decode import decode_image, is_plain_jpeg
from extract.encoders.image import ImageEncoder
from extract.encoders.picture import preprocess
from extract.encoders.spec import BrokenInputs
from extract.runtime import Runtime

ORIENTATION = 0x0112
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
decode_on_cpu = torchvision.io.decode_jpeg


@functools.cache
def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture like a photograph: most of it is in the low frequencies."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, orientation: int = 1, **options: object) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    if orientation != 1:
        exif[ORIENTATION] = orientation
    image.save(file, "JPEG", quality=95, exif=exif, **options)
    return file.getvalue()


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def build(bench, runtime: Runtime) -> Callable[..., ImageEncoder]:
    def build(decoder: str = "pillow") -> ImageEncoder:
        return ImageEncoder(EncoderSpec("image", bench.image.model, bench.image.weights, decoder=decoder), runtime)

    return build


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", [(1600, 1200), (1200, 1600)])
def test_a_draft_of_a_large_jpeg_is_close_to_the_whole(build, size: tuple[int, int], orientation: int):
    raw = jpeg(smooth(*size), orientation)
    reduced = decode_image(raw, draft=256)
    whole = decode_image(raw)
    assert reduced.size == tuple(side // 4 for side in whole.size)  # the shorter side keeps 256 pixels
    assert whole.size == (size if orientation < 5 else size[::-1])
    preset = build()._preset
    found, expected = (preprocess(image, preset).astype(float) for image in (reduced, whole))
    assert expected.std() > 20
    assert np.abs(found - expected).mean() < 3
    assert np.abs(found - expected).max() < 40


@pytest.mark.parametrize(
    "raw",
    [
        jpeg(smooth(500, 300)),
        jpeg(smooth(511, 900)),
        jpeg(smooth(40, 30)),
        jpeg(smooth(5000, 300)),
        jpeg(smooth(300, 500), orientation=6),
        png(smooth(1600, 1200)),
        png(smooth(1600, 1200).convert("RGBA")),
    ],
    ids=["small", "just too small", "tiny", "long", "rotated", "png", "transparent png"],
)
def test_what_cannot_be_reduced_has_the_very_same_pixels(raw: bytes):
    assert np.array_equal(np.asarray(decode_image(raw, draft=256)), np.asarray(decode_image(raw)))


def test_a_draft_keeps_as_many_pixels_as_the_network_resizes_to():
    for side, kept in ((511, 511), (512, 256), (1023, 512), (1024, 256), (2048, 256), (4096, 512)):
        found = decode_image(jpeg(smooth(side, side)), draft=256).size
        assert min(found) == kept


def test_a_grey_draft_is_in_colour_and_a_broken_one_is_refused():
    raw = jpeg(smooth(1600, 1200).convert("L"))
    found = np.asarray(decode_image(raw, draft=256))
    assert found.shape == (300, 400, 3)
    with pytest.raises(ValueError, match="broken picture"):
        decode_image(raw[: len(raw) // 2], draft=256)


def test_each_decoder_has_its_own_key_and_the_draft_its_own_vectors(build):
    pillow, draft = build(), build("draft")
    assert pillow.key.digest != draft.key.digest
    assert (pillow.key.fields["preprocessing"]["draft"], draft.key.fields["preprocessing"]["draft"]) == (False, True)
    large, small = jpeg(smooth(1600, 1200, 3)), jpeg(smooth(300, 400, 4))
    found, expected = (one.encode([one.decode(large), one.decode(small)])["pool"] for one in (draft, pillow))
    assert not np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])
    assert cosine(found, expected).min() >= 0.99


def test_a_draft_through_the_whole_of_stage_one(posts, bench):
    import dataclasses

    for number in range(3):
        (posts.folder / f"{number}.png").unlink()
        posts.rows[number]["image"] = f"{number}.jpg"
        (posts.folder / f"{number}.jpg").write_bytes(jpeg(smooth(1600, 1200, number)))
    plain = bench.extract(posts.read(), bench.image)
    draft = bench.extract(posts.read(), dataclasses.replace(bench.image, decoder="draft"))
    assert (plain.encoded, draft.encoded, draft.reused) == (10, 10, 0)
    one, two = bench.vectors(plain, "image"), bench.vectors(draft, "image")
    assert cosine(one, two)[:3].min() >= 0.99
    assert not np.array_equal(one[:3], two[:3])


def test_unknown_decoders_are_refused():
    with pytest.raises(UsageError, match="decoded by one of pillow, draft, nvjpeg, not by 'turbo'"):
        EncoderSpec("image", "resnet50", decoder="turbo")


WHOLE = jpeg(smooth(64, 48))
PLAIN = {
    "colour": WHOLE,
    "grey": jpeg(smooth(64, 48).convert("L")),
    "progressive": jpeg(smooth(64, 48), progressive=True),
    "trailing zeros": WHOLE + b"\x00" * 100,
}
NOT_PLAIN = {
    "empty": b"",
    "only the mark": b"\xff\xd8\xff",
    "both marks": b"\xff\xd8\xff\xff\xd9",
    "truncated": WHOLE[:-40],
    "without its end": WHOLE[:-2],
    "trailing words": WHOLE + b"more",
    "cmyk": jpeg(smooth(64, 48).convert("CMYK")),
    "png": png(smooth(64, 48)),
    "text": b"hello",
    "no header": WHOLE[:2] + WHOLE[300:],
    **{f"orientation {number}": jpeg(smooth(64, 48), number) for number in range(2, 9)},
}


@pytest.mark.parametrize("name", [*PLAIN, *NOT_PLAIN])
def test_only_whole_upright_jpegs_go_to_nvjpeg(name: str):
    assert is_plain_jpeg({**PLAIN, **NOT_PLAIN}[name]) == (name in PLAIN)


def test_bombs_do_not_go_to_nvjpeg(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("extract.decode.MAX_PIXELS", 64 * 48)
    assert is_plain_jpeg(WHOLE)
    monkeypatch.setattr("extract.decode.MAX_PIXELS", 64 * 48 - 1)
    assert not is_plain_jpeg(WHOLE)


def test_nvjpeg_without_a_gpu_is_an_error_that_says_what_to_do(posts, bench, build):
    import dataclasses

    match = "nvJPEG decodes on an NVIDIA GPU only; give --gpu, or leave out --decoder nvjpeg"
    with pytest.raises(DeviceError, match=match):
        build("nvjpeg")
    with pytest.raises(DeviceError, match=match):
        bench.extract(posts.read(), dataclasses.replace(bench.image, decoder="nvjpeg"))


def cosine(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)


Calls = list[int]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """How many files each call of the batched decoder was given; encoders take themselves to have nvJPEG."""
    seen: Calls = []

    def stand_in(files: Sequence[torch.Tensor], mode: object, device: torch.device) -> list[torch.Tensor]:
        seen.append(len(files))
        assert all(file.dtype == torch.uint8 and file.ndim == 1 for file in files)
        return decode_on_cpu(list(files), mode=mode, device="cpu")

    monkeypatch.setattr("torchvision.io.decode_jpeg", stand_in)
    return seen


@pytest.fixture
def by_nvjpeg(build, calls: Calls) -> ImageEncoder:
    encoder = build()
    encoder._nvjpeg = True
    return encoder


def test_mixed_batches_come_out_in_order(build, by_nvjpeg: ImageEncoder, calls: Calls):
    files = [
        jpeg(smooth(500, 400, 0)),
        png(smooth(333, 500, 1)),
        jpeg(smooth(300, 300, 2), orientation=6),
        jpeg(smooth(640, 480, 3)),
        jpeg(smooth(900, 300, 4).convert("L")),
        png(smooth(256, 256, 5)),
        jpeg(smooth(100, 80, 6)),
    ]
    pillow = build()
    given = [by_nvjpeg.decode(raw) for raw in files]
    assert [one.ndim for one in given] == [1, 3, 3, 1, 1, 3, 1]
    found = by_nvjpeg.encode(given)["pool"]
    assert calls == [4]
    expected = np.concatenate([pillow.encode([pillow.decode(raw)])["pool"] for raw in files])
    assert cosine(found, expected).min() >= 0.999
    others = cosine(np.repeat(found, 7, 0), np.tile(expected, (7, 1))).reshape(7, 7)
    assert (others.argmax(1) == np.arange(7)).all()  # each is closest to itself
    np.testing.assert_allclose(found[[1, 2, 5]], expected[[1, 2, 5]], rtol=1e-4, atol=1e-4)


def test_a_batch_without_jpegs_or_of_nothing_else(build, by_nvjpeg: ImageEncoder, calls: Calls):
    pillow = build()
    given = [by_nvjpeg.decode(png(smooth(300, 300, seed))) for seed in range(2)]
    assert np.array_equal(by_nvjpeg.encode(given)["pool"], pillow.encode(given)["pool"])
    assert calls == []
    assert by_nvjpeg.encode([by_nvjpeg.decode(WHOLE), by_nvjpeg.blank()])["pool"].shape == (2, 1024)
    assert calls == [1]


def refuse(*_: object, **__: object) -> None:
    raise RuntimeError("nvjpegDecodeBatched failed")


def test_where_the_batched_decoder_fails_each_goes_to_pillow(
    build, by_nvjpeg: ImageEncoder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("torchvision.io.decode_jpeg", refuse)
    files = [jpeg(smooth(500, 400, seed)) for seed in range(3)]
    pillow = build()
    found = by_nvjpeg.encode([by_nvjpeg.decode(raw) for raw in files])["pool"]
    assert np.array_equal(found, pillow.encode([pillow.decode(raw) for raw in files])["pool"])


def damaged(raw: bytes) -> bytes:
    """A JPEG that begins and ends as it should, with a Huffman table that none can be: only a decoder can tell."""
    table = raw.index(b"\xff\xc4") + 5
    return raw[:table] + b"\xff" * 16 + raw[table + 16 :]


def test_a_file_that_is_broken_in_the_middle_is_named(by_nvjpeg: ImageEncoder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torchvision.io.decode_jpeg", refuse)
    broken = damaged(jpeg(smooth(500, 400)))
    assert is_plain_jpeg(broken)
    given = [by_nvjpeg.decode(WHOLE), by_nvjpeg.decode(broken)]
    with pytest.raises(BrokenInputs, match="broken picture") as caught:
        by_nvjpeg.encode(given)
    assert [one is given[1] for one in caught.value.inputs] == [True]


@pytest.mark.parametrize("number", [1, 3])
def test_files_that_are_broken_in_the_middle_are_recorded_and_the_others_encoded(
    posts, bench, monkeypatch: pytest.MonkeyPatch, number: int
):
    broken = [f"p{at}" for at in range(number)]
    for at, row in enumerate(posts.rows[:8]):
        raw = jpeg(smooth(200, 180, at))
        row["image"] = f"{at}.jpg"
        (posts.folder / row["image"]).write_bytes(damaged(raw) if at < number else raw)
    expected = bench.vectors(bench.extract(posts.read(), bench.image), "image")
    assert np.isnan(expected).all(axis=1).tolist() == [f"p{at}" in broken for at in range(10)]
    bench.store = bench.store.with_name("nvjpeg")
    inner = ImageEncoder.__init__

    def pretend(self, *args: object) -> None:
        inner(self, *args)
        self._nvjpeg = True

    def like_nvjpeg(files: Sequence[torch.Tensor], mode: object, device: torch.device) -> list[torch.Tensor]:
        """One broken file fails them all; libjpeg, which stands in, fills what is lost with grey."""
        for file in files:
            Image.open(io.BytesIO(file.numpy().tobytes())).load()
        return decode_on_cpu(list(files), mode=mode, device="cpu")

    def strict(*args: object, **options: object) -> list[torch.Tensor]:
        try:
            return like_nvjpeg(*args, **options)
        except OSError as error:
            raise RuntimeError("nvjpegDecodeBatched failed") from error

    monkeypatch.setattr(ImageEncoder, "__init__", pretend)
    monkeypatch.setattr("torchvision.io.decode_jpeg", strict)
    done = bench.extract(posts.read(), bench.image)
    assert done.failed_ids == broken
    assert all("broken picture" in one["reason"] for one in bench.failures(done, "image"))
    found = bench.vectors(done, "image")
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert cosine(found[number:], expected[number:]).min() >= 0.999
    again = bench.extract(posts.read(), bench.image)
    assert (again.encoded, again.reused, again.failed_ids) == (0, 10 - number, broken)


@pytest.mark.parametrize("batched", [True, False])
def test_a_jpeg_too_narrow_to_be_resized_is_refused_by_nvjpeg_too(
    by_nvjpeg: ImageEncoder, monkeypatch: pytest.MonkeyPatch, batched: bool
):
    if not batched:
        monkeypatch.setattr("torchvision.io.decode_jpeg", refuse)
    monkeypatch.setattr("extract.encoders.picture.MAX_RESIZED", 256 * 2000)  # 1 x 8000 of the real limit
    raw = jpeg(smooth(4, 40))
    with pytest.raises(BrokenInputs, match="4 x 40 pixels are too narrow to be resized"):
        by_nvjpeg.encode([by_nvjpeg.decode(raw)])


def test_files_of_torchvisions_presets_are_resized_alike(build, by_nvjpeg: ImageEncoder, tmp_path: Path):
    from extract.encoders.picture import resize_on_device

    preset = build()._preset
    for size in ((500, 333), (333, 500), (256, 300), (100, 80), (257, 1000), (1000, 257)):
        image = smooth(*size)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        found, expected = resize_on_device(tensor, preset).numpy(), preprocess(image, preset)
        assert found.shape == expected.shape == (224, 224, 3)
        assert np.abs(found.astype(int) - expected).max() <= 2, size
