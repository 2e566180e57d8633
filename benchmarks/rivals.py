"""What `speed.py` runs against: sentence-transformers, and timm's loader with timm's ResNet-50.

Each is given its best: models are loaded and loaders started before the time counts, and batch size,
workers and the way to bfloat16 are tried out beforehand on a part of the data.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.forward import threads_each

THREADS = 2
BATCH_SIZES = (8, 16, 32, 64)
AS_IT_COMES = 32
"""Batch size of sentence-transformers' `encode`, and ours for timm, whose loader has none of its own."""
TRIED_TEXTS, TRIED_IMAGES = 128, 32
WORKERS = (0, 1, 2)


def saved_seconds(encode: Callable[[], np.ndarray], path: Path) -> float:
    """Seconds until the vectors are encoded and durable in a file."""
    with threads_each(THREADS):
        started = time.perf_counter()
        vectors = encode()
        with path.open("wb") as file:
            np.save(file, vectors)
            file.flush()
            os.fsync(file.fileno())
        return time.perf_counter() - started


def _quickest(ways: Mapping[Any, Callable[[], Any]]) -> Any:
    """The key of the way that takes the least time, of two turns each."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(2):
        for name, way in ways.items():
            with threads_each(THREADS):
                started = time.perf_counter()
                way()
                best[name] = min(best[name], time.perf_counter() - started)
    return min(best, key=lambda name: best[name])


class Sentences:
    """A folder's model in sentence-transformers: mean pooling, vectors not normalised, on the CPU."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        from sentence_transformers import SentenceTransformer

        options = {} if dtype == torch.float32 else {"dtype": dtype}
        self._model: Any = SentenceTransformer(str(folder), device="cpu", model_kwargs=options, local_files_only=True)
        for name, part in list(self._model.named_children()):
            if type(part).__name__ == "Normalize":
                del self._model._modules[name]
        # What the model can take, as ours does; some folders name less.
        self._model.max_seq_length = int(self._model[0].auto_model.config.max_position_embeddings)
        self.best = AS_IT_COMES

    def encode(self, texts: Sequence[str], batch_size: int = AS_IT_COMES) -> np.ndarray:
        """Vectors as float32 `(len(texts), D)`."""
        found = self._model.encode(list(texts), batch_size=batch_size, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)

    def tune(self, texts: Sequence[str]) -> int:
        """Finds the batch size that is quickest on a spread of the texts."""
        part = list(texts)[:: max(1, len(texts) // TRIED_TEXTS)]
        best: int = _quickest({size: functools.partial(self.encode, part, size) for size in BATCH_SIZES})
        self.best = best
        return best


@dataclass(frozen=True)
class Way:
    """How timm encodes: `mode` is `fp32`, `bf16 autocast` or `bf16 weights`."""

    mode: str = "fp32"
    channels_last: bool = False
    workers: int = 1
    batch_size: int = AS_IT_COMES

    def __str__(self) -> str:
        layout = ", channels_last" if self.channels_last else ""
        return f"{self.mode}{layout}, {self.workers} workers, {self.batch_size} a batch"


class Pictures(torch.utils.data.Dataset[tuple[Any, int]]):
    """Files in their order, opened as timm opens them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.transform: Any = None  # set by timm's loader

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        from PIL import Image

        with Image.open(self.paths[number]) as file:
            picture = file.convert("RGB")
        return self.transform(picture), number


class Timm:
    """timm's ResNet-50 on the pooled layer, with the weights of a torchvision state dict."""

    def __init__(self, weights: Path) -> None:
        import timm

        state = torch.load(weights, weights_only=True)
        self._state = {name: part for name, part in state.items() if not name.startswith("fc.")}
        self._make = lambda: timm.create_model("resnet50", pretrained=False, num_classes=0)

    def encoder(self, paths: Sequence[Path], way: Way) -> Callable[[], np.ndarray]:
        """A function that encodes these files; its loader's workers live as long as it does."""
        model = self._make()
        model.load_state_dict(self._state)  # strict: the same names and shapes, or an error
        dtype = torch.bfloat16 if way.mode == "bf16 weights" else torch.float32
        layout = torch.channels_last if way.channels_last else torch.contiguous_format
        model = model.eval().requires_grad_(False).to(dtype=dtype, memory_format=layout)
        loader = _loader(paths, way, dtype)

        def encode() -> np.ndarray:
            found = []
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, way.mode == "bf16 autocast"):
                for pictures, _ in loader:
                    found.append(model(pictures.contiguous(memory_format=layout)).float().numpy())
            return np.concatenate(found)

        return encode

    def tuned(self, paths: Sequence[Path], ways: Sequence[Way]) -> Way:
        """The quickest of these ways, on a part of the files."""
        part = list(paths)[:: max(1, len(paths) // TRIED_IMAGES)]
        best: Way = _quickest({way: self.encoder(part, way) for way in ways})
        return best


def as_it_comes() -> list[Way]:
    """float32 in the usual layout; the number of workers is everybody's to choose."""
    return [Way(workers=workers) for workers in WORKERS]


def best_ways(*modes: str) -> list[Way]:
    """Everything that a careful user would try."""
    return [
        Way(mode, channels_last=True, workers=workers, batch_size=size)
        for mode, workers, size in itertools.product(modes, WORKERS, (8, AS_IT_COMES))
    ]


def _loader(paths: Sequence[Path], way: Way, dtype: torch.dtype) -> Any:
    from timm.data import create_loader

    return create_loader(
        Pictures(paths),
        input_size=(3, 224, 224),
        batch_size=way.batch_size,
        is_training=False,
        interpolation="bilinear",
        crop_pct=224 / 232,  # the shorter side to 232, as torchvision's preset
        num_workers=way.workers,
        device=torch.device("cpu"),
        img_dtype=dtype,
        persistent_workers=way.workers > 0,
    )
