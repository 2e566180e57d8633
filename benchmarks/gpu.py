"""How quick stage one is on a GPU, against what the GPU and the cores give by themselves.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --ecnu FOLDER --text-model FOLDER --images 8000
    python benchmarks/gpu.py --device cpu --texts 64 --images 16 --rounds 1     a try of the script without a GPU

Needs nothing but requirements.txt: without folders it makes its texts, pictures, vocabulary and weights. Where
there is no GPU it says so and writes nothing. Every figure is the median of the rounds, in which the bare
forward pass and the whole extraction take turns; bf16 throughout, but for the comparison of vectors.
"""

from __future__ import annotations

import io
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import numpy as np
import torch

import extract.runtime
from benchmarks.forward import lowest_cosine, part_of, planned_batches
from benchmarks.machine import Target, machine, target_lines, write_result
from benchmarks.sections import VOCABULARY, make_resnet
from cache import load
from extract import EncoderSpec, Extraction, Manifest, Sample, Settings, read_manifest
from extract.batching import Budget
from extract.encoders import build_encoder
from extract.encoders.picture import Preset, resize_on_device
from extract.measure import bare_seconds
from extract.runtime import Runtime, choose_runtime

TOKENS, PICTURES = (32768, 65536, 131072), (64, 128, 256)
COMPARED = 64
"""Items whose vectors are compared with the CPU's."""
PRESET = Preset(232, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Case:
    """One way to extract one modality; `items` counts tokens or pictures."""

    spec: EncoderSpec
    budget: Budget
    compiled: bool

    def __str__(self) -> str:
        size = f"{self.budget.cost} tokens" if self.spec.modality == "text" else f"{self.budget.items} pictures"
        decoder = f"{self.spec.decoder}, " if self.spec.modality == "image" else ""
        return f"{self.spec.modality}, {decoder}{'compiled' if self.compiled else 'plain'}, {size} a batch"

    @property
    def group(self) -> str:
        """All but the budget."""
        return str(self).rsplit(", ", 1)[0]


def make_texts(ecnu: Path | None, number: int) -> list[str]:
    """Texts that all differ: the words of real ones in another order, or made-up words."""
    draw = np.random.default_rng(0)
    if ecnu is None:
        lengths = np.clip(draw.lognormal(3.3, 0.5, number), 4, 120).astype(int)
        return [" ".join(f"word{word}" for word in draw.integers(0, VOCABULARY - 5, size)) for size in lengths]
    found = (str(one.inputs["text"]).split() for one in read_manifest(ecnu).samples if "text" in one.inputs)
    real = [words for words in found if words]
    return [f"{one} {' '.join(draw.permutation(real[one % len(real)]))}" for one in range(number)]


def make_pictures(folder: Path, ecnu: Path | None, number: int) -> list[Path]:
    """JPEGs that all differ: the originals with a little noise, or coloured clouds of 640 x 480."""
    folder.mkdir()
    originals: list[Path] = []
    if ecnu is not None:
        labelled = [one for one in read_manifest(ecnu).samples if one.label][:400]
        originals = [Path(str(one.inputs["image"])) for one in labelled]

    def make(one: int) -> Path:
        from PIL import Image

        draw = np.random.default_rng(one)
        if originals:
            with Image.open(io.BytesIO(originals[one % len(originals)].read_bytes())) as file:
                picture = file.convert("RGB")
        else:
            small = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            picture = Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC)
        pixels = np.asarray(picture, dtype=np.int16)
        noisy = np.clip(pixels + draw.integers(-3, 4, pixels.shape, dtype=np.int16), 0, 255).astype(np.uint8)
        path = folder / f"{one}.jpg"
        Image.fromarray(noisy).save(path, quality=90)
        return path

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(make, range(number)))


def make_text_model(folder: Path) -> Path:
    """BERT-base with random weights and a made-up vocabulary."""
    from transformers import BertConfig, BertModel

    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(VOCABULARY - 5))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "model_max_length": 512}')
    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(folder)
    return folder


