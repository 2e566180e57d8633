"""Chooses between float32 and bfloat16 by a measurement on the data set's own first samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from extract.decode import DecodeError
from extract.encoders.spec import BrokenInputs, Encoder, decode_light
from extract.manifest import Content, Sample

if TYPE_CHECKING:
    from extract.runtime import Runtime

PROBE = 8
"""Samples that are encoded in both precisions."""
TRIED = 64
"""Samples that are looked at for some that can be decoded."""
ROUNDS = 3
FASTER = 1.2
"""How much faster bfloat16 must be: models so small that the two hardly differ keep float32."""
COSINE = 0.999
"""How close to float32 each vector must stay."""


def probe_contents(samples: Sequence[Sample], modality: str) -> list[Content]:
    """Contents of the first samples that have the modality."""
    held = [sample.inputs[modality] for sample in samples[: TRIED * 16] if modality in sample.inputs]
    return held[:TRIED]


def choose_precision(full: Encoder, half: Encoder, contents: Sequence[Content], runtime: Runtime) -> tuple[str, str]:
    """Encodes the first contents that can be decoded by both encoders, in turns.

    Args:
        full: in float32.
        half: the same encoder in bfloat16.
        contents: candidates for the probe.
        runtime: of both.

    Returns:
        `bf16` only where it is clearly faster and no vector's cosine to float32 is below 0.999,
        else `fp32`; and the reason, in words.
    """
    inputs, cost = _inputs(full, contents)
    with runtime.replica():
        inputs = _sound(full, inputs)
    if not inputs:
        return "fp32", "nothing could be decoded to measure bf16 on"
    # A GPU is only busy with a full batch.
    budget = runtime.budget(full.key.modality)
    size = max(len(inputs), min(budget.items, budget.cost // max(1, cost)))
    batch = [inputs[number % len(inputs)] for number in range(size)]
    with runtime.replica():
        cosine = _cosine(full, half, inputs)
        seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
        for _ in range(ROUNDS):
            for name, encoder in (("fp32", full), ("bf16", half)):
                started = time.perf_counter()
                encoder.encode(batch)
                seconds[name].append(time.perf_counter() - started)
    faster = min(seconds["fp32"]) / min(seconds["bf16"])
    measured = f"bf16 is {faster:.1f} times as fast as fp32 here, cosine {cosine:.5f}, on {len(inputs)} samples"
    return ("bf16" if faster >= FASTER and cosine >= COSINE else "fp32"), measured


def _inputs(encoder: Encoder, contents: Sequence[Content]) -> tuple[list[np.ndarray], int]:
    """Inputs of the model, and the cost of the costliest."""
    inputs: list[np.ndarray] = []
    most = 0
    for content in contents:
        if len(inputs) == PROBE:
            break
        try:
            (light,), (cost,) = encoder.prepare([content])
            inputs.append(decode_light(encoder, light))
            most = max(most, cost)
        except (DecodeError, OSError):  # the extraction itself will say so
            continue
    encoder.truncated = 0
    return inputs, most


def _sound(encoder: Encoder, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Those that turn out to be whole when the model gets them."""
    while inputs:
        try:
            encoder.encode(inputs)
            break
        except BrokenInputs as error:
            inputs = [one for one in inputs if not any(one is broken for broken in error.inputs)]
    return inputs


def _cosine(full: Encoder, half: Encoder, inputs: Sequence[np.ndarray]) -> float:
    """The lowest cosine of any pooled vector; 0 where one is not finite."""
    exact, rounded = full.encode(inputs), half.encode(inputs)
    lowest = 1.0
    for name in exact:
        a, b = exact[name], rounded[name]
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            with np.errstate(all="ignore"):  # what is not finite counts as 0
                norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
                cosine = (a * b).sum(axis=1) / np.where(norms > 0, norms, 1)
            cosine = np.where((norms == 0) & (a == b).all(axis=1), 1.0, cosine)
            lowest = min(lowest, float(np.nan_to_num(cosine, nan=0.0).min()))
    return lowest
