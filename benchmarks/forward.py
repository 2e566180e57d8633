"""What the hardware gives without the rest of stage one: bare forward passes, matrix products, a compiler.

For `speed.py` and `gpu.py`; nothing is measured by running this file.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache import FeatureStore, FeatureWriter
from extract import EncoderSpec, Manifest, Sample
from extract.batching import Budget
from extract.clock import Clock
from extract.contents import read_contents
from extract.encoders import build_encoder
from extract.encoders.spec import decode_light, outputs_of
from extract.manifest import Content
from extract.measure import together
from extract.planner import Lane, Planner, Work, stream_tasks
from extract.runtime import Runtime

PlannedBatch = tuple[str, list[np.ndarray]]
"""A modality, and what its encoder takes: decoded or tokenised."""
MATRIX = 2048
LEAST_SECONDS = 0.5
"""A rate of matrix products is taken over at least so long."""


def part_of(manifest: Manifest, samples: Sequence[Sample], *modalities: str) -> Manifest:
    """Some samples of a data set, with only these modalities."""
    kept = [{name: one.inputs[name] for name in modalities if name in one.inputs} for one in samples]
    chosen = [Sample(one.id, inputs, one.label) for one, inputs in zip(samples, kept, strict=True)]
    return Manifest(manifest.path, manifest.layout, tuple(chosen))


def planned_batches(
    manifest: Manifest, specs: Sequence[EncoderSpec], runtime: Runtime, larger: int = 1
) -> list[PlannedBatch]:
    """The very batches of an extraction, in its order, each input decoded or tokenised already.

    With `larger` batches may hold so many times as much as the extraction's.
    """
    contents = read_contents(manifest.samples, [spec.modality for spec in specs])
    with tempfile.TemporaryDirectory() as folder:
        lanes = [_lane(Path(folder), spec, contents[spec.modality].places, runtime, larger) for spec in specs]
        encoders = {lane.modality: lane.encoder for lane in lanes}
        tasks = list(stream_tasks(lanes, [Planner(lane, Clock()) for lane in lanes]))
    with ThreadPoolExecutor(runtime.decoders or runtime.replicas) as pool:
        decode = {name: functools.partial(decode_light, encoder) for name, encoder in encoders.items()}
        return [(task.modality, list(pool.map(decode[task.modality], task.lights))) for task in tasks]


def _lane(folder: Path, spec: EncoderSpec, places: Mapping[bytes, Content], runtime: Runtime, larger: int) -> Lane:
    encoder = build_encoder(spec, runtime)
    store = FeatureStore(folder).encoder(encoder.key.digest)
    store.create(encoder.key)
    writer = FeatureWriter(store, list(outputs_of(encoder.key.fields)), {})
    budget = runtime.budget(spec.modality)
    budget = Budget(larger * budget.cost, larger * budget.items)
    return Lane(encoder, Work(places, sorted(places)), store, writer, budget)


@contextlib.contextmanager
def threads_each(number: int) -> Iterator[None]:
    """Makes the calling thread one that has so many threads inside each operator."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def matmul_rates(threads: int, dtype: torch.dtype, fused: bool) -> dict[str, float]:
    """GFLOP/s of 2048 x 2048 products: `threads` in one product, and as many products of one thread each.

    With `fused` also by oneDNN on packed weights, which is what our linear layers use.
    """
    kinds = ["plain", "packed"] if fused else ["plain"]
    rates = {}
    for kind in kinds:
        rates[f"{kind}, {threads} threads in one"] = _matmul_rate(1, threads, dtype, kind)
        rates[f"{kind}, {threads} of one thread"] = _matmul_rate(threads, 1, dtype, kind)
    return rates


def _matmul_rate(replicas: int, threads: int, dtype: torch.dtype, kind: str) -> float:
    def work(start: threading.Barrier) -> float:
        with torch.inference_mode(), threads_each(threads):
            a, b = (torch.randn(MATRIX, MATRIX).to(dtype) for _ in range(2))
            multiply: Callable[[], torch.Tensor] = lambda: a @ b  # noqa: E731
            if kind == "packed":
                packed = torch.ops.mkldnn._reorder_linear_weight(b, None)
                multiply = lambda: torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], "")  # noqa: E731
            multiply()
            start.wait()
            started, done = time.perf_counter(), 0
            while done < 3 or time.perf_counter() - started < LEAST_SECONDS:
                multiply()
                done += 1
            return done * 2 * MATRIX**3 / (time.perf_counter() - started) / 1e9

    return sum(together(replicas, work))


def bert_flop(lengths: Sequence[int], config: Mapping[str, Any]) -> float:
    """Floating-point operations of a BERT's layers on texts of so many tokens, padding not counted.

    A token costs `2 P` in the linear layers of P weights, and `4 T D` in the attention over the T tokens of its
    text, for `Q K'` and the weighted sum, in each layer.
    """
    width, inner, layers = (config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    weights = 4 * width * width + 2 * width * inner
    return float(sum(layers * length * (2 * weights + 4 * length * width) for length in lengths))


def compiled_rate(network: torch.nn.Module, batches: Sequence[torch.Tensor], threads: int) -> Callable[[], float]:
    """Compiles a network with frozen weights; the result measures items/s of it on the batches, all of one shape."""
    import torch._inductor.config as settings

    with settings.patch(freezing=True), torch.inference_mode(), threads_each(threads):
        compiled = torch.compile(network)
        compiled(batches[0])

    def measure() -> float:
        with settings.patch(freezing=True), torch.inference_mode(), threads_each(threads):
            compiled(batches[0])
            started = time.perf_counter()
            for batch in batches:
                compiled(batch)
            return sum(map(len, batches)) / (time.perf_counter() - started)

    return measure


def lowest_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The lowest cosine of any row of `a` to the same row of `b`."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    found = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(np.nan_to_num(found, nan=0.0).min())


def medians(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over the rounds; of a figure that some rounds lack, over those that have it."""
    names = dict.fromkeys(name for one in found for name in one)
    return {name: statistics.median(one[name] for one in found if name in one) for name in names}
