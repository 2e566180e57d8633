"""Pictures through a classification network of torchvision, up to its last pooling."""

from __future__ import annotations

import contextlib
import math
import pickle  # for the name of an error; nothing is unpickled  # nosec B403
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import fx, nn

from cache import KEY_SCHEMA, TOKENS, DeviceError, EncoderKey, ModelError, Ragged, Values, listing
from extract.decode import DecodeError, decoding, is_plain_jpeg
from extract.encoders.kernels import fold_batch_norms, fuse_convolutions, fuse_linears
from extract.encoders.spec import COMPUTE, BrokenInputs, EncoderSpec, storage
from extract.encoders.weights import compute_dtype, weights_digest
from extract.manifest import Content
from extract.runtime import Runtime

MAX_RESIZED = 2**25
"""Pixels of a resized picture, of which the centre is taken: 128 MiB, a picture 512 times as long as it is wide."""


@dataclass(frozen=True)
class Preset:
    """The preprocessing that a network's weights were trained for."""

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def fields(self, decoder: str) -> dict[str, Any]:
        """Every operation on the picture, as the encoder key lists them."""
        return {
            "decoder": "nvjpeg, resized on the GPU; else pillow" if decoder == "nvjpeg" else "pillow",
            "draft": decoder == "draft",
            "exif": "transposed",
            "colour": "RGB",
            "transparency": "white",
            "resize": self.resize,
            "interpolation": self.interpolation,
            "antialias": True,
            "crop": f"centre {self.crop}",
            "mean": list(self.mean),
            "std": list(self.std),
        }


class ImageEncoder:
    """What the network's last layer gets: for ResNet-50 the global average pool, 2048 columns.

    `tokens`, where they are asked for, are the last feature map, place by place: for ResNet-50
    the grid of 7 x 7 before the pooling, row by row, `(49, 2048)`.

    Inputs are `uint8 (crop, crop, 3)`, RGB; they are normalised on the device.
    """

    def __init__(self, spec: EncoderSpec, runtime: Runtime) -> None:
        backbone, layer, width, self._preset, self.files = load_network(spec)
        self._runtime = runtime
        self._nvjpeg = spec.decoder == "nvjpeg"
        if self._nvjpeg and runtime.device.type != "cuda":
            raise DeviceError("nvJPEG decodes on an NVIDIA GPU only; give --gpu, or leave out --decoder nvjpeg")
        if self._nvjpeg and not hasattr(torchvision.io, "decode_jpeg"):  # which torchvision has said to remove
            raise DeviceError(f"torchvision {torchvision.__version__} has no nvJPEG; leave out --decoder nvjpeg")
        self._draft = self._preset.resize if spec.decoder == "draft" else None
        # TF32 would round a GPU's convolutions to 10 bits: other vectors under the same key. Not by a `with` around
        # each batch: the setting is the whole process's, and several threads encode.
        torch.backends.cudnn.allow_tf32 = False
        dtype = compute_dtype(spec.precision)
        backbone.eval().requires_grad_(False)
        grid = grid_layer(backbone, spec.model, width, self._preset.crop) if spec.tokens else ""
        self._tokens = spec.tokens
        self.truncated = 0
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

    def prepare(self, contents: Sequence[Content]) -> tuple[list[Content], list[int]]:
        """Paths, or the bytes of files, as they are; each picture costs 1."""
        return list(contents), [1] * len(contents)

    def decode(self, light: bytes) -> np.ndarray:
        """The picture as the network takes it, from the bytes of its file; the bytes themselves for nvJPEG."""
        if self._nvjpeg and is_plain_jpeg(light):
            return np.frombuffer(light, dtype=np.uint8)
        with decoding(light, self._draft) as picture:
            return preprocess(picture, self._preset)

    def blank(self) -> np.ndarray:
        """A black picture."""
        return np.zeros((self._preset.crop, self._preset.crop, 3), dtype=np.uint8)

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


def preprocess(image: Image.Image, preset: Preset) -> np.ndarray:
    """Shorter side to `resize` with antialiasing, then the centre: `uint8 (crop, crop, 3)`.

    The same operations as torchvision's presets do on Pillow images.

    Raises:
        DecodeError: the picture is so long and narrow that resizing it would fill the memory.
    """
    longer = _longer_side(image.width, image.height, preset)
    size = (preset.resize, longer) if image.width <= image.height else (longer, preset.resize)
    resized = image.resize(size, Image.Resampling[preset.interpolation.upper()])
    left, top = (round((side - preset.crop) / 2.0) for side in size)
    return np.asarray(resized.crop((left, top, left + preset.crop, top + preset.crop)), dtype=np.uint8)


def _longer_side(width: int, height: int, preset: Preset) -> int:
    """Of the resized picture. Raises DecodeError where that would fill the memory."""
    longer = int(preset.resize * max(width, height) / min(width, height))
    if preset.resize * longer > MAX_RESIZED:
        raise DecodeError(f"{width} x {height} pixels are too narrow to be resized")
    return longer


def resize_on_device(picture: torch.Tensor, preset: Preset) -> torch.Tensor:
    """The same steps as `preprocess` on a tensor `uint8 (3, H, W)`; gives `uint8 (crop, crop, 3)`.

    Raises:
        DecodeError: as `preprocess`.
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as steps

    _longer_side(picture.shape[2], picture.shape[1], preset)
    method = InterpolationMode[preset.interpolation.upper()]
    resized = steps.resize(picture, [preset.resize], interpolation=method, antialias=True)
    return steps.center_crop(resized, [preset.crop, preset.crop]).permute(1, 2, 0)


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


def load_network(spec: EncoderSpec) -> tuple[nn.Module, str, int, Preset, tuple[Path, ...]]:
    """The network without its classification layer, that layer's name, the width D, preprocessing, and files read.

    Raises:
        ModelError: no such network, or weights that cannot be found or do not fit it.
    """
    from torchvision import models

    names = models.list_models(module=models)
    if spec.model not in names:
        raise ModelError(
            f"torchvision has no classification network {spec.model!r}; it has {listing(names, 8)}: see --image-model"
        )
    official = models.get_model_weights(spec.model).DEFAULT
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
    return backbone, layer, width, _preset(official.transforms()), files


def _preset(transforms: Any) -> Preset:
    return Preset(
        resize=int(transforms.resize_size[0]),
        crop=int(transforms.crop_size[0]),
        interpolation=str(transforms.interpolation.value),
        mean=tuple(float(value) for value in transforms.mean),
        std=tuple(float(value) for value in transforms.std),
    )


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
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
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
