"""Every example of docs/readers.md makes its data set, which is read by tiny encoders in the place of the real ones."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from console import parse_columns
from extract import LAYOUTS, Layout, read_manifest
from tests.conftest import ROOT, Result
from tests.extract.audio_data import speech_model

PAGE = (ROOT / "docs" / "readers.md").read_text(encoding="utf-8")
SECTIONS = {text.splitlines()[0]: text for text in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]}
EXAMPLES = {name: text for name, text in SECTIONS.items() if "    pipeline.py" in text}
EXPECTED = {
    "table": (2, ["text", "image"]),
    "Several columns as one text": (2, ["text"]),
    "Packed tables": (2, ["text"]),
    "Several pictures a row": (2, ["image", "image_2"]),
    "Parquet": (2, ["text", "image"]),
    "Numbers and categories": (3, ["text", "tabular"]),
    "Arrays": (3, ["text", "vision"]),
    "Audio files": (2, ["audio"]),
    "mvsa": (2, ["text", "image"]),
    "fakeddit": (2, ["text", "image"]),
    "mosi": (1, ["text", "audio", "vision"]),
    "folders": (3, ["text", "image"]),
    "webdataset": (2, ["text", "image"]),
    "hub": (3, ["text"]),
}
"""Samples and modalities of each example."""


def python_of(text: str) -> str:
    [code] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return str(code)


def test_every_layout_and_every_example_is_known() -> None:
    assert set(LAYOUTS) <= set(SECTIONS)
    assert set(EXAMPLES) == set(EXPECTED)
    assert {name.lower() for name in re.findall(r"\]\(#([\w-]+)\)", PAGE)} <= {
        name.lower().replace(" ", "-") for name in SECTIONS
    }


def test_the_help_names_every_layout(run: Callable[..., Result]) -> None:
    said = " ".join(run("extract", "--help").out.split())
    [names] = re.findall(r"How DATA is laid out \(([^)]*)\)", said)
    assert names == ", ".join(LAYOUTS)


def command_of(name: str) -> list[str]:
    """Makes the example's data, and gives the words of its command."""
    exec(python_of(EXAMPLES[name]), {})  # noqa: S102 - it is our own page
    [line] = re.findall(r"^    pipeline\.py (.*)$", EXAMPLES[name], flags=re.MULTILINE)
    return shlex.split(line)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_example_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = command_of(name)
    columns = words[words.index("--columns") + 1] if "--columns" in words else None
    manifest = read_manifest(words[1], columns=parse_columns(columns))
    samples, modalities = EXPECTED[name]
    assert (len(manifest.samples), list(manifest.modalities)) == (samples, modalities)
    assert manifest.layout == (name if name in LAYOUTS else "table")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_the_command_runs(
    name: str, run: Callable[..., Result], models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command_of(name)
    if "--audio-model" in words:
        words[words.index("--audio-model") + 1] = str(speech_model(tmp_path / "speech", "group"))
    done = run(*words, *models, "--precision", "fp32", "--json")
    assert done.code == 0, done.err
    assert done.json["samples"] == EXPECTED[name][0]
    assert list(done.json["encoders"]) == EXPECTED[name][1]
    assert done.json["encoded"] > 0


def test_the_layout_of_ones_own_reads_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(python_of(SECTIONS["A layout of your own"]), found)  # noqa: S102 - as above
    layout = found["LAYOUT"]
    assert isinstance(layout, Layout)
    assert layout.recognise(Path("all.memes"))
    samples = layout.read(Path("all.memes"), {}).samples
    assert [(one.label, one.inputs["text"]) for one in samples] == [("good", "what a day"), ("bad", "so sad")]
