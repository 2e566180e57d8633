import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from cache import ModelError, PipelineError
from extract import EncoderSpec
from extract.decode import DecodeError
from extract.encoders.image import ImageEncoder, without_classifier
from extract.encoders.picture import Preset, preprocess
from extract.runtime import Runtime

SIZES = [(500, 333), (333, 500), (224, 224), (256, 256), (257, 300), (31, 90), (8, 9), (1000, 240)]
Build = Callable[..., ImageEncoder]
State = dict[str, torch.Tensor]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def build(runtime: Runtime) -> Build:
    def build(model: str = "shufflenet_v2_x0_5", **options: object) -> ImageEncoder:
        return ImageEncoder(EncoderSpec("image", model, **options), runtime)

    return build


@pytest.fixture
def state(shufflenet: Path) -> State:
    return torch.load(shufflenet, weights_only=True)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[object], str]:
    def save(content: object) -> str:
        path = tmp_path / f"weights{len(list(tmp_path.iterdir()))}.pth"
        torch.save(content, path)
        return str(path)

    return save


@pytest.mark.parametrize("model", ["resnet50", "squeezenet1_1", "efficientnet_b0", "vit_b_16"])
def test_preprocessing_equals_torchvisions_preset(model: str):
    presets = models.get_model_weights(model).DEFAULT.transforms()
    resize, crop, mode = presets.resize_size[0], presets.crop_size[0], presets.interpolation.value
    preset = Preset(resize, crop, mode, tuple(presets.mean), tuple(presets.std))
    for size in SIZES:
        image = picture(*size)
        normalised = presets(image)
        expected = normalised * torch.tensor(presets.std)[:, None, None] + torch.tensor(presets.mean)[:, None, None]
        found = preprocess(image, preset)
        assert found.dtype == np.uint8
        np.testing.assert_allclose(found.transpose(2, 0, 1) / 255, expected.numpy(), atol=1e-6, err_msg=str(size))


def test_a_picture_too_narrow_to_be_resized_is_refused():
    preset = Preset(256, 224, "bilinear", (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(DecodeError, match="1 x 4000 pixels are too narrow"):
        preprocess(Image.new("RGB", (1, 4000)), preset)


def penultimate(network: nn.Module, last: nn.Module, inputs: torch.Tensor) -> np.ndarray:
    """What the last layer of torchvision's own network is given."""
    seen = []
    last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        network.eval()(inputs)
    return seen[0].flatten(1).numpy()


def test_encoder_equals_torchvisions_penultimate_activation(build: Build, shufflenet: Path, state: State):
    images = [picture(*size, seed) for seed, size in enumerate(SIZES)]
    transform = models.ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms()
    network = models.shufflenet_v2_x0_5(weights=None)
    network.load_state_dict(state)
    expected = penultimate(network, network.fc, torch.stack([transform(image) for image in images]))
    encoder = build(weights=str(shufflenet))
    found = encoder.encode([encoder.decode(png(image)) for image in images])["pool"]
    assert found.dtype == np.float32
    assert found.shape == (len(images), 1024)
    assert np.abs(expected).mean() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("model", "width"), [("squeezenet1_1", 512), ("mobilenet_v3_small", 1024)])
def test_networks_with_other_heads(build: Build, model: str, width: int):
    """SqueezeNet classifies by a convolution; MobileNet has two linear layers."""
    images = [picture(*size, seed) for seed, size in enumerate(SIZES[:3])]
    inputs = torch.stack([models.get_model_weights(model).DEFAULT.transforms()(image) for image in images])
    torch.manual_seed(4)
    network = models.get_model(model, weights=None)
    if model == "squeezenet1_1":
        with torch.no_grad():
            expected = network.eval().features(inputs).mean(dim=(2, 3)).numpy()
    else:
        expected = penultimate(network, network.classifier[3], inputs)
    encoder = build(model, random_init=4)
    found = encoder.encode([encoder.decode(png(image)) for image in images])["pool"]
    assert found.shape == (3, width)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=1e-5)
    assert np.array_equal(found, encoder.encode([encoder.decode(png(image)) for image in images])["pool"])


def test_a_network_without_classifier_is_refused():
    with pytest.raises(ModelError, match="Sequential has no classification layer"):
        without_classifier(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))


def test_unknown_networks_are_refused(build: Build):
    with pytest.raises(ModelError, match=r"no classification network 'resnet51'; it has alexnet, .*more"):
        build("resnet51", random_init=0)


def test_a_folder_of_the_networks_name_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Build):
    (tmp_path / "squeezenet1_1").mkdir()
    monkeypatch.chdir(tmp_path)
    assert build("squeezenet1_1", random_init=0).key.fields["architecture"] == "torchvision/squeezenet1_1"


