"""Encoders as networks that learn: the same models and outputs as `extract.encoders`, with gradients."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cache import ModelError, UsageError
from extract.decode import decoding
from extract.encoders.image import grid_layer, load_network
from extract.encoders.picture import Preset, preprocess, preset_of
from extract.encoders.spec import OUTPUTS, EncoderSpec
from extract.encoders.text import load_text, longest_text, token_ids
from extract.manifest import Content, bytes_of

Given = tuple[Tensor, Tensor]
"""Vectors `(b, D)` and `bool (b,)`, or tokens `(b, T, D)` and which are there, `bool (b, T)`."""


class Tunable(nn.Module, ABC):
    """One encoder that learns.

    Args:
        spec: the encoder.
        tokens: give the vector of every token, or of every place of a picture's grid, instead of one vector.
    """

    def __init__(self, spec: EncoderSpec, tokens: bool) -> None:
        super().__init__()
        self.spec, self.tokens = spec, tokens
        self._frozen: list[nn.Module] = []

    @abstractmethod
    def prepare(self, contents: Sequence[Content]) -> list[Any]:
        """A light form of each content, made once."""

    @abstractmethod
    def read(self, light: Any, draw: np.random.Generator | None) -> np.ndarray:
        """One input, by chance another each time where `draw` is given. Raises DecodeError, OSError."""

    @abstractmethod
    def collate(self, inputs: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """What `forward` takes for a batch of inputs."""

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor]) -> Given:
        """The encoder's output for a batch."""

    @abstractmethod
    def layers(self) -> list[nn.Module]:
        """Parts from the lowest to the highest, of which the lower ones may be frozen."""

    @abstractmethod
    def save(self, folder: Path) -> dict[str, Any]:
        """Writes the weights under the folder; returns what the spec of the tuned encoder has in other fields."""

    def freeze(self, count: int) -> None:
        """Leaves the lowest parts as they are; their batch norms keep their means, too.

        Raises:
            UsageError: there are not as many.
        """
        layers = self.layers()
        if not 0 <= count <= len(layers):
            raise UsageError(f"{self.spec.model} has {len(layers)} parts to freeze, asked for {count}")
        self._frozen = layers[:count]
        for layer in self._frozen:
            layer.requires_grad_(False)

    def train(self, mode: bool = True) -> Tunable:
        """As torch's; what is frozen stays in evaluation mode."""
        super().train(mode)
        for layer in self._frozen:
            layer.eval()
        return self


