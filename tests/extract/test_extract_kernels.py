"""Fused networks against the plain ones of torchvision and transformers."""

import copy
import operator
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx, nn
from torchvision import models

from extract.encoders.image import traced, without_classifier
from extract.encoders.kernels import FusedConv2d, FusedLinear, fold_batch_norms, fuse_convolutions, fuse_linears
from extract.runtime import Runtime, choose_runtime

pytestmark = pytest.mark.skipif(not choose_runtime("cpu").fused, reason="fused kernels are for x86 processors")

SIDE = 64


def densenet() -> nn.Module:
    return models.DenseNet(growth_rate=8, block_config=(2, 2), num_init_features=16, num_classes=10)


def regnet() -> nn.Module:
    return models.regnet_y_400mf(weights=None)


def tiny_vit() -> nn.Module:
    return models.VisionTransformer(SIDE, 16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64)


def tiny_convnext() -> nn.Module:
    settings = [models.convnext.CNBlockConfig(16, 32, 1), models.convnext.CNBlockConfig(32, None, 1)]
    return models.ConvNeXt(settings)


def resnet() -> nn.Module:
    """Both kinds of ResNet block: the sums of a basic one, and of a bottleneck with its projection."""
    return models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 2])


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": models.resnet18,
    "resnet": resnet,
    "shufflenet_v2_x0_5": models.shufflenet_v2_x0_5,
    "mobilenet_v3_small": models.mobilenet_v3_small,
    "densenet": densenet,
    "squeezenet1_1": models.squeezenet1_1,
    "regnet": regnet,
    "vit": tiny_vit,
    "convnext": tiny_convnext,
}


def network(name: str) -> nn.Module:
    """In inference mode, batch norms with statistics and affine weights as training leaves them: none is 0 or 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = NETWORKS[name]()
        for part in made.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = None  # the mean of all batches
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.uniform_(part.bias, -0.3, 0.3)
        with torch.no_grad():
            made.train()
            for _ in range(2):
                made(torch.randn(8, 3, SIDE, SIDE))
    return without_classifier(made.eval())[0]


def graph_of(plain: nn.Module) -> fx.GraphModule:
    return traced(plain, "")


def pictures(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    drawn = torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    return drawn.to(dtype=dtype, memory_format=torch.channels_last)


def fused(plain: nn.Module, dtype: torch.dtype = torch.float32) -> fx.GraphModule:
    """As `ImageEncoder` does it, with weights laid out for batches of 4."""
    graph = graph_of(copy.deepcopy(plain))
    fold_batch_norms(graph)
    graph.to(dtype=dtype, memory_format=torch.channels_last)
    fuse_convolutions(graph, pictures(4, dtype))
    fuse_linears(graph)
    return graph


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def used_layers(model: nn.Module) -> list[nn.Module]:
    """Of a graph those that it calls: it may hold others."""
    if isinstance(model, fx.GraphModule):
        called = [model.get_submodule(str(node.target)) for node in model.graph.nodes if node.op == "call_module"]
        return [part for top in called for part in top.modules()]
    return list(model.modules())


def kinds(model: nn.Module) -> set[type]:
    return {type(part) for part in used_layers(model)}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fused_network_is_as_exact_as_torchvisions(name: str):
    plain = network(name)
    graph, double = fused(plain), copy.deepcopy(plain).double()
    for count in (4, 3):  # not only the size that the layout was chosen for
        x = pictures(count)
        with torch.inference_mode():
            exact, expected, found = double(x.double()).flatten(1), plain(x).flatten(1), graph(x)["pool"].flatten(1)
        assert exact.abs().max() > 0.01
        assert distance(found, exact) <= max(1e-5, 2 * distance(expected, exact))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fused_network_in_bfloat16_is_as_close_as_torchvisions_in_bfloat16(runtime: Runtime, name: str):
    """Nothing trained here: the deeper of these networks lose more than 0.0001 in torchvision's own form."""
    if not runtime.has_bf16:
        pytest.skip("no bfloat16 here")
    plain, x = network(name), pictures(4, torch.bfloat16)
    with torch.inference_mode():
        expected = plain(pictures(4)).flatten(1)
        found = fused(plain, torch.bfloat16)(x)["pool"].flatten(1).float()
        rounded = plain.to(torch.bfloat16)(x).flatten(1).float()
    lost, usual = ((1 - torch.cosine_similarity(one, expected)).max() for one in (found, rounded))
    assert lost <= max(1e-4, 1.5 * usual)


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_every_convolution_is_fused_and_every_norm_folded(name: str):
    assert not kinds(fused(network(name))) & {nn.Conv2d, nn.BatchNorm2d, nn.Linear}


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "regnet"])
def test_every_convolution_is_fused_in_networks_made_of_torchvisions_own_blocks(name: str):
    assert not kinds(fused(network(name))) & {nn.Conv2d, nn.BatchNorm2d}