@pytest.mark.slow
def test_key_does_not_depend_on_what_no_vector_depends_on(
    build: Build, shufflenet: Path, state: State, tmp_path: Path, saved: Callable[[object], str]
):
    key = build(weights=str(shufflenet)).key.digest
    save_file(state, tmp_path / "same.safetensors")
    same = {
        "format": str(tmp_path / "same.safetensors"),
        "place": saved(state),
        "data parallel": saved({f"module.{name}": part for name, part in state.items()}),
        "checkpoint": saved({"state_dict": state, "epoch": 3}),
        "classifier": saved({**state, "fc.weight": state["fc.weight"] + 1, "fc.bias": state["fc.bias"] + 1}),
        "other classes": saved({**state, "fc.weight": torch.zeros(3, 1024), "fc.bias": torch.zeros(3)}),
        "no classifier": saved({name: part for name, part in state.items() if not name.startswith("fc.")}),
        "counter": saved({**state, "conv1.1.num_batches_tracked": torch.tensor(99)}),
        "no counter": saved({name: part for name, part in state.items() if "num_batches" not in name}),
    }
    found = {name: build(weights=path).key.digest for name, path in same.items()}
    assert found == dict.fromkeys(same, key)
    assert build(weights=str(shufflenet), output="pool").key.digest == key


def test_key_depends_on_weights_statistics_seed_and_network(
    build: Build, shufflenet: Path, state: State, saved: Callable[[object], str]
):
    bit, statistics = state["conv5.0.weight"].clone(), state["conv1.1.running_var"].clone()
    bit.view(torch.int32)[0, 0] ^= 1
    statistics.view(torch.int32)[0] ^= 1
    keys = [
        build(weights=str(shufflenet)),
        build(weights=saved({**state, "conv5.0.weight": bit})),
        build(weights=saved({**state, "conv1.1.running_var": statistics})),
        build(random_init=0),
        build(random_init=1),
        build("squeezenet1_1", random_init=0),
        build("squeezenet1_0", random_init=0),
    ]
    assert len({encoder.key.digest for encoder in keys}) == len(keys)


def test_key_tells_the_network_and_its_preprocessing(build: Build):
    fields = build(random_init=0).key.fields
    assert fields["architecture"] == "torchvision/shufflenet_v2_x0_5"
    assert fields["preprocessing"]["resize"] == 256
    assert fields["preprocessing"]["mean"] == [0.485, 0.456, 0.406]


def test_weights_that_do_not_fit_are_refused_by_name(build: Build, state: State, saved: Callable[[object], str]):
    lacking = {name: part for name, part in state.items() if name != "conv5.0.weight"}
    with pytest.raises(ModelError, match=r"do not fit shufflenet_v2_x0_5: 1 missing \(conv5\.0\.weight\), 0 unknown"):
        build(weights=saved(lacking))
    with pytest.raises(ModelError, match=r"0 missing \(\), 1 unknown \(conv6\.weight\)"):
        build(weights=saved({**state, "conv6.weight": torch.zeros(1)}))
    with pytest.raises(ModelError, match=r"1 of another shape \(conv5\.0\.weight \(3, 3\) for \(1024, 192, 1, 1\)\)"):
        build(weights=saved({**state, "conv5.0.weight": torch.zeros(3, 3)}))


def test_a_file_of_weights_is_not_ignored_beside_a_seed(build: Build, tmp_path: Path):
    with pytest.raises(PipelineError, match="weights"):
        build(random_init=0, weights=str(tmp_path / "nowhere.pth"))


def test_files_that_are_no_weights_are_refused(
    build: Build, tmp_path: Path, state: State, saved: Callable[[object], str]
):
    with pytest.raises(ModelError, match=r"looked for at .*nowhere\.pth: .*--image-weights FILE"):
        build(weights=str(tmp_path / "nowhere.pth"))
    with pytest.raises(ModelError, match="holds no state dict"):
        build(weights=saved([torch.zeros(3)]))
    save_file(state, tmp_path / "whole.safetensors")
    for whole in (Path(saved(state)), tmp_path / "whole.safetensors"):
        raw = whole.read_bytes()
        for length in (0, 20, len(raw) // 2):
            half = tmp_path / f"half{whole.suffix}"
            half.write_bytes(raw[:length])
            with pytest.raises(ModelError, match=r"cannot load the image weights, looked for at .*half\."):
                build(weights=str(half))
    (tmp_path / "page.pth").write_text("<html>sign in</html>", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot load the image weights"):
        build(weights=str(tmp_path / "page.pth"))


class Hostile:
    """Unpickling it makes a file."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (self.target, "w"))


def test_pickled_objects_are_refused_and_not_run(
    build: Build, tmp_path: Path, state: State, saved: Callable[[object], str]
):
    target = tmp_path / "executed"
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Hostile(str(target)), protocol=2))
    for path in (saved({**state, "extra": Hostile(str(target))}), str(plain), saved(nn.Linear(2, 2))):
        with pytest.raises(ModelError, match="cannot load the image weights"):
            build(weights=path)
    assert not target.exists()