class Bench:
    """Data and models of one measurement, and what is done with them."""

    def __init__(self, work: Path, device: str, data: Manifest, specs: dict[str, EncoderSpec]) -> None:
        self.work, self.device, self.specs = work, device, specs
        held = {name: [one for one in data.samples if name in one.inputs] for name in specs}
        self.data = {name: part_of(data, samples, name) for name, samples in held.items()}
        self.runtime = choose_runtime(device)
        self.stages: dict[str, dict[str, float]] = {}

    def whole(self, manifest: Manifest, spec: EncoderSpec, device: str, compiled: bool) -> tuple[Extraction, Any]:
        """An extraction into a fresh store, and its vectors."""
        with tempfile.TemporaryDirectory(dir=self.work) as store:
            settings = Settings(Path(store), "bench", (spec,), device=device, compile=compiled)
            done = extract.extract(manifest, settings)
            if done.failed_ids:
                raise RuntimeError(f"samples failed: {done.failed_ids[:5]}")
            return done, load(store, "bench").block(spec.modality).copy()

    def measure(self, case: Case, rounds: int) -> dict[str, float]:
        """Tokens/s or pictures/s of the bare forward pass, on decoded inputs, and of the whole extraction."""
        set_budget(case)
        manifest = self.data[case.spec.modality]
        runtime = replace(self.runtime, compile=case.compiled)
        plain = replace(case.spec, decoder="pillow")
        batches = planned_batches(manifest, [plain], replace(runtime, compile=False))
        encoders = {plain.modality: build_encoder(plain, runtime)}
        sizes = [len(one) if plain.modality == "text" else 1 for _, inputs in batches for one in inputs]
        bare_seconds(batches, encoders, runtime.replicas, runtime.replica)  # compiles all that is to be compiled
        bare, whole = [], []
        for _ in range(rounds):
            bare.append(bare_seconds(batches, encoders, runtime.replicas, runtime.replica))
            done, _ = self.whole(manifest, case.spec, self.device, case.compiled)
            whole.append(done.encode_seconds)
        self.stages[str(case)] = {stage: seconds / whole[-1] for stage, seconds in done.stage_seconds.items()}
        return {"bare": sum(sizes) / statistics.median(bare), "end to end": sum(sizes) / statistics.median(whole)}

    def cosines(self, cases: Sequence[Case]) -> dict[str, float]:
        """The lowest cosine to float32 on the CPU of every kind of case, and of float32 on this device."""
        found = {}
        for modality, spec in self.specs.items():
            few = part_of(self.data[modality], self.data[modality].samples[:COMPARED], modality)
            exact = self.whole(few, replace(spec, precision="fp32"), "cpu", False)[1]
            ways = {case.group: case for case in reversed(cases) if case.spec.modality == modality}
            for name, case in ways.items():
                set_budget(case)
                found[name] = lowest_cosine(self.whole(few, case.spec, self.device, case.compiled)[1], exact)
            full = self.whole(few, replace(spec, precision="fp32"), self.device, False)[1]
            found[f"{modality}, fp32"] = lowest_cosine(full, exact)
        return found

    def decode_limits(self, decoders: Sequence[str], rounds: int) -> dict[str, float]:
        """Pictures/s of decoding alone: by Pillow on all cores, by nvJPEG with resizing on the GPU."""
        paths = [Path(str(one.inputs["image"])) for one in self.data["image"].samples]
        ways = {"pillow": self._by_pillow, "nvjpeg": self._by_nvjpeg}
        return {one: statistics.median(len(paths) / ways[one](paths) for _ in range(rounds + 1)) for one in decoders}

    def _by_pillow(self, paths: Sequence[Path]) -> float:
        encoder = build_encoder(replace(self.specs["image"], precision="fp32"), choose_runtime("cpu"))
        with ThreadPoolExecutor(self.runtime.decoders or self.runtime.replicas) as pool:
            started = time.perf_counter()
            for _ in pool.map(lambda path: encoder.decode(path.read_bytes()), paths):
                pass
            return time.perf_counter() - started

    def _by_nvjpeg(self, paths: Sequence[Path]) -> float:
        from torchvision.io import ImageReadMode, decode_jpeg

        raw = [torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) for path in paths]

        def work(start: int) -> None:
            with self.runtime.replica():
                part = raw[start : start + 128]
                pictures = decode_jpeg(part, mode=ImageReadMode.RGB, device=self.runtime.device)
                for picture in pictures:
                    resize_on_device(picture, PRESET)
                torch.cuda.current_stream(self.runtime.device).synchronize()

        with ThreadPoolExecutor(self.runtime.replicas) as pool:
            started = time.perf_counter()
            list(pool.map(work, range(0, len(raw), 128)))
            return time.perf_counter() - started


