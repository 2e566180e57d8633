"""The lanes of `speed.py`: each section sets up what it compares, checks it, and then runs round by round."""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.forward import (
    PlannedBatch,
    bert_flop,
    compiled_rate,
    lowest_cosine,
    matmul_rates,
    part_of,
    planned_batches,
    threads_each,
)
from benchmarks.rivals import AS_IT_COMES, THREADS, Sentences, Timm, Way, as_it_comes, best_ways, saved_seconds
from cache import load
from extract import EncoderSpec, Extraction, Manifest, Settings, extract, read_manifest
from extract.encoders import build_encoder
from extract.measure import bare_seconds
from extract.runtime import Runtime, choose_runtime

Lanes = dict[str, Callable[[], dict[str, float]]]
"""By name, what one turn of a lane gives: `seconds`, or other figures."""
MODELS = ["MiniLM", "BERT-base"]
"""Text models that are measured; `--models` leaves some out."""
LEAST_COSINE = 0.999
VOCABULARY = 30522
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHORT = 5
"""The replicas are compared on this fraction of the data."""


@dataclass(frozen=True)
class Bench:
    """What all sections share: models, data, the device, and a folder on disk.

    `posts` have a text and a picture each.
    """

    work: Path
    models: Mapping[str, Path]
    weights: Path
    texts: Manifest
    pictures: Manifest
    posts: Manifest
    runtime: Runtime

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that this device itself has."""
        return ("bf16", "fp32") if self.runtime.has_bf16 else ("fp32",)

    def text(self, model: str, precision: str) -> EncoderSpec:
        """One of the text models."""
        return EncoderSpec("text", str(self.models[model]), precision=precision)

    def image(self, precision: str) -> EncoderSpec:
        """ResNet-50."""
        return EncoderSpec("image", "resnet50", weights=str(self.weights), precision=precision)

    def ours(self, manifest: Manifest, *specs: EncoderSpec) -> tuple[Extraction, dict[str, np.ndarray]]:
        """A whole extraction into a fresh store on disk; what was done, and the vectors by modality."""
        torch.set_num_threads(THREADS)
        store = Path(tempfile.mkdtemp(dir=self.work))
        done = extract(manifest, Settings(store, "bench", specs, device="cpu"))
        vectors = {spec.modality: load(store, "bench").block(spec.modality) for spec in specs}
        shutil.rmtree(store)
        if done.failed_ids:
            raise RuntimeError(f"samples failed: {done.failed_ids}")
        return done, vectors


def make_bench(work: Path, ecnu: Path, minilm: Path, texts: int, images: int) -> Bench:
    """Writes the random models and picks the data."""
    torch.set_num_threads(THREADS)
    samples = read_manifest(ecnu)
    by_text = {str(one.inputs["text"]): one for one in reversed(samples.samples) if "text" in one.inputs}
    unique = [one for one in samples.samples if by_text.get(str(one.inputs.get("text"))) is one][:texts]
    originals = [one for one in samples.samples if one.label][:images]
    return Bench(
        work,
        {"MiniLM": minilm, "BERT-base": make_bert(work / "bert-base", minilm)},
        make_resnet(work / "resnet50.pth"),
        part_of(samples, unique, "text"),
        part_of(samples, originals, "image"),
        part_of(samples, originals, "text", "image"),
        choose_runtime("cpu"),
    )


def make_bert(folder: Path, minilm: Path) -> Path:
    """BERT-base with random weights, and the vocabulary that it shares with MiniLM."""
    from transformers import BertConfig, BertModel

    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (minilm / name).exists():
            shutil.copyfile(minilm / name, folder / name)
    config = BertConfig()
    found = json.loads((minilm / "config.json").read_text())["vocab_size"]
    if found != config.vocab_size or found != VOCABULARY:
        raise RuntimeError(f"{minilm} has a vocabulary of {found} words, not bert-base-uncased's {VOCABULARY}")
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    return folder


def make_resnet(path: Path) -> Path:
    """ResNet-50 with random weights that behaves like a trained one: its features differ from picture to picture.

    The batch norms have seen some noise, and each block adds but a fifth of its own to what it is given. Without
    that rounding grows from block to block: bf16, ours or timm's autocast, falls to a cosine of 0.995 to 0.998.
    """
    from torchvision.models.resnet import Bottleneck, resnet50

    torch.manual_seed(0)
    network = resnet50().train()
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None  # the plain mean over the batches
        if isinstance(part, Bottleneck):
            torch.nn.init.constant_(part.bn3.weight, 0.2)
    with torch.inference_mode():
        for _ in range(4):
            network(torch.nn.functional.interpolate(torch.randn(8, 3, 28, 28), size=224, mode="bilinear"))
    torch.save(network.state_dict(), path)
    return path


def require(what: str, cosine: float) -> float:
    """Stops where vectors are not the same: times of other vectors are worth nothing."""
    if not cosine >= LEAST_COSINE:
        raise RuntimeError(f"{what}: the lowest cosine is {cosine:.5f}, it must be at least {LEAST_COSINE}")
    return cosine


class Text:
    """Texts, against sentence-transformers; and the machine's rates of matrix products."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._texts = [str(one.inputs["text"]) for one in bench.texts.samples]
        self._rivals = {(model, "fp32"): Sentences(bench.models[model]) for model in MODELS}
        if bench.runtime.has_bf16:
            self._rivals |= {(model, "bf16"): Sentences(bench.models[model], torch.bfloat16) for model in MODELS}

    def check(self) -> dict[str, Any]:
        """Compares the vectors, then finds the rival's best batch sizes."""
        found: dict[str, Any] = {"texts": len(self._texts)}
        for model in MODELS:
            mine = {one: self._vectors(model, one) for one in self._bench.precisions}
            theirs = self._rivals[model, "fp32"].encode(self._texts)
            what = f"{model}, ours fp32 to sentence-transformers fp32, cosine"
            found[what] = require(what, lowest_cosine(mine["fp32"], theirs))
            if "bf16" in mine:
                what = f"{model}, ours bf16 to ours fp32, cosine"
                found[what] = require(what, lowest_cosine(mine["bf16"], mine["fp32"]))
        for (model, precision), rival in self._rivals.items():
            found[f"{model}, sentence-transformers {precision}, batch size"] = rival.tune(self._texts)
        encoder = build_encoder(self._bench.text(MODELS[-1], "fp32"), self._bench.runtime)
        lengths = encoder.prepare(self._texts)[1]
        found["tokens"] = sum(lengths)
        if "BERT-base" in MODELS:
            config = json.loads((self._bench.models["BERT-base"] / "config.json").read_text())
            found["BERT-base, GFLOP"] = bert_flop(lengths, config) / 1e9
        return found

    def lanes(self) -> Lanes:
        """Ours, the rival as it comes, and the rival at its best, in turn."""
        lanes: Lanes = {}
        for model in MODELS:
            for precision in self._bench.precisions:
                lanes[f"{model}, ours {precision}"] = functools.partial(self._ours, model, precision)
            lanes[f"{model}, sentence-transformers as it comes"] = functools.partial(self._theirs, model, "fp32", False)
            for precision in self._bench.precisions:
                name = f"{model}, sentence-transformers tuned {precision}"
                lanes[name] = functools.partial(self._theirs, model, precision, True)
        for precision in self._bench.precisions:
            lanes[f"matrix products {precision}"] = functools.partial(
                matmul_rates, THREADS, DTYPES[precision], self._bench.runtime.fused
            )
        return lanes

    def _vectors(self, model: str, precision: str) -> np.ndarray:
        return self._bench.ours(self._bench.texts, self._bench.text(model, precision))[1]["text"]

    def _ours(self, model: str, precision: str) -> dict[str, float]:
        done, _ = self._bench.ours(self._bench.texts, self._bench.text(model, precision))
        return {"seconds": done.encode_seconds}

    def _theirs(self, model: str, precision: str, tuned: bool) -> dict[str, float]:
        rival = self._rivals[model, precision]
        work = functools.partial(rival.encode, self._texts, rival.best if tuned else AS_IT_COMES)
        return {"seconds": saved_seconds(work, self._bench.work / "theirs.npy")}