@pytest.mark.parametrize("name", ["resnet18", "resnet"])
def test_sums_and_relus_of_residual_networks_are_taken_into_the_convolutions(name: str):
    graph = fused(network(name))
    functions = {node.target for node in graph.graph.nodes if node.op == "call_function"}
    assert not functions & {operator.add, operator.iadd, torch.add}
    assert nn.ReLU not in kinds(graph)
    blocks = (models.resnet.BasicBlock, models.resnet.Bottleneck)
    sums = sum(isinstance(part, blocks) for part in NETWORKS[name]().modules())
    assert sum(part._add for part in graph.modules() if isinstance(part, FusedConv2d)) == sums


def test_folding_alone_computes_the_same_and_leaves_the_network_as_it_was():
    plain = network("resnet18")
    state, x = copy.deepcopy(plain.state_dict()), pictures(2)
    graph = graph_of(plain)
    fold_batch_norms(graph)
    assert nn.BatchNorm2d not in kinds(graph)
    with torch.inference_mode():
        assert distance(graph(x)["pool"], plain(x)) <= 1e-5
    assert all(torch.equal(part, state[name]) for name, part in plain.state_dict().items())


def test_fusing_leaves_the_network_and_its_input_as_they_were():
    plain = network("resnet18")
    state, x = copy.deepcopy(plain.state_dict()), pictures(4)
    graph = graph_of(plain)
    fold_batch_norms(graph)
    fuse_convolutions(graph, x)
    with torch.inference_mode():
        graph(x)
    assert torch.equal(x, pictures(4))
    assert all(torch.equal(part, state[name]) for name, part in plain.state_dict().items())


