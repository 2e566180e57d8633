"""Pictures through a classification network of torchvision, up to its last pooling."""

from __future__ import annotations

import contextlib
import math
import pickle  # for the name of an error; nothing is unpickled  # nosec B403
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import fx, nn

from cache import KEY_SCHEMA, TOKENS, DeviceError, EncoderKey, ModelError, Ragged, Values, listing
from extract.decode import DecodeError, decoding
from extract.encoders.kernels import fold_batch_norms, fuse_convolutions, fuse_linears
from extract.encoders.picture import ImageInput, official_weights, preprocess, resize_on_device
from extract.encoders.spec import COMPUTE, BrokenInputs, EncoderSpec, storage
from extract.encoders.weights import compute_dtype, weights_digest
from extract.runtime import Runtime


class ImageEncoder(ImageInput):
    """What the network's last layer gets: for ResNet-50 the global average pool, 2048 columns.

    `tokens`, where they are asked for, are the last feature map, place by place: for ResNet-50
    the grid of 7 x 7 before the pooling, row by row, `(49, 2048)`.

    Inputs are `uint8 (crop, crop, 3)`, RGB; they are normalised on the device.
    """

    def __init__(self, spec: EncoderSpec, runtime: Runtime) -> None:
        super().__init__(spec)
        backbone, layer, width, self.files = load_network(spec)
        self._runtime = runtime
        if self._nvjpeg and runtime.device.type != "cuda":
            raise DeviceError("nvJPEG decodes on an NVIDIA GPU only; give --gpu, or leave out --decoder nvjpeg")
        if self._nvjpeg and not hasattr(torchvision.io, "decode_jpeg"):  # which torchvision has said to remove
            raise DeviceError(f"torchvision {torchvision.__version__} has no nvJPEG; leave out --decoder nvjpeg")
        # TF32 would round a GPU's convolutions to 10 bits: other vectors under the same key. Not by a `with` around
        # each batch: the setting is the whole process's, and several threads encode.
        torch.backends.cudnn.allow_tf32 = False
        dtype = compute_dtype(spec.precision)
        backbone.eval().requires_grad_(False)
        grid = grid_layer(backbone, spec.model, width, self._preset.crop) if spec.tokens else ""
        self._tokens = spec.tokens
        self.key = EncoderKey(
            {
                "schema": KEY_SCHEMA,
                "modality": "image",
                "architecture": f"torchvision/{spec.model}",
                "weights": weights_digest(backbone),
                "preprocessing": self._preset.fields(spec.decoder),
                "layer": f"input of {layer}, pooled",
                "compute": COMPUTE[spec.precision],
                **storage(spec, {"pool": width}, grid),
            },
            name=spec.model,
        )
        self._network = _fastest(backbone, grid, runtime, dtype, self._preset.crop)
        self._dtype = dtype
        mean, std = (np.array(part).reshape(1, 3, 1, 1) for part in (self._preset.mean, self._preset.std))
        # (x / 255 - mean) / std, in one pass
        self._scale = torch.tensor(1 / (255 * std), dtype=torch.float32, device=runtime.device)
        self._shift = torch.tensor(-mean / std, dtype=torch.float32, device=runtime.device)

    def encode(self, batch: Sequence[np.ndarray]) -> dict[str, Values]:
        """`pool` of each picture, float32 of shape `(len(batch), D)`; `tokens` if asked for."""
        with torch.inference_mode():
            pixels = self._on_device(self._decoded(batch))
            scaled = torch.addcmul(self._shift, pixels.permute(0, 3, 1, 2).to(torch.float32), self._scale)
            found = self._network(scaled.to(self._dtype))
            outputs: dict[str, Values] = {"pool": found["pool"].flatten(1)[: len(batch)].float().cpu().numpy()}
            if self._tokens:
                grid = found[TOKENS][: len(batch)].float()
                states = (grid.flatten(2).transpose(1, 2) if grid.ndim == 4 else grid).cpu().numpy()
                outputs[TOKENS] = Ragged.of(list(states))
        return outputs

    def _on_device(self, batch: Sequence[np.ndarray | torch.Tensor]) -> torch.Tensor:
        """`uint8 (B, crop, crop, 3)`; B is the full batch's where a compiled network wants one shape."""
        size = self._runtime.budget("image").items if self._runtime.compile else len(batch)
        pinned = self._runtime.device.type == "cuda"
        stack = torch.zeros((max(size, len(batch)), *self.blank().shape), dtype=torch.uint8, pin_memory=pinned)
        for place, one in enumerate(batch):
            if isinstance(one, np.ndarray):
                stack.numpy()[place] = one
        moved = stack.to(self._runtime.device, non_blocking=True)
        for place, one in enumerate(batch):
            if isinstance(one, torch.Tensor):
                moved[place] = one
        return moved

    def _decoded(self, batch: Sequence[np.ndarray]) -> list[np.ndarray | torch.Tensor]:
        """The batch, in which the bytes of JPEGs became pictures on the GPU: `uint8 (crop, crop, 3)`."""
        pictures: list[np.ndarray | torch.Tensor] = list(batch)
        places = [place for place, one in enumerate(batch) if one.ndim == 1]
        if places:
            for place, one in zip(places, self._by_nvjpeg([batch[place] for place in places]), strict=True):
                pictures[place] = one
        return pictures

    def _by_nvjpeg(self, files: Sequence[np.ndarray]) -> list[np.ndarray | torch.Tensor]:
        from torchvision.io import ImageReadMode, decode_jpeg

        raw = [torch.from_numpy(file.copy()) for file in files]
        try:
            decoded = decode_jpeg(raw, mode=ImageReadMode.RGB, device=self._runtime.device)
        except RuntimeError:  # one that nvJPEG cannot decode fails them all: each goes to Pillow, which says why
            return [self._by_pillow(file) for file in files]
        return [self._resized(file, one) for file, one in zip(files, decoded, strict=True)]

    def _resized(self, file: np.ndarray, picture: torch.Tensor) -> torch.Tensor:
        try:
            return resize_on_device(picture, self._preset)
        except DecodeError as error:
            raise BrokenInputs([file], str(error)) from error

    def _by_pillow(self, file: np.ndarray) -> np.ndarray:
        try:
            with decoding(file.tobytes()) as picture:
                return preprocess(picture, self._preset)
        except DecodeError as error:
            raise BrokenInputs([file], str(error)) from error


