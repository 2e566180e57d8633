"""Tiny encoders and data sets that the tests of stage one share."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cache import FeatureStore, table_of
from extract import EncoderSpec, Extraction, Manifest, Settings, extract, read_manifest
from extract.runtime import Runtime, choose_runtime

WORDS = ["the", "a", "my", "day", "great", "awful", "city", "street", "love", "hate", "home", "coffee", "rain", "sun"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"]
POSITIONS = 24


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on several threads, and far slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def each_batch_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped run has a segment for every batch; else what is encoded in half a second is one."""
    monkeypatch.setattr("extract.engine.SAVE_EVERY", 0.0)


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    return choose_runtime("cpu")


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT of 2 layers, 32 wide, with saved weights. Copy it before changing it."""
    from transformers import BertConfig, BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("models") / "bert"
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=POSITIONS,
        initializer_range=0.3,
        hidden_dropout_prob=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": POSITIONS}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def bert_alone(bert: Path) -> Callable[[str], tuple[np.ndarray, np.ndarray]]:
    """`mean` and `cls` of one text by transformers itself, without any batch or padding."""
    from transformers import BertModel, BertTokenizerFast

    tokenizer = BertTokenizerFast.from_pretrained(bert)
    model = BertModel.from_pretrained(bert).eval()

    def encode(text: str) -> tuple[np.ndarray, np.ndarray]:
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=POSITIONS)
        with torch.no_grad():
            states = model(**tokens).last_hidden_state[0].numpy()
        return states.mean(axis=0), states[0]

    return encode


@pytest.fixture(scope="session")
def shufflenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of shufflenet_v2_x0_5 whose batch norms were calibrated, so that features are not all near 0."""
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = models.shufflenet_v2_x0_5(weights=None)
        for part in network.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = None  # the mean of all batches
        with torch.no_grad():
            for _ in range(3):
                network.train()(torch.randn(8, 3, 64, 64))
    path = tmp_path_factory.mktemp("weights") / "shufflenet.pth"
    torch.save(network.state_dict(), path)
    return path


@dataclass
class Posts:
    """A table of posts that a test changes before it is read."""

    folder: Path
    rows: list[dict[str, str]] = field(default_factory=list)

    def read(self) -> Manifest:
        """Writes the table and reads it."""
        with (self.folder / "posts.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["id", "text", "image", "label", "group"])
            writer.writeheader()
            writer.writerows(self.rows)
        return read_manifest(self.folder)


@pytest.fixture
def posts(tmp_path: Path) -> Posts:
    """10 posts, all texts and all pictures different."""
    made = Posts(tmp_path / "posts")
    made.folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(10):
        pixels = draw.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((50, 60), Image.Resampling.NEAREST).save(made.folder / f"{number}.png")
        text = " ".join([WORDS[number % len(WORDS)]] * (1 + number // 3) + draw.choice(WORDS, 1 + number % 7).tolist())
        label = "good" if number % 2 else "bad"
        made.rows.append({"id": f"p{number}", "text": text, "image": f"{number}.png", "label": label, "group": ""})
    return made


@dataclass
class Bench:
    """A store in a test's own folder, and what is asked of it."""

    store: Path
    bert: Path
    shufflenet: Path

    @property
    def text(self) -> EncoderSpec:
        """The tiny BERT."""
        return EncoderSpec("text", str(self.bert))

    @property
    def image(self) -> EncoderSpec:
        """ShuffleNet with the calibrated weights."""
        return EncoderSpec("image", "shufflenet_v2_x0_5", weights=str(self.shufflenet))

    def extract(self, manifest: Manifest, *specs: EncoderSpec, **options: object) -> Extraction:
        """Extracts on the CPU; with both encoders unless some are named."""
        chosen = specs or (self.text, self.image)
        return extract(manifest, Settings(self.store, "posts", chosen, device="cpu", **options))

    def vectors(self, done: Extraction, modality: str) -> np.ndarray:
        """The rows of one modality; NaN where it lacks."""
        return np.array(table_of(FeatureStore(self.store), done.view).block(modality, missing=np.nan))

    def failures(self, done: Extraction, modality: str) -> list[dict[str, str]]:
        """What `failures.jsonl` holds."""
        path = self.store / done.view.blocks[modality].encoder / "failures.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@pytest.fixture
def bench(tmp_path: Path, bert: Path, shufflenet: Path) -> Bench:
    return Bench(tmp_path / "store", bert, shufflenet)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Modality and size of every batch that an encoder is given from here on."""
    from extract.encoders.image import ImageEncoder
    from extract.encoders.text import TextEncoder

    seen: list[tuple[str, int]] = []
    for kind in (TextEncoder, ImageEncoder):

        def spy(self, batch, inner=kind.encode):
            seen.append((self.key.modality, len(batch)))
            return inner(self, batch)

        monkeypatch.setattr(kind, "encode", spy)
    return seen


@pytest.fixture
def no_models(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, loading a model fails the test."""

    def refuse(spec: EncoderSpec, runtime: Runtime) -> None:
        raise AssertionError(f"the model {spec.model} was loaded")

    return lambda: monkeypatch.setattr("extract.chosen.build_encoder", refuse)
