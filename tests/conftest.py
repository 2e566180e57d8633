"""What tests of the whole pipeline share: tiny models, generated posts, the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.buckets import bucket, buckets  # noqa: F401  # fixtures

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported

ROOT = Path(__file__).resolve().parent.parent
WORDS = {"good": ["love", "great", "sweet", "best"], "bad": ["hate", "awful", "worst", "sad"]}
COLOURS = {"good": (240, 200, 60), "bad": (40, 60, 90)}


@pytest.fixture(scope="session", autouse=True)
def own_notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Local copies, and notes of what was found damaged, lie in no folder of the user's."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ENCODE_ONCE_CACHE", str(tmp_path_factory.mktemp("copies")))
        yield


@pytest.fixture(scope="session", autouse=True)
def full_precision() -> Iterator[None]:
    """Where the precision is left open it is fp32: on models this small a measurement is a throw of dice."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("extract.precision.FASTER", float("inf"))
        yield


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command in this process, offline, in `tmp_path`: imports are paid for once."""
    from click.testing import CliRunner

    import pipeline

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def call(*args: object, cwd: Path | None = None) -> Result:
        monkeypatch.chdir(cwd or tmp_path)
        done = CliRunner().invoke(pipeline.main, [str(arg) for arg in args])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Result(done.exit_code, done.stdout, done.stderr)

    return call


@pytest.fixture
def run_process(tmp_path: Path) -> Callable[..., Result]:
    """Runs `pipeline.py` in a process of its own, as a user does, offline, in `tmp_path`."""

    def call(*args: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> Result:
        done = subprocess.run(
            [sys.executable, str(ROOT / "pipeline.py"), *map(str, args)],
            cwd=cwd or tmp_path,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT of 2 layers and 32 columns, with weights and a tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    words = sorted({word for group in WORDS.values() for word in group} | {"the", "day", "my", "a", "so"})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 32}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def write_posts(folder: Path, n: int = 40, unlabelled: int = 4) -> Path:
    """Posts in the layout of MVSA: label `same` where text and picture agree, else `other`."""
    rng = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    labelled, rest = ["guid,tag"], ["guid,tag"]
    for number in range(n + unlabelled):
        text, picture = (str(one) for one in rng.choice(["good", "bad"], size=2))
        words = [*rng.choice(WORDS[text], size=3), *rng.choice(["the", "day", "my", "a", "so"], size=3)]
        (folder / "data" / f"{number}.txt").write_text(" ".join(words), encoding="utf-8")
        colour = np.clip(np.array(COLOURS[picture]) + rng.integers(-15, 15, size=3), 0, 255)
        Image.new("RGB", (64, 48), tuple(int(part) for part in colour)).save(folder / "data" / f"{number}.jpg")
        tag = "same" if text == picture else "other"
        (labelled if number < n else rest).append(f"{number},{tag if number < n else 'null'}")
    (folder / "train.txt").write_text("\n".join(labelled) + "\n", encoding="utf-8")
    (folder / "test_without_label.txt").write_text("\n".join(rest) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    """40 labelled and 4 unlabelled posts."""
    return write_posts(tmp_path / "posts")


@pytest.fixture
def models(bert: Path) -> list[str]:
    """Options that choose tiny encoders."""
    return tiny_models(bert)


def tiny_models(bert: Path) -> list[str]:
    """The same, for fixtures of a wider scope."""
    return ["--text-model", str(bert), "--image-model", "squeezenet1_1", "--random-init", "image=0"]


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory, bert: Path) -> Path:
    """A folder with `posts/` and their features in `features/`; tests work on a copy, `extracted`."""
    from click.testing import CliRunner

    import pipeline

    folder = tmp_path_factory.mktemp("ready")
    posts = write_posts(folder / "posts")
    args = ["extract", posts, *tiny_models(bert), "--store", folder / "features"]
    done = CliRunner().invoke(pipeline.main, [str(arg) for arg in args])
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture
def extracted(ready: Path, tmp_path: Path) -> Path:
    """A copy of `ready` in the test's own folder, where commands run."""
    shutil.copytree(ready, tmp_path, dirs_exist_ok=True)
    return tmp_path


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Chromium of this machine, one for all tests; they are skipped where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install playwright, and a Chromium (apt install chromium)"
    )
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no browser: apt install chromium, or put chromium, chromium-browser or google-chrome on the PATH")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()
