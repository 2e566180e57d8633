"""A trained head as an ONNX file, which predicts from raw features wherever an ONNX runtime does."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache import UsageError, listing, replacing
from fuse.estimators import FusionClassifier, FusionRegressor
from fuse.gradient import GradientHead
from fuse.registry import HEADS
from fuse.tokens import TokenHead

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fuse.feed import Part

NEEDED = ("onnx", "onnxscript")
"""Packages that torch's exporter needs, and nothing else here."""

EXAMPLE_ROWS = 3
"""Rows of the batch that is traced; neither 0 nor 1, which the tracer would take for constants."""

MOST_BYTES = 2**31 - 1
"""A protobuf message, as which an ONNX file is written, is no longer."""


def export_onnx(head: GradientHead, path: str | Path) -> None:
    """Writes a head that was trained by gradient as one ONNX file, scaling included.

    For each modality `m` of `head.blocks_` the graph has two inputs: `m`, raw features as the cache
    holds them, float32 of shape `(batch, D)`, or `(batch, tokens, D)` where the head reads tokens;
    and `m_present`, bool of shape `(batch,)` or `(batch, tokens)`, which tells what is there. Tokens
    stand at the start of their row, and what is not there may hold anything. Modalities that are
    aligned token by token share their number of tokens. The output is `probabilities`,
    `(batch, K)` in the order of `classes_`, or `value`, `(batch,)` in the unit of the labels; a row
    without any modality gets the classes' shares or the mean, as from the head. Batches and tokens
    may be of any size from 1. `metadata_props` hold `classes` (null of a regressor), `modalities`
    and `head`, the name of its class, each as JSON.

    It computes in float32 where the head does in float64, so that outputs differ by up to about
    1e-5; only compact bilinear pooling (mcb), whose signed root enlarges rounding, stays in float64.

    Args:
        head: a fitted classifier or regressor of `fuse`.
        path: the file to write; one that is there is replaced.

    Raises:
        UsageError: onnx is not installed; the head is none of those that can be exported, or is not
            fitted; its formula has an operation, or a size, or a name that ONNX cannot hold.
        StoreError: the file cannot be written.
    """
    _check_head(head)
    for package in NEEDED:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UsageError(f"export_onnx needs the package {package}: pip install {' '.join(NEEDED)}") from error
    program = _exported(head)
    for node in program.model.graph.all_nodes():  # what is inside may bear a modality's name, such as cat
        for value in node.outputs:
            if not value.is_graph_output():
                value.name = f"/{value.name}"
    classes = head.classes_.tolist() if isinstance(head, FusionClassifier) else None
    about = {"classes": classes, "modalities": [part.name for part in head._parts()], "head": type(head).__name__}
    program.model.metadata_props.update({key: json.dumps(value, default=str) for key, value in about.items()})
    with replacing(Path(path)) as temporary:
        program.save(temporary, external_data=False)


def _check_head(head: Any) -> None:
    able = [name for name, known in HEADS.items() if issubclass(known.any_class, GradientHead)]
    can = f"heads that are trained by gradient can be exported: {listing(able, 99)}"
    if not isinstance(head, GradientHead) or not isinstance(head, FusionClassifier | FusionRegressor):
        raise UsageError(f"cannot export {type(head).__name__} to ONNX; {can}")
    if not hasattr(head, "weights_"):
        raise UsageError(f"cannot export {type(head).__name__}, which is not fitted; call fit first. Fitted {can}")
    names = [part.name for part in head._parts()]
    used = [*names, *(f"{name}_present" for name in names), "probabilities", "value"]
    twice = sorted({name for name in used if used.count(name) > 1})
    if twice:
        raise UsageError(f"an ONNX graph has each name once, found {listing(twice)} twice; rename the modality")
    size = 4 * sum(weight.size for weight in head.weights_.values())
    if size > MOST_BYTES:
        raise UsageError(f"an ONNX file holds at most 2 GiB, the weights of this head have {size / 2**30:.1f} GiB")


