"""Faster forms of a network that compute the same: oneDNN's fused kernels, batch norm in the convolutions.

Measured in `benchmarks/speed.py`; why these and no compiler: `docs/adr/0003`.
"""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.fusion import fuse_conv_bn_eval

_NOTHING: tuple[list[Any], str] = ([], "")  # scalars and algorithm of an operator's second half, which needs none


class FusedLinear(nn.Module):
    """A linear layer on oneDNN, with its weights in the layout that the kernel reads.

    For float32 this is twice as fast as torch's own path, MKL, on AMD processors.
    """

    def __init__(self, layer: nn.Linear, gelu: bool = False) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
        self.bias = layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._after = ("gelu", [], "none") if gelu else ("none", *_NOTHING)

    @property
    def weight(self) -> torch.Tensor:
        """The weights in their common layout, for the few models that read a layer's weights themselves."""
        return self._packed.to_dense()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x W' + b`, and GELU of it where that was fused."""
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, *self._after)


class FusedConv2d(nn.Module):
    """A convolution on oneDNN with packed weights, with the addition and the ReLU that follow it."""

    def __init__(self, layer: nn.Conv2d, shape: torch.Size, relu: bool, add: bool) -> None:
        super().__init__()
        geometry = layer.padding, layer.stride, layer.dilation
        self._geometry: tuple[Any, ...] = (*(list(part) for part in geometry), layer.groups)
        pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        self._packed = pack(layer.weight.detach().to_mkldnn(), *self._geometry, list(shape))
        self._bias = None if layer.bias is None else layer.bias.detach()
        self._relu, self._add = relu, add

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """`relu(conv(x) + other)`, or the part of it that was fused."""
        if self._add:
            after = ("add", 1.0, "relu" if self._relu else None, *_NOTHING)
            both = torch.ops.mkldnn._convolution_pointwise.binary
            return both(x, other, self._packed, self._bias, *self._geometry, *after)
        kernel = torch.ops.mkldnn._convolution_pointwise
        return kernel(x, self._packed, self._bias, *self._geometry, "relu" if self._relu else "none", *_NOTHING)


def fuse_linears(network: nn.Module) -> None:
    """Replaces every plain linear layer, in place; in BERT's feed-forward parts with the GELU that follows."""
    blocks = [part for part in network.modules() if _is_gelu_block(part)]
    gelus = {part.dense for part in blocks}
    for name, layer in list(network.named_modules()):
        if type(layer) is nn.Linear:  # not of its subclasses, whose owners go round `forward`
            network.set_submodule(name, FusedLinear(layer, gelu=layer in gelus))
    for part in blocks:
        part.intermediate_act_fn = nn.Identity()


def _is_gelu_block(part: nn.Module) -> bool:
    return type(getattr(part, "dense", None)) is nn.Linear and _is_gelu(getattr(part, "intermediate_act_fn", None))


def _is_gelu(function: Any) -> bool:
    """Whether it is the exact GELU, not one of its approximations."""
    from transformers.activations import GELUActivation

    if isinstance(function, nn.GELU):
        return function.approximate == "none"
    return isinstance(function, GELUActivation) and function.act is nn.functional.gelu


def fold_batch_norms(graph: fx.GraphModule) -> None:
    """Puts each batch norm that follows a convolution of its own into that convolution's weights, in place."""
    for node in list(graph.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution, norm = (graph.get_submodule(str(one.target)) for one in (before, node))
        shared = [one for one in graph.graph.nodes if one.target == before.target]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and len(shared) == 1:
            graph.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()


def fuse_convolutions(graph: fx.GraphModule, example: torch.Tensor) -> None:
    """Replaces every convolution, with the addition and the ReLU that follow it, in place.

    Args:
        graph: in inference mode.
        example: an input, of the batch size for which the layout of the weights is chosen.
    """
    with torch.inference_mode():
        ShapeProp(graph).propagate(example)
    place = {node: number for number, node in enumerate(graph.graph.nodes)}
    uses = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    for node in list(graph.graph.nodes):
        layer = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if type(layer) is nn.Conv2d and _is_plain(layer) and uses[node.target] == 1 and len(node.args) == 1:
            shape = _shape(node.args[0])
            graph.set_submodule(str(node.target), FusedConv2d(layer, shape, *_absorb(graph, node, place)))
    graph.graph.lint()
    graph.recompile()


def _absorb(graph: fx.GraphModule, node: fx.Node, place: dict[fx.Node, int]) -> tuple[bool, bool]:
    """Takes the ReLU, or the addition and its ReLU, that follow a convolution out of the graph."""
    after = _only_user(node)
    if after is not None and _is_relu(graph, after):
        _replace(graph, after, node)
        return True, False
    if after is None or after.target not in (operator.add, operator.iadd, torch.add) or len(after.args) != 2:
        return False, False
    if after.kwargs or (after.target is operator.iadd and after.args[0] is not node):
        return False, False
    others = [one for one in after.args if isinstance(one, fx.Node) and one is not node]
    last = _only_user(after)
    if len(others) != 1 or last is None or not _is_relu(graph, last):
        return False, False
    # What is added must be there when the convolution runs, not change afterwards, and be of its shape.
    there = place[others[0]] < place[node] and all(place[one] < place[node] for one in others[0].users if one != after)
    if not there or _shape(others[0]) != _shape(node):
        return False, False
    node.args = (node.args[0], others[0])
    _replace(graph, after, node)
    _replace(graph, last, node)
    return True, True


def _is_plain(layer: nn.Conv2d) -> bool:
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _shape(node: Any) -> torch.Size:
    return node.meta["tensor_meta"].shape


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_relu(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(graph.get_submodule(str(node.target))) is nn.ReLU
    return node.target in (torch.relu, nn.functional.relu)


def _replace(graph: fx.GraphModule, old: fx.Node, new: fx.Node) -> None:
    old.replace_all_uses_with(new)
    graph.graph.erase_node(old)