class Images:
    """Pictures, against timm."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._paths = [Path(str(one.inputs["image"])) for one in bench.pictures.samples]
        self._ways: dict[str, Way] = {}
        self._rivals: dict[str, Callable[[], np.ndarray]] = {}

    def check(self) -> dict[str, Any]:
        """Finds the rival's best settings and compares the vectors."""
        rival = Timm(self._bench.weights)
        ways = {"as it comes": as_it_comes(), "tuned fp32": best_ways("fp32")}
        if self._bench.runtime.has_bf16:
            ways["tuned bf16"] = best_ways("bf16 autocast")
            ways["bf16 weights"] = best_ways("bf16 weights")
        self._ways = {name: rival.tuned(self._paths, some) for name, some in ways.items()}
        self._rivals = {name: rival.encoder(self._paths, way) for name, way in self._ways.items()}
        found: dict[str, Any] = {"images": len(self._paths)}
        found |= {f"timm {name}": str(way) for name, way in self._ways.items()}
        mine = {one: self._vectors(one) for one in self._bench.precisions}
        if "bf16" in mine:
            what = "ResNet-50, ours bf16 to ours fp32, cosine"
            found[what] = require(what, lowest_cosine(mine["bf16"], mine["fp32"]))
        for name, encode in self._rivals.items():
            with threads_each(THREADS):
                found[f"ResNet-50, timm {name} to ours fp32, cosine"] = lowest_cosine(encode(), mine["fp32"])
        return found

    def lanes(self) -> Lanes:
        """Ours, the rival as it comes, and the rival at its best, in turn."""
        lanes: Lanes = {f"ResNet-50, ours {one}": functools.partial(self._ours, one) for one in self._bench.precisions}
        return lanes | {f"ResNet-50, timm {name}": functools.partial(self._theirs, name) for name in self._rivals}

    def _vectors(self, precision: str) -> np.ndarray:
        return self._bench.ours(self._bench.pictures, self._bench.image(precision))[1]["image"]

    def _ours(self, precision: str) -> dict[str, float]:
        done, _ = self._bench.ours(self._bench.pictures, self._bench.image(precision))
        return {"seconds": done.encode_seconds}

    def _theirs(self, name: str) -> dict[str, float]:
        return {"seconds": saved_seconds(self._rivals[name], self._bench.work / "theirs.npy")}