def _fastest(
    backbone: nn.Module, grid: str, runtime: Runtime, dtype: torch.dtype, crop: int
) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """The network as a graph that gives `pool`, and `tokens` where a layer is named for them."""
    graph = traced(backbone, grid)
    fold_batch_norms(graph)
    graph.to(runtime.device, dtype)
    graph.to(memory_format=torch.channels_last)
    if runtime.fused and (dtype == torch.float32 or runtime.has_bf16):
        size = runtime.budget("image").items
        example = torch.zeros(size, 3, crop, crop, dtype=dtype).to(memory_format=torch.channels_last)
        fuse_convolutions(graph, example)
        fuse_linears(graph)
    return torch.compile(graph) if runtime.compile else graph


def traced(backbone: nn.Module, grid: str) -> fx.GraphModule:
    """The network as a graph, down to the layers of `torch.nn`, that gives `pool`, and `tokens` of the part `grid`."""
    tracer = fx.Tracer(autowrap_modules=(math, torchvision.ops))
    graph = tracer.trace(backbone)
    (end,) = graph.find_nodes(op="output")
    outputs = {"pool": end.args[0]}
    if grid:
        within = [node for node in graph.nodes if any(name == grid for name, _ in _stack(node))]
        outputs[TOKENS] = within[-1]
    end.args = (outputs,)
    return fx.GraphModule(backbone, graph).eval()


def _stack(node: fx.Node) -> list[tuple[str, Any]]:
    """Names of the parts of the network in which a node was met."""
    return list(node.meta.get("nn_module_stack", {}).values())


def grid_layer(network: nn.Module, model: str, width: int, crop: int) -> str:
    """The last top-level part whose output is a feature map of `width` channels at several places.

    Raises:
        ModelError: there is none.
    """
    shapes: dict[str, torch.Size] = {}
    hooks = [
        part.register_forward_hook(lambda _part, _inputs, out, name=name: shapes.update({name: out.shape}))
        for name, part in network.named_children()
    ]
    with torch.inference_mode():
        network(torch.zeros(1, 3, crop, crop))
    for hook in hooks:
        hook.remove()
    maps = [name for name, shape in shapes.items() if _places(shape, width) > 1]
    if not maps:
        raise ModelError(
            f"{model} has no feature map of {width} channels, as wide as its pooled vector; leave out --tokens "
            "or take another --image-model, such as resnet50"
        )
    return maps[-1]


