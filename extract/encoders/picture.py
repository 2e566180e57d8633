"""Pictures as networks take them: decoded, resized, cut to their centre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from cache import ModelError, listing
from extract.decode import DecodeError, decoding, is_plain_jpeg
from extract.encoders.spec import EncoderSpec
from extract.manifest import Content

MAX_RESIZED = 2**25
"""Pixels of a resized picture, of which the centre is taken: 128 MiB, a picture 512 times as long as it is wide."""


@dataclass(frozen=True)
class Preset:
    """The preprocessing that a network's weights were trained for."""

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def fields(self, decoder: str) -> dict[str, Any]:
        """Every operation on the picture, as the encoder key lists them."""
        return {
            "decoder": "nvjpeg, resized on the GPU; else pillow" if decoder == "nvjpeg" else "pillow",
            "draft": decoder == "draft",
            "exif": "transposed",
            "colour": "RGB",
            "transparency": "white",
            "resize": self.resize,
            "interpolation": self.interpolation,
            "antialias": True,
            "crop": f"centre {self.crop}",
            "mean": list(self.mean),
            "std": list(self.std),
        }


def preset_of(model: str) -> Preset:
    """The preprocessing of torchvision's network of this name. Raises ModelError where there is none."""
    transforms = official_weights(model).transforms()
    return Preset(
        resize=int(transforms.resize_size[0]),
        crop=int(transforms.crop_size[0]),
        interpolation=str(transforms.interpolation.value),
        mean=tuple(float(value) for value in transforms.mean),
        std=tuple(float(value) for value in transforms.std),
    )


def official_weights(model: str) -> Any:
    """What torchvision says of its own weights of a network. Raises ModelError where there is no such network."""
    from torchvision import models

    names = models.list_models(module=models)
    if model not in names:
        raise ModelError(
            f"torchvision has no classification network {model!r}; it has {listing(names, 8)}: see --image-model"
        )
    return models.get_model_weights(model).DEFAULT


def preprocess(image: Image.Image, preset: Preset) -> np.ndarray:
    """Shorter side to `resize` with antialiasing, then the centre: `uint8 (crop, crop, 3)`.

    The same operations as torchvision's presets do on Pillow images.

    Raises:
        DecodeError: the picture is so long and narrow that resizing it would fill the memory.
    """
    longer = _longer_side(image.width, image.height, preset)
    size = (preset.resize, longer) if image.width <= image.height else (longer, preset.resize)
    resized = image.resize(size, Image.Resampling[preset.interpolation.upper()])
    left, top = (round((side - preset.crop) / 2.0) for side in size)
    return np.asarray(resized.crop((left, top, left + preset.crop, top + preset.crop)), dtype=np.uint8)


def _longer_side(width: int, height: int, preset: Preset) -> int:
    """Of the resized picture. Raises DecodeError where that would fill the memory."""
    longer = int(preset.resize * max(width, height) / min(width, height))
    if preset.resize * longer > MAX_RESIZED:
        raise DecodeError(f"{width} x {height} pixels are too narrow to be resized")
    return longer


def resize_on_device(picture: torch.Tensor, preset: Preset) -> torch.Tensor:
    """The same steps as `preprocess` on a tensor `uint8 (3, H, W)`; gives `uint8 (crop, crop, 3)`.

    Raises:
        DecodeError: as `preprocess`.
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as steps

    _longer_side(picture.shape[2], picture.shape[1], preset)
    method = InterpolationMode[preset.interpolation.upper()]
    resized = steps.resize(picture, [preset.resize], interpolation=method, antialias=True)
    return steps.center_crop(resized, [preset.crop, preset.crop]).permute(1, 2, 0)


class ImageInput:
    """What comes before a network for images; of the network it knows the name alone.

    Inputs are `uint8 (crop, crop, 3)`, RGB; of JPEGs for nvJPEG, the bytes of the file.

    Raises:
        ModelError: there is no such network.
    """

    truncated = 0

    def __init__(self, spec: EncoderSpec) -> None:
        self._preset = preset_of(spec.model)
        self._nvjpeg = spec.decoder == "nvjpeg"
        self._draft = self._preset.resize if spec.decoder == "draft" else None

    def prepare(self, contents: Sequence[Content]) -> tuple[list[Content], list[int]]:
        """Paths, or the bytes of files, as they are; each picture costs 1."""
        return list(contents), [1] * len(contents)

    def decode(self, light: bytes) -> np.ndarray:
        """The picture as the network takes it, from the bytes of its file; the bytes themselves for nvJPEG."""
        if self._nvjpeg and is_plain_jpeg(light):
            return np.frombuffer(light, dtype=np.uint8)
        with decoding(light, self._draft) as picture:
            return preprocess(picture, self._preset)

    def blank(self) -> np.ndarray:
        """A black picture."""
        return np.zeros((self._preset.crop, self._preset.crop, 3), dtype=np.uint8)