def set_budget(case: Case) -> None:
    """Makes all runtimes of this process give the case's batch limits for GPUs."""
    if case.spec.modality == "text":
        extract.runtime.GPU_TEXT = case.budget
    else:
        extract.runtime.GPU_IMAGE = case.budget


def nvjpeg_works(runtime: Runtime, picture: Path) -> str:
    """Why nvJPEG cannot be used here; empty if it can."""
    from torchvision.io import decode_jpeg

    try:
        raw = torch.frombuffer(bytearray(picture.read_bytes()), dtype=torch.uint8)
        decode_jpeg([raw], device=runtime.device)
    except (RuntimeError, ValueError) as error:
        return str(error).splitlines()[0]
    return ""


def cases_of(specs: dict[str, EncoderSpec], decoders: Sequence[str], compiled: Sequence[bool]) -> list[Case]:
    text = [Case(specs["text"], Budget(size, size // 16), way) for way, size in itertools.product(compiled, TOKENS)]
    pictures = [
        Case(replace(specs["image"], decoder=decoder), Budget(size, size), way)
        for decoder, way, size in itertools.product(decoders, compiled, PICTURES)
    ]
    return [*text, *pictures]


def targets(
    cases: Sequence[Case], found: dict[str, dict[str, float]], limits: dict[str, float], cosines: dict[str, float]
) -> list[Target]:
    """Each group's quickest extraction beside the group's quickest bare pass, and the limit of decoding."""
    rows: list[Target] = []
    for group in dict.fromkeys(case.group for case in cases):
        held = {str(case): case for case in cases if case.group == group}
        bare = max(found[name]["bare"] for name in held)
        best = max(held, key=lambda name: found[name]["end to end"])
        case, rate = held[best], found[best]["end to end"]
        limit = min(bare, limits.get(case.spec.decoder, bare)) if case.spec.modality == "image" else bare
        goal = 0.85 if case.spec.modality == "text" else 0.8
        of = "bare forward" if case.spec.modality == "text" else "the lower of decoding and bare forward"
        value = f"{100 * rate / limit:.0f} % ({rate:.0f} of {limit:.0f}/s)"
        rows.append((f"end to end: {best}", f">= {100 * goal:.0f} % of {of}", value, rate >= goal * limit))
    for name, cosine in cosines.items():
        goal = 0.99 if "nvjpeg" in name else 0.9999 if name.endswith("fp32") else 0.999
        rows.append((f"vectors beside the CPU's fp32: {name}", f"cosine >= {goal}", f"{cosine:.5f}", cosine >= goal))
    return rows


def lines_of(result: dict[str, Any], rounds: int) -> list[str]:
    lines = [*target_lines(result["targets"]), "", f"Medians of {rounds} rounds; {result['data']}."]
    lines += ["The seconds of a compiled extraction have the compilation in them; its bare pass has not.", ""]
    lines += ["| case | bare forward, /s | end to end, /s | share |", "|---|---|---|---|"]
    for name, one in result["cases"].items():
        share = 100 * one["end to end"] / one["bare"]
        lines.append(f"| {name} | {one['bare']:.0f} | {one['end to end']:.0f} | {share:.0f} % |")
    lines += ["", "| decoding alone | pictures/s |", "|---|---|"]
    lines += [f"| {name} | {rate:.0f} |" for name, rate in result["decoding"].items()]
    if result["nvjpeg"]:
        lines += ["", f"nvJPEG was not measured: {result['nvjpeg']}."]
    lines += ["", "| seconds of each stage in one second of extraction | |", "|---|---|"]
    for name, stages in result["stages"].items():
        told = ", ".join(f"{stage} {share:.2f}" for stage, share in stages.items())
        lines.append(f"| {name} | {told} |")
    return lines


def measure(bench: Bench, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    gpu = bench.runtime.device.type == "cuda"
    first = Path(str(bench.data["image"].samples[0].inputs["image"]))
    lacking = nvjpeg_works(bench.runtime, first) if gpu else "there is no GPU"
    decoders = ["pillow"] if lacking else ["pillow", "nvjpeg"]
    cases = cases_of(bench.specs, decoders, (False, True) if gpu else (False,))
    cosines = bench.cosines(cases)
    say(f"compared: {cosines}")
    limits = bench.decode_limits(decoders, rounds)
    found = {}
    for case in cases:
        found[str(case)] = bench.measure(case, rounds)
        say(f"{case}: {found[str(case)]}")
    goals = targets(cases, found, limits, cosines)
    result = {"targets": goals, "cases": found, "decoding": limits, "cosines": cosines}
    return result | {"stages": bench.stages, "nvjpeg": lacking}


@click.command()
@click.option("--device", default="cuda", show_default=True, help="cuda, cuda:N; cpu tries the script itself.")
@click.option("--ecnu", type=click.Path(exists=True, path_type=Path), help="The ECNU posts; made up by default.")
@click.option("--text-model", type=click.Path(exists=True, path_type=Path), help="Folder; random BERT-base by default.")
@click.option("--texts", default=60_000, show_default=True)
@click.option("--images", default=4000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(device: str, ecnu: Path | None, text_model: Path | None, texts: int, images: int, rounds: int) -> None:
    """Measure, and write the results beside this script."""
    if device != "cpu" and not torch.cuda.is_available():
        click.echo(
            "there is no usable NVIDIA GPU here: nothing was measured; the script is ready for a machine with one"
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        made = [Sample(f"text-{n}", {"text": text}) for n, text in enumerate(make_texts(ecnu, texts))]
        files = make_pictures(work / "pictures", ecnu, images)
        made += [Sample(f"image-{n}", {"image": path}) for n, path in enumerate(files)]
        precision = "bf16" if choose_runtime(device).has_bf16 else "fp32"
        model = text_model.resolve() if text_model else make_text_model(work / "bert")
        specs = {
            "text": EncoderSpec("text", str(model), precision=precision),
            "image": EncoderSpec(
                "image", "resnet50", weights=str(make_resnet(work / "resnet.pth")), precision=precision
            ),
        }
        bench = Bench(work, device, Manifest(work, "made", tuple(made)), specs)
        result = measure(bench, rounds, lambda line: click.echo(line, err=True))
    about = {**machine(), "gpu": bench.runtime.name, "cuda": str(torch.version.cuda)}
    source = "ECNU's, made unique" if ecnu else "made up"
    result = {"machine": about, "data": f"{texts} texts and {images} pictures, {source}; {precision}", **result}
    lines = lines_of(result, rounds)
    if device == "cpu":
        click.echo("\n".join([*lines, "", "A try on the CPU: nothing was written."]))
    else:
        click.echo(write_result("gpu", "Stage one on a GPU", result, lines))


if __name__ == "__main__":
    main()