class End:
    """Both modalities at once: a whole extraction beside the bare forward passes of its batches."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._data = {"posts": bench.posts}
        self._batches: dict[tuple[str, str], list[PlannedBatch]] = {}

    def check(self) -> dict[str, Any]:
        """Decodes everything once for the bare passes."""
        for name, manifest in self._data.items():
            for model in MODELS:
                self._batches[name, model] = planned_batches(manifest, self._specs(model, "fp32"), self._bench.runtime)
        return {f"{name}, {model}, batches": len(some) for (name, model), some in self._batches.items()}

    def lanes(self) -> Lanes:
        """For each mix of data, model and precision the bare passes, then the extraction."""
        lanes: Lanes = {}
        for name, model in self._batches:
            for precision in self._bench.precisions:
                lane = f"{name}, {model} + ResNet-50, {precision}"
                lanes[f"{lane}, bare"] = functools.partial(self._bare, name, model, precision)
                lanes[f"{lane}, end to end"] = functools.partial(self._whole, name, model, precision)
        return lanes

    def _specs(self, model: str, precision: str) -> tuple[EncoderSpec, EncoderSpec]:
        return self._bench.text(model, precision), self._bench.image(precision)

    def _bare(self, name: str, model: str, precision: str) -> dict[str, float]:
        runtime = self._bench.runtime
        encoders = {spec.modality: build_encoder(spec, runtime) for spec in self._specs(model, precision)}
        return {"seconds": bare_seconds(self._batches[name, model], encoders, runtime.replicas, runtime.replica)}

    def _whole(self, name: str, model: str, precision: str) -> dict[str, float]:
        done, _ = self._bench.ours(self._data[name], *self._specs(model, precision))
        total = self._bench.runtime.replicas * done.encode_seconds
        return {"seconds": done.encode_seconds} | {
            f"stage: {stage}": seconds / total for stage, seconds in done.stage_seconds.items()
        }


class Replicas:
    """Two replicas of one thread beside one of two threads; and a compiler beside our kernels."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._batches: dict[tuple[str, int], list[PlannedBatch]] = {}
        self._compiled: dict[str, Callable[[], float]] = {}

    def check(self) -> dict[str, Any]:
        """Decodes and compiles."""
        bench = self._bench
        texts = part_of(bench.texts, bench.texts.samples[::SHORT], "text")
        pictures = part_of(
            bench.pictures, bench.pictures.samples[: max(8, len(bench.pictures.samples) // SHORT)], "image"
        )
        for larger in (1, 2):
            for model in MODELS:
                specs = [bench.text(model, "fp32")]
                self._batches[model, larger] = planned_batches(texts, specs, bench.runtime, larger)
            specs = [bench.image("fp32")]
            self._batches["ResNet-50", larger] = planned_batches(pictures, specs, bench.runtime, larger)
        try:
            self._compiled = {one: self._compile(one) for one in bench.precisions}
        except Exception as error:  # the compiler's own errors are many; without one this lane cannot be
            return {"torch.compile": f"not measured: {type(error).__name__}: {str(error).splitlines()[0]}"}
        return {"torch.compile": "with freezing, two threads, batch size 8"}

    def lanes(self) -> Lanes:
        """One lane a model and precision; its variants take turns within it."""
        lanes: Lanes = {}
        for model in (*MODELS, "ResNet-50"):
            for precision in self._bench.precisions:
                lanes[f"{model} {precision}"] = functools.partial(self._both, model, precision)
        return lanes

    def _both(self, model: str, precision: str) -> dict[str, float]:
        spec = self._bench.image(precision) if model == "ResNet-50" else self._bench.text(model, precision)
        encoders = {spec.modality: build_encoder(spec, self._bench.runtime)}
        wide = functools.partial(threads_each, THREADS)
        narrow = functools.partial(threads_each, 1)
        planned, larger = self._batches[model, 1], self._batches[model, 2]
        rates = {
            "two replicas of one thread": _rate(planned, encoders, THREADS, narrow),
            "one of two threads": _rate(planned, encoders, 1, wide),
            "one of two threads, batches twice as large": _rate(larger, encoders, 1, wide),
        }
        if model == "ResNet-50" and precision in self._compiled:
            rates["compiled with freezing, two threads"] = self._compiled[precision]()
        return rates

    def _compile(self, precision: str) -> Callable[[], float]:
        from torchvision.models import resnet50

        network = resnet50()
        network.load_state_dict(torch.load(self._bench.weights, weights_only=True))
        network.fc = torch.nn.Identity()
        dtype, layout = DTYPES[precision], torch.channels_last
        network = network.eval().requires_grad_(False).to(dtype=dtype, memory_format=layout)
        stacks = [np.stack(inputs) for _, inputs in self._batches["ResNet-50", 1] if len(inputs) == 8]
        # Normalised beforehand, which ours is not: the compiler's rate is rather too high than too low.
        batches = [
            ((torch.from_numpy(one).permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.225).to(dtype=dtype) for one in stacks
        ]
        return compiled_rate(network, [one.contiguous(memory_format=layout) for one in batches], THREADS)


def _rate(batches: Sequence[PlannedBatch], encoders: Mapping[str, Any], replicas: int, replica: Any) -> float:
    """Items/s."""
    return sum(len(inputs) for _, inputs in batches) / bare_seconds(batches, encoders, replicas, replica)


SECTIONS: dict[str, Callable[[Bench], Text | Images | End | Replicas]] = {
    "text": Text,
    "image": Images,
    "end": End,
    "replicas": Replicas,
}


def disk_of(folder: Path) -> str:
    """Type of the file system that a folder is on."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    held = [(len(one[1]), one[2]) for one in mounts if os.path.commonpath([one[1], folder.resolve()]) == one[1]]
    return max(held)[1]
