"""The default models by their names, from local caches that hold tiny or random weights under these names."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, shutil, sys
from pathlib import Path
import numpy as np, torch
from PIL import Image
from torchvision import models
from transformers import AutoModel, AutoTokenizer
import extract.stage
from cache import FeatureStore, ModelError, table_of
from extract import EncoderSpec, Settings, extract as run, read_manifest
from extract.encoders.spec import DEFAULT_MODELS
from extract.encoders.memo import recall

root = Path(sys.argv[1])
torch.set_num_threads(1)
torch.manual_seed(0)
network = models.resnet50(weights=None)
weights = root / "torch/hub/checkpoints" / Path(models.ResNet50_Weights.DEFAULT.url).name
weights.parent.mkdir(parents=True)
torch.save(network.state_dict(), weights)
Image.effect_noise((300, 200), 90).convert("RGB").save(root / "1.png")
(root / "posts.csv").write_text("id,text,image\\n1,the day,1.png\\n2,,\\n")
specs = tuple(EncoderSpec(modality, name) for modality, name in DEFAULT_MODELS.items())
settings = Settings(root / "store", "posts", specs, device="cpu")
manifest = read_manifest(root / "posts.csv")
done = run(manifest, settings)
table = table_of(FeatureStore(settings.store), done.view)
folder = root / "hf/hub/models--bert-base-uncased/snapshots" / ("a" * 40)
tokens = AutoTokenizer.from_pretrained(folder)("the day", return_tensors="pt")
network.fc = torch.nn.Identity()
with torch.no_grad():
    text = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state[0].mean(0).numpy()
    pixels = models.ResNet50_Weights.DEFAULT.transforms()(Image.open(root / "1.png"))
    image = network.eval()(pixels[None])[0].numpy()
told = {
    "text": float(np.abs(table.block("text")[0] - text).max()),
    "image": float(np.abs(table.block("image")[0] - image).max() / np.abs(image).max()),
    "shape": list(table.shape),
}
build, extract.chosen.build_encoder = extract.chosen.build_encoder, None
told["again"] = run(manifest, settings).encoded
extract.chosen.build_encoder = build
(folder.parents[1] / "refs/main").write_text("b" * 40)
told["forgotten"] = recall(settings.store, specs[0]) is None
told["unchanged"] = run(manifest, settings).encoded
(folder.parents[1] / "refs/main").write_text("c" * 40)
told["changed"] = run(manifest, settings).encoded
told["errors"] = []
weights.write_bytes(weights.read_bytes()[:1_000_000])
for spec in (EncoderSpec("text", "bert-large-uncased"), EncoderSpec("image", "resnet18"), specs[1]):
    try:
        build(spec, extract.runtime.choose_runtime("cpu"))
    except ModelError as error:
        told["errors"].append(str(error))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the script found; it runs apart because hub libraries read their settings when they are imported."""
    root = tmp_path_factory.mktemp("caches")
    repository = root / "hf" / "hub" / "models--bert-base-uncased"
    for sha in "abc":
        shutil.copytree(bert, repository / "snapshots" / (sha * 40))
    config = repository / "snapshots" / ("c" * 40) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "layer_norm_eps": 1e-3}), encoding="utf-8")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40, encoding="utf-8")
    checkout = str(Path(__file__).parents[2])
    settings = {
        "HF_HOME": str(root / "hf"),
        "HF_HUB_CACHE": str(root / "hf" / "hub"),
        "HF_HUB_OFFLINE": "1",
        "TORCH_HOME": str(root / "torch"),
        "PYTHONPATH": checkout,
        "https_proxy": "http://127.0.0.1:9",  # nothing is to be downloaded
    }
    command = [sys.executable, "-c", SCRIPT, str(root)]
    done = subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_default_models_are_found_in_their_caches_and_give_their_own_vectors(told: dict):
    assert told["shape"] == [2, 32 + 2048]
    assert told["text"] < 1e-5
    assert told["image"] < 1e-5


def test_a_second_run_loads_no_model(told: dict):
    assert told["again"] == 0


def test_a_new_revision_is_looked_at_and_encodes_only_if_the_model_changed(told: dict):
    assert told["forgotten"]
    assert told["unchanged"] == 0
    assert told["changed"] == 1


def test_models_that_are_not_there_say_where_they_were_looked_for(told: dict):
    hub, torchvision, half = told["errors"]
    assert "cannot load the text model 'bert-large-uncased', looked for in the local hub cache and the hub" in hub
    assert "--text-model FOLDER" in hub
    assert "of resnet18, looked for at " in torchvision
    assert "--image-weights FILE" in torchvision
    assert "of resnet50, looked for at " in half
