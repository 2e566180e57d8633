"""What this machine reaches in stage one, what its limit is, and where the time goes."""

from __future__ import annotations

import contextlib
import csv
import queue
import random
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from cache import DataError, Progress, silent
from extract.batching import Budget, plan_batches
from extract.contents import read_contents
from extract.datasets import read_manifest
from extract.datasets.demo import WORDS, write_bert
from extract.decode import DecodeError
from extract.encoders import build_encoder
from extract.encoders.spec import Encoder, EncoderSpec, decode_light
from extract.manifest import Manifest, Piece
from extract.stage import Extraction, Settings, extract

if TYPE_CHECKING:
    from extract.runtime import Runtime

T = TypeVar("T")
CPU_SAMPLES, GPU_SAMPLES = 128, 2048
MATRIX = 2048
ROUNDS = 5


def write_bench_posts(folder: Path, count: int, seed: int = 0) -> Path:
    """Writes posts to measure on: texts of 5 to 40 words, JPEGs of 640 x 480, and a BERT-base without weights.

    Returns:
        The folder of the text model; the posts are in `folder / "posts"`.
    """
    rng, draw = random.Random(seed), np.random.default_rng(seed)  # noqa: S311 - draws posts, guards nothing  # nosec B311
    posts, model = folder / "posts", folder / "bert-base"
    posts.mkdir(parents=True)
    model.mkdir()
    write_bert(model)
    words = [word for group in WORDS.values() for word in group]
    rows = []
    for number in range(count):
        coarse = draw.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(posts / f"{number}.jpg", quality=85)
        rows.append([number, " ".join(rng.choices(words, k=rng.randint(5, 40))), f"{number}.jpg", "ab"[number % 2]])
    with (posts / "posts.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text", "image", "label"], *rows])
    return model