def _exported(head: GradientHead) -> Any:
    """The `torch.onnx.ONNXProgram` of a head."""
    import torch

    parts = head._parts()
    values, present, axes = _example(parts, isinstance(head, TokenHead) and head.aligned)
    names = [part.name for part in parts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals, and of axes that share a name
        try:
            return torch.onnx.export(
                _graph(head),
                (values, present),
                input_names=[*names, *(f"{name}_present" for name in names)],
                output_names=["probabilities" if isinstance(head, FusionClassifier) else "value"],
                dynamic_shapes=(axes, axes),
                dynamo=True,
                optimize=False,  # its rewrites gave NaN for cmbert and mcb (torch 2.15, onnxscript 0.7)
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UsageError(f"ONNX has no form for the formula of {type(head).__name__}: {reason}") from error


def _example(parts: Sequence[Part], aligned: bool) -> tuple[list[Tensor], list[Tensor], list[dict[int, str]]]:
    """A batch to trace: values and what is there, and the names of the axes that may have any size."""
    import torch

    values, present, axes = [], [], []
    for m, part in enumerate(parts):
        tokens = () if part.steps is None else (EXAMPLE_ROWS + 1 + (0 if aligned else m),)
        values.append(torch.zeros(EXAMPLE_ROWS, *tokens, part.columns))
        present.append(torch.ones(EXAMPLE_ROWS, *tokens, dtype=torch.bool))
        axes.append({0: "batch"} | ({1: "tokens" if aligned else f"{part.name}_tokens"} if tokens else {}))
    return values, present, axes


def _scaling(head: GradientHead) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Mean and scale of each modality's columns, both `(D,)`."""
    scaler, start = head.scaler_, 0
    for part in head._parts():
        if part.steps:
            yield scaler.token_mean_[part.name], scaler.token_scale_[part.name]
        else:
            columns = slice(start, start + part.columns)
            yield scaler.mean_[columns], scaler.scale_[columns]
            start = columns.stop


def _graph(head: GradientHead) -> nn.Module:
    """What is exported: `(values, present)`, a list each by modality, to what the head predicts."""
    import torch
    from torch import nn

    from fuse.networks.bilinear import CompactBilinear
    from fuse.networks.model import has
    from fuse.training import rebuilt

    model, parts = rebuilt(head._model, head.weights_), head._parts()
    dtype = torch.float64 if isinstance(model.network, CompactBilinear) else torch.float32
    by_class = isinstance(head, FusionClassifier)
    unit = (0.0, 1.0) if by_class else (head.target_mean_, head.target_scale_)

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            mean, scale = zip(*_scaling(head), strict=True)
            self.mean, self.scale = (_constants(part) for part in (mean, scale))
            self.nothing, self.unit = (_constants([np.asarray(one)])[0] for one in (head._nothing(), unit))

        def forward(self, values: list[Tensor], present: list[Tensor]) -> Tensor:
            scaled = [
                (x.to(dtype) - mean) / scale for x, mean, scale in zip(values, self.mean, self.scale, strict=True)
            ]
            there = [
                one & (torch.arange(one.shape[1]) < part.steps) if part.steps else one  # as `Feed` cuts
                for one, part in zip(present, parts, strict=True)
            ]
            some = torch.stack([has(one) for one in there]).any(dim=0)
            output = self.model(scaled, there)
            if by_class:
                return torch.where(some[:, None], output.softmax(dim=1), self.nothing).float()
            return (torch.where(some, output[:, 0], self.nothing) * self.unit[1] + self.unit[0]).float()

    return Graph().to(dtype).eval()


def _constants(arrays: Sequence[np.ndarray]) -> nn.ParameterList:
    """Arrays as parameters that are not learned."""
    import torch
    from torch import nn

    return nn.ParameterList([nn.Parameter(torch.as_tensor(array), requires_grad=False) for array in arrays])