class TunableText(Tunable):
    """A BERT-like model: the mean of its last hidden states or the first, or all of them."""

    model: nn.Module

    def __init__(self, spec: EncoderSpec, tokens: bool) -> None:
        super().__init__(spec, tokens)
        self._tokenizer, config, _, self.model = load_text(spec)
        self._longest = longest_text(spec, self._tokenizer, config)
        self._pad = int(self._tokenizer.pad_token_id or 0)
        self.output = spec.output or OUTPUTS["text"][0]

    def prepare(self, contents: Sequence[Content]) -> list[np.ndarray]:
        """Token ids."""
        return token_ids(self._tokenizer, contents, self._longest)[0]

    def read(self, light: np.ndarray, draw: np.random.Generator | None) -> np.ndarray:
        """The token ids."""
        return light

    def collate(self, inputs: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Ids `(b, T)`, T the longest of these texts, and which are there."""
        parts = [torch.from_numpy(one) for one in inputs]
        ids = nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=self._pad)
        lengths = torch.tensor([len(one) for one in parts])
        return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}

    def forward(self, inputs: Mapping[str, Tensor]) -> Given:
        """Hidden states, pooled unless tokens are asked for."""
        hidden = self.model(**inputs).last_hidden_state.float()
        shown = inputs["attention_mask"].bool()
        if self.tokens:
            return hidden, shown
        if self.output == "cls":
            return hidden[:, 0], shown[:, 0]
        share = shown.unsqueeze(-1).to(hidden.dtype)
        return (hidden * share).sum(dim=1) / share.sum(dim=1), shown[:, 0]

    def layers(self) -> list[nn.Module]:
        """The embeddings, and the layers of the encoder."""
        for names in (("embeddings", "encoder.layer"), ("embeddings", "transformer.layer"), ("embeddings", "layers")):
            try:
                first, stack = (self.model.get_submodule(name) for name in names)
            except AttributeError:
                continue
            if isinstance(stack, nn.ModuleList):
                return [first, *stack]
        raise UsageError(f"the layers of {self.spec.model} are not known by name; leave out --freeze")

    def save(self, folder: Path) -> dict[str, Any]:
        """A folder as transformers reads it: config, weights, tokenizer."""
        cast("Any", self.model).save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)
        return {"model": str(folder), "random_init": None}


class TunableImage(Tunable):
    """A network of torchvision up to its last pooling, or its last feature map, place by place."""

    def __init__(self, spec: EncoderSpec, tokens: bool) -> None:
        super().__init__(spec, tokens)
        if spec.decoder == "nvjpeg":
            raise UsageError("pictures are decoded by Pillow while encoders are tuned; leave out --decoder nvjpeg")
        self._preset = preset_of(spec.model)
        self.model, _, width, _ = load_network(spec)
        self._draft = self._preset.resize if spec.decoder == "draft" else None
        mean, std = (np.array(part).reshape(1, 3, 1, 1) for part in (self._preset.mean, self._preset.std))
        self._scale = nn.Buffer(torch.tensor(1 / (255 * std), dtype=torch.float32), persistent=False)
        self._shift = nn.Buffer(torch.tensor(-mean / std, dtype=torch.float32), persistent=False)
        self._grid: Tensor | None = None
        if tokens:
            name = grid_layer(self.model.eval(), spec.model, width, self._preset.crop)
            self.model.get_submodule(name).register_forward_hook(self._keep)

    def _keep(self, _part: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._grid = output

    def prepare(self, contents: Sequence[Content]) -> list[Content]:
        """Paths, or the bytes of files, as they are."""
        return list(contents)

    def read(self, light: Content, draw: np.random.Generator | None) -> np.ndarray:
        """`uint8 (crop, crop, 3)`: the centre as the encoder takes it, or a random part, perhaps mirrored."""
        with decoding(bytes_of(light), self._draft) as image:  # type: ignore[arg-type]
            return preprocess(image, self._preset) if draw is None else augmented(image, self._preset, draw)

    def collate(self, inputs: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """`uint8 (b, 3, crop, crop)`."""
        return {"pixels": torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2)}

    def forward(self, inputs: Mapping[str, Tensor]) -> Given:
        """The pooled vector, or the places of the last feature map."""
        pixels = inputs["pixels"].to(torch.float32)
        # Channels last, as the encoder has them: it is the faster order.
        scaled = torch.addcmul(self._shift, pixels, self._scale).contiguous(memory_format=torch.channels_last)
        pooled = self.model(scaled)
        if not self.tokens:
            vectors = pooled.flatten(1).float()
            return vectors, torch.ones(len(vectors), dtype=torch.bool, device=vectors.device)
        grid, self._grid = self._grid, None
        if grid is None:
            raise ModelError(f"{self.spec.model} did not pass the layer of its feature map")
        states = (grid.flatten(2).transpose(1, 2) if grid.ndim == 4 else grid).float()
        return states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)

    def layers(self) -> list[nn.Module]:
        """The network's parts, those of a `features` part one by one."""
        parts: list[nn.Module] = []
        for name, part in self.model.named_children():
            parts += list(part.children()) if name == "features" else [part]
        return parts

    def save(self, folder: Path) -> dict[str, Any]:
        """A state dict as safetensors."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "weights.safetensors"
        save_file({name: part.contiguous() for name, part in self.model.state_dict().items()}, path)
        return {"weights": str(path), "random_init": None}


def augmented(image: Image.Image, preset: Preset, draw: np.random.Generator) -> np.ndarray:
    """A random part of a picture, mirrored in one of two cases: `uint8 (crop, crop, 3)`.

    The part has 25 to 100 % of the area and an aspect ratio of 3/4 to 4/3, as torchvision's
    `RandomResizedCrop` draws it (Szegedy et al. 2015), but never so little.
    """
    area, ratio = draw.uniform(0.25, 1.0), np.exp(draw.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(image.width, round(math.sqrt(image.width * image.height * area * ratio)))
    height = min(image.height, round(math.sqrt(image.width * image.height * area / ratio)))
    width, height = max(width, 1), max(height, 1)
    left, top = int(draw.integers(image.width - width + 1)), int(draw.integers(image.height - height + 1))
    method = Image.Resampling[preset.interpolation.upper()]
    part = image.resize((preset.crop, preset.crop), method, (left, top, left + width, top + height))
    pixels = np.asarray(part, dtype=np.uint8)
    return np.ascontiguousarray(pixels[:, ::-1]) if draw.random() < 0.5 else pixels


def tunable(spec: EncoderSpec, tokens: bool) -> Tunable:
    """The encoder of a spec as a network that learns.

    Raises:
        ModelError: it cannot be loaded.
        UsageError: there is nothing to tune in the encoder of this modality.
    """
    kinds: dict[str, type[Tunable]] = {"text": TunableText, "image": TunableImage}
    if spec.kind not in kinds:
        raise UsageError(f"the modality {spec.modality!r} has no encoder to tune; leave it out of --tune")
    return kinds[spec.kind](spec, tokens)