def bench(
    manifest: Manifest | None,
    specs: Callable[[Manifest, Path | None], tuple[EncoderSpec, ...]],
    device: str = "auto",
    compile_encoders: bool = False,
    samples: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Encodes some samples into a store that is thrown away, and measures each stage by itself.

    Args:
        manifest: whose first samples are taken; None generates some.
        specs: the encoders for a manifest, and for the text model that was generated with it.
        device: as for `extract`; of several the stages are measured on the first.
        compile_encoders: use `torch.compile`.
        samples: how many; 128 on the CPU and 2048 on a GPU by default.
        progress: told of every stage.

    Returns:
        `device`, `samples`, `failed`, `replicas`, `matrix_gflops` by precision, by modality in `modalities` the
        `model`, `precision`, `why`, `items`, and items a second of `prepare`, `decode` and `forward`;
        `forward_seconds`, `decode_seconds` and `seconds` of everything together, `stage_seconds`.

    Raises:
        DataError: nothing could be encoded.
    """
    from extract.runtime import choose_runtimes

    runtime = choose_runtimes(device, compile_encoders)[0]
    count = samples or (GPU_SAMPLES if runtime.device.type == "cuda" else CPU_SAMPLES)
    with tempfile.TemporaryDirectory() as work:
        model = None
        if manifest is None:
            model = write_bench_posts(Path(work), count)
            manifest = read_manifest(Path(work) / "posts")
        manifest = replace(manifest, samples=manifest.samples[:count])
        settings = Settings(Path(work) / "store", "bench", specs(manifest, model), device, compile_encoders)
        done = extract(manifest, settings, progress)
        if not done.encoded:
            raise DataError(f"nothing of the first {count} samples of {manifest.path} could be encoded")
        rates = {name: _rates(name, manifest, done, runtime, progress) for name in done.view.blocks}
    return {
        "device": runtime.name,
        "samples": len(manifest.samples),
        "generated": model is not None,
        "failed": len(done.failed_ids),
        "replicas": runtime.replicas,
        "matrix_gflops": {name: round(matrix_gflops(runtime, name)) for name in ("fp32", "bf16")},
        "modalities": rates,
        "forward_seconds": round(sum(one["items"] / one["forward"] for one in rates.values()), 3),
        "decode_seconds": round(sum(one["items"] / one["decode"] for one in rates.values() if one["decode"]), 3),
        "seconds": round(done.encode_seconds, 3),
        "stage_seconds": {name: round(seconds, 3) for name, seconds in sorted(done.stage_seconds.items())},
    }


def _rates(modality: str, manifest: Manifest, done: Extraction, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    """Items a second of one modality's stages, each by itself."""
    precision, why = done.precision[modality]
    spec = EncoderSpec.from_json(done.view.blocks[modality].spec)
    encoder = build_encoder(spec, runtime)
    contents = list(read_contents(manifest.samples, [modality])[modality].places.values())
    started = time.perf_counter()
    lights, costs = encoder.prepare(contents)
    prepared = time.perf_counter()
    with ThreadPoolExecutor(runtime.decoders or runtime.replicas) as pool:
        decoded = list(pool.map(lambda light: _decoded(encoder, light), lights))
    ended = time.perf_counter()
    sound = [number for number, one in enumerate(decoded) if one is not None]
    inputs = [one for one in decoded if one is not None]
    progress(f"{modality}: bare forward", 0, 1)
    seconds = _bare_seconds_that_fit(encoder, inputs, [costs[number] for number in sound], runtime)
    progress(f"{modality}: bare forward", 1, 1)
    from_disk = any(isinstance(one, Path | Piece) for one in lights)
    return {
        "model": Path(spec.model).name,
        "precision": precision,
        "why": why,
        "items": len(inputs),
        "prepare": None if from_disk else round(len(contents) / (prepared - started), 1),
        "decode": round(len(contents) / (ended - prepared), 1) if from_disk else None,
        "forward": round(len(inputs) / seconds, 1),
    }


def _decoded(encoder: Encoder, light: Any) -> np.ndarray | None:
    try:
        return decode_light(encoder, light)
    except (DecodeError, OSError):  # the extraction before has recorded it
        return None


def _bare_seconds_that_fit(
    encoder: Encoder, inputs: Sequence[np.ndarray], costs: Sequence[int], runtime: Runtime
) -> float:
    """Of all inputs in the budget's batches, or in as much smaller ones as the memory demands."""
    modality = encoder.key.modality
    budget = runtime.budget(modality)
    while True:
        batches = [(modality, [inputs[number] for number in batch]) for batch in plan_batches(costs, budget)]
        try:
            return bare_seconds(batches, {modality: encoder}, runtime.replicas, runtime.replica)
        except Exception as error:
            if not runtime.out_of_memory(error) or budget.items == 1:
                raise
            budget = Budget(budget.cost // 2, budget.items // 2)


def bare_seconds(
    batches: Sequence[tuple[str, Sequence[np.ndarray]]],
    encoders: Mapping[str, Encoder],
    replicas: int,
    replica: Callable[[], contextlib.AbstractContextManager[None]],
) -> float:
    """Seconds for ready batches by `replicas` threads from one queue; nothing is read or written.

    Args:
        batches: each with its modality, in the order in which they are taken. Beforehand each
            thread encodes one of every modality.
        encoders: by modality.
        replicas: threads that encode.
        replica: makes the calling thread one of them, such as `Runtime.replica`.
    """
    left: queue.SimpleQueue[tuple[str, Sequence[np.ndarray]]] = queue.SimpleQueue()
    for batch in batches:
        left.put(batch)
    first = dict(reversed(batches))

    def work(start: threading.Barrier) -> tuple[float, float]:
        with replica():
            for modality, inputs in first.items():
                encoders[modality].encode(inputs)
            start.wait()
            started = time.perf_counter()
            with contextlib.suppress(queue.Empty):
                while True:
                    modality, inputs = left.get_nowait()
                    encoders[modality].encode(inputs)
            return started, time.perf_counter()

    times = together(replicas, work)
    return max(ended for _, ended in times) - min(started for started, _ in times)


def together(threads: int, work: Callable[[threading.Barrier], T]) -> list[T]:
    """Does the work in so many threads, which go on together from the barrier; if one fails, none waits for it."""
    start = threading.Barrier(threads)

    def guarded() -> T:
        try:
            return work(start)
        except BaseException:
            start.abort()
            raise

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(guarded) for _ in range(threads)]
    errors = [error for error in (one.exception() for one in running) if error is not None]
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return [one.result() for one in running]


def matrix_gflops(runtime: Runtime, precision: str) -> float:
    """The rate at which the device's replicas multiply matrices of 2048 x 2048, the best of 5 rounds."""
    import torch

    from extract.encoders.weights import compute_dtype

    dtype = compute_dtype(precision)

    def work(start: threading.Barrier) -> float:
        with runtime.replica(), torch.inference_mode():
            draw = torch.Generator().manual_seed(0)
            one, two = (torch.randn(MATRIX, MATRIX, generator=draw).to(runtime.device, dtype) for _ in range(2))
            times = []
            for _ in range(ROUNDS + 1):  # the first warms up
                start.wait()
                started = time.perf_counter()
                # On x86 torch hands float32 to MKL, which is slow on some processors; encoders use oneDNN.
                (torch.ops.mkldnn._linear_pointwise(one, two, None, "none", [], "") if runtime.fused else one @ two)
                if runtime.device.type == "cuda":
                    torch.cuda.synchronize(runtime.device)
                times.append(time.perf_counter() - started)
            return 2 * MATRIX**3 / min(times[1:]) / 1e9

    return sum(together(runtime.replicas if runtime.device.type == "cpu" else 1, work))


def bench_lines(result: dict[str, Any]) -> list[str]:
    """The result as a table for people."""
    rates = result["modalities"]
    kind = "generated posts, untrained encoders where none was named" if result["generated"] else "samples"
    lines = [f"{result['device']}: {result['samples']} {kind}, {result['replicas']} batches encoded at a time"]
    products = ", ".join(f"{name} {value:,} GFLOP/s" for name, value in result["matrix_gflops"].items())
    lines += [f"matrix products: {products}", ""]
    if result["failed"]:
        lines.append(f"{result['failed']} of these samples cannot be encoded, and count for nothing here")
    rows = [["", *rates], ["model", *(one["model"] for one in rates.values())]]
    rows += [["precision", *(one["precision"] for one in rates.values())]]
    for name, title in (("prepare", "tokenise"), ("decode", "decode, all threads"), ("forward", "bare forward")):
        rows.append([f"{title}, items/s", *(f"{one[name]:,.0f}" if one[name] else "-" for one in rates.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    lines += [f"{name} in {one['precision']}: {one['why']}" for name, one in rates.items() if one["why"]]
    seconds, forward, decode = result["seconds"], result["forward_seconds"], result["decode_seconds"]
    lines += [
        "",
        f"end to end, all modalities together: {seconds:.2f} s for {result['samples']} samples; bare forward alone "
        f"{forward:.2f} s ({forward / seconds:.0%} of it), decoding alone {decode:.2f} s",
        f"where the time goes, seconds summed over threads: {_stages(result['stage_seconds'])}",
        f"a million samples like these take about {_span(1e6 * seconds / result['samples'])}",
    ]
    return lines


def _stages(seconds: dict[str, float]) -> str:
    order = sorted(seconds.items(), key=lambda one: -one[1])
    return ", ".join(f"{name} {value:.2f}" for name, value in order if value >= 0.005)


def _span(seconds: float) -> str:
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest} min" if hours else f"{rest} min"