class Small(nn.Module):
    """Layers for a forward pass that a test names."""

    def __init__(self, forward: Callable[["Small", torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.one = nn.Conv2d(4, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.narrow = nn.Conv2d(4, 4, 3, padding=1, stride=2, groups=2)
        self.dilated = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.same = nn.Conv2d(4, 4, 3, padding="same")
        self.point = nn.Conv2d(4, 1, 1)
        self.reflecting = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.norm, self.other_norm = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.relu, self.inplace = nn.ReLU(), nn.ReLU(inplace=True)
        self._run = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._run(self, x)


def small(forward: Callable[[Small, torch.Tensor], torch.Tensor]) -> Small:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        made = Small(forward)
        for norm in (made.norm, made.other_norm):
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -1, 1)
    return made.eval()


def used_later(net: Small, x: torch.Tensor) -> torch.Tensor:
    total = net.one(x) + x
    return net.relu(total) * x + total


def other_used_later(net: Small, x: torch.Tensor) -> torch.Tensor:
    other = net.two(x)
    return net.relu(net.one(x) + other) * other


def relu_of_a_sum_used_later(net: Small, x: torch.Tensor) -> torch.Tensor:
    out = net.relu(net.one(x) + x)
    return net.two(out) + out


def convolution_used_later(net: Small, x: torch.Tensor) -> torch.Tensor:
    out = net.one(x)
    return net.relu(out) + out


def in_place_sum(net: Small, x: torch.Tensor) -> torch.Tensor:
    out = net.one(x)
    out += x
    return net.inplace(out)


def other_overwritten_later(net: Small, x: torch.Tensor) -> torch.Tensor:
    kept = net.two(x)
    total = net.relu(net.one(kept) + kept)
    return total + net.inplace(kept)


def other_overwritten_before(net: Small, x: torch.Tensor) -> torch.Tensor:
    kept = x * 2
    out = net.one(kept)
    changed = net.inplace(kept)
    return net.relu(out + kept) + changed


def statistics(net: Small, x: torch.Tensor) -> torch.Tensor:
    shared = net.one(x)
    return net.norm(shared) + shared


FORMS: list[object] = [
    ("a convolution used twice", lambda net, x: net.relu(net.one(net.relu(net.one(x))) + x)),
    ("and normed once", lambda net, x: net.norm(net.one(net.one(x)))),
    ("a relu used twice", lambda net, x: net.relu(net.two(net.relu(net.one(x))))),
    ("a norm used twice", lambda net, x: net.norm(net.two(net.norm(net.one(x))))),
    ("two norms", lambda net, x: net.other_norm(net.norm(net.one(x)))),
    ("a norm of what is used later", statistics),
    ("a sum with itself", lambda net, x: (lambda out: net.relu(out + out))(net.one(x))),
    ("a sum with what comes later", lambda net, x: net.relu(net.one(x) + net.two(x).tanh())),
    ("a sum of two convolutions", lambda net, x: net.relu(net.one(x) + net.two(x))),
    ("a sum from the right", lambda net, x: net.relu(x + net.one(x))),
    ("a sum without relu", lambda net, x: net.one(x) + x),
    ("a sum with a number", lambda net, x: torch.relu(net.one(x) + 0.7)),
    ("a sum with one channel", lambda net, x: torch.relu(net.one(x) + net.point(x))),
    ("a sum with one that is broadcast", lambda net, x: torch.relu(net.point(x) + x)),
    ("a sum with a gate", lambda net, x: net.relu(net.one(x) + x.mean((2, 3), keepdim=True))),
    ("a sum with a view", lambda net, x: net.relu(net.one(x) + x.transpose(2, 3))),
    ("a sum with an expanded one", lambda net, x: net.relu(net.one(x) + x[:1, :, :1].expand(4, 4, 8, 8))),
    ("a sum in place", in_place_sum),
    ("a sum used later", used_later),
    ("its other side used later", other_used_later),
    ("its other side overwritten later", other_overwritten_later),
    ("its relu used later", relu_of_a_sum_used_later),
    ("a convolution used later", convolution_used_later),
    ("a strided and grouped one", lambda net, x: nn.functional.relu(net.narrow(x))),
    ("a dilated one", lambda net, x: nn.functional.relu(net.dilated(x), inplace=True)),
    ("padding by name", lambda net, x: net.relu(net.same(x) + x)),
    ("another activation", lambda net, x: nn.functional.relu6(net.one(x)) + net.one(x).relu()),
    ("a weighted sum", lambda net, x: net.relu(torch.add(net.one(x), x, alpha=2))),
    ("reflecting padding", lambda net, x: net.reflecting(x)),
    ("an input by name", lambda net, x: net.one(input=x)),
    ("its other side overwritten before", other_overwritten_before),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form[0])
def test_what_can_be_fused_only_in_part_stays_right(form: tuple[str, Callable[[Small, torch.Tensor], torch.Tensor]]):
    plain = small(form[1])
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        expected = plain(x.clone())
    graph = fx.symbolic_trace(plain).eval()
    fold_batch_norms(graph)
    fuse_convolutions(graph, x)
    before = x.clone()
    with torch.inference_mode():
        found = graph(x)
    assert distance(found, expected) <= 1e-5
    assert torch.equal(x, before)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (1, 6), (5, 6), (2, 3, 6), (0, 6)])
def test_a_fused_linear_layer_equals_the_plain_one(bias: bool, shape: tuple[int, ...]):
    layer = nn.Linear(6, 10, bias=bias)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    before = x.clone()
    found = FusedLinear(layer)
    with torch.inference_mode():
        torch.testing.assert_close(found(x), layer(x), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(FusedLinear(layer, gelu=True)(x), nn.functional.gelu(layer(x)), atol=1e-6, rtol=1e-5)
    assert torch.equal(found.weight, layer.weight)
    assert (found.in_features, found.out_features, torch.equal(x, before)) == (6, 10, True)


def test_a_fused_linear_layer_takes_a_view():
    layer, x = nn.Linear(6, 10), torch.randn(6, 4)
    with torch.inference_mode():
        torch.testing.assert_close(FusedLinear(layer)(x.T), layer(x.T), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fused_linear_layer_gives_its_weights_back(runtime: Runtime, dtype: torch.dtype):
    if dtype == torch.bfloat16 and not runtime.has_bf16:
        pytest.skip("no bfloat16 here")
    for sizes in ((32, 64), (33, 7), (768, 100)):
        layer = nn.Linear(*sizes).to(dtype)
        assert torch.equal(FusedLinear(layer).weight, layer.weight)


def tiny_bert(folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    from transformers import BertModel

    model: nn.Module = BertModel.from_pretrained(folder, dtype=dtype).eval()
    return model


def states(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return found.float()[mask.bool()].numpy()


@pytest.fixture
def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """Five texts of 3 to 11 tokens, padded."""
    draw = torch.Generator().manual_seed(2)
    mask = (torch.arange(11) < torch.tensor([11, 3, 7, 5, 9])[:, None]).long()
    return torch.randint(5, 19, (5, 11), generator=draw) * mask, mask


def test_a_fused_bert_computes_what_transformers_does(bert: Path, tokens: tuple[torch.Tensor, torch.Tensor]):
    plain, faster = tiny_bert(bert), tiny_bert(bert)
    fuse_linears(faster)
    assert nn.Linear not in kinds(faster)
    assert sum(part._after[0] == "gelu" for part in faster.modules() if isinstance(part, FusedLinear)) == 2
    expected, found = states(plain, *tokens), states(faster, *tokens)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_fused_bert_in_bfloat16_is_close_to_transformers(
    runtime: Runtime, bert: Path, tokens: tuple[torch.Tensor, torch.Tensor]
):
    if not runtime.has_bf16:
        pytest.skip("no bfloat16 here")
    faster = tiny_bert(bert, torch.bfloat16)
    fuse_linears(faster)
    expected, found = states(tiny_bert(bert), *tokens), states(faster, *tokens)
    cosine = (expected * found).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(found, axis=1)
    assert cosine.min() >= 0.9999


@pytest.mark.parametrize("activation", ["gelu_new", "relu", "gelu_pytorch_tanh"])
def test_other_activations_are_not_taken_for_the_exact_gelu(
    bert: Path, tokens: tuple[torch.Tensor, torch.Tensor], activation: str
):
    from transformers import BertConfig, BertModel

    config = BertConfig.from_pretrained(bert, hidden_act=activation)
    torch.manual_seed(4)
    plain = BertModel(config).eval()
    faster = copy.deepcopy(plain)
    fuse_linears(faster)
    assert all(part._after[0] == "none" for part in faster.modules() if isinstance(part, FusedLinear))
    expected, found = states(plain, *tokens), states(faster, *tokens)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_linear_layer_used_in_two_places_stays_right():
    shared = nn.Linear(8, 8)
    plain = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(8, 3)).eval()
    faster, x = copy.deepcopy(plain), torch.randn(4, 8)
    fuse_linears(faster)
    with torch.inference_mode():
        torch.testing.assert_close(faster(x), plain(x), atol=1e-6, rtol=1e-5)