def _places(shape: torch.Size, width: int) -> int:
    """Places of a feature map `(1, width, H, W)` or of a sequence `(1, T, width)`; 0 for anything else."""
    if len(shape) == 4 and shape[1] == width:
        return int(shape[2] * shape[3])
    return int(shape[1]) if len(shape) == 3 and shape[2] == width else 0


def without_classifier(network: nn.Module) -> tuple[nn.Module, str, int]:
    """Takes the classification layer off a torchvision network.

    Returns:
        The network, which now gives what the layer was given; that layer's name; the width D.

    Raises:
        ModelError: the network has no such layer.
    """
    linear = [(name, part) for name, part in network.named_modules() if isinstance(part, nn.Linear)]
    if linear:
        name, layer = linear[-1]
        network.set_submodule(name, nn.Identity())
        return network, name, layer.in_features
    # SqueezeNet classifies by a convolution before its pooling.
    convolution = getattr(network, "classifier", None)
    width = next(
        (part.in_channels for part in getattr(convolution, "children", list)() if isinstance(part, nn.Conv2d)), 0
    )
    if not width:
        raise ModelError(f"{type(network).__name__} has no classification layer to take features from")
    network.set_submodule("classifier", nn.AdaptiveAvgPool2d(1))
    return network, "classifier", width


def load_network(spec: EncoderSpec) -> tuple[nn.Module, str, int, tuple[Path, ...]]:
    """The network without its classification layer, that layer's name, the width D, and the files read.

    Raises:
        ModelError: no such network, or weights that cannot be found or do not fit it.
    """
    from torchvision import models

    official = official_weights(spec.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.random_init or 0)
        network = models.get_model(spec.model, weights=None)
    backbone, layer, width = without_classifier(network)
    files: tuple[Path, ...] = ()
    if spec.random_init is None:
        if spec.weights is None:
            state, files = _official_state(spec.model, official)
        else:
            state, files = _state_of_file(Path(spec.weights)), (Path(spec.weights).absolute(),)
        _fill(backbone, {name: part for name, part in state.items() if not name.startswith(f"{layer}.")}, spec)
    return backbone, layer, width, files


def _official_state(model: str, official: Any) -> tuple[dict[str, torch.Tensor], tuple[Path, ...]]:
    """The official weights, from torch hub's local cache or downloaded into it."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(official.url).name
    with _explained(f"official weights {official} of {model}", path):
        return official.get_state_dict(progress=False, check_hash=True, weights_only=True), (path.absolute(),)


def _state_of_file(path: Path) -> dict[str, torch.Tensor]:
    with _explained("image weights", path):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(part, torch.Tensor) for part in content.values()):
        raise ModelError(f"{path} holds no state dict; save one by torch.save(model.state_dict(), ...)")
    return {name.removeprefix("module."): part for name, part in content.items()}


@contextlib.contextmanager
def _explained(what: str, path: Path) -> Iterator[None]:
    """Turns what loading raises into one clear error."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        if isinstance(error, pickle.UnpicklingError):  # torch advises to load it with all that it may execute
            reason = "it holds more than tensors, or something else"
        raise ModelError(
            f"cannot load the {what}, looked for at {path}: {reason}. Give a state dict (.pth or .safetensors) by "
            "--image-weights FILE, or --random-init SEED for untrained ones"
        ) from error


def _fill(backbone: nn.Module, state: dict[str, torch.Tensor], spec: EncoderSpec) -> None:
    """Loads weights, of which none may be missing, unknown or of another shape."""
    expected = backbone.state_dict()
    lost = sorted(name for name in expected if name not in state and not name.endswith("num_batches_tracked"))
    strange = sorted(name for name in state if name not in expected)
    wrong = sorted(
        f"{name} {tuple(part.shape)} for {tuple(expected[name].shape)}"
        for name, part in state.items()
        if name in expected and part.shape != expected[name].shape
    )
    if lost or strange or wrong:
        raise ModelError(
            f"the weights in {spec.weights or 'the hub cache'} do not fit {spec.model}: {len(lost)} missing "
            f"({listing(lost, 3)}), {len(strange)} unknown ({listing(strange, 3)}), {len(wrong)} of another shape "
            f"({listing(wrong, 3)}); give the weights of a {spec.model} or another --image-model"
        )
    backbone.load_state_dict(state, strict=False)  # only counts of batches may be missing
