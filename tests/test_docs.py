"""What the README says is true: its code runs, its commands and options exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest

import pipeline
from tests.conftest import ROOT, Result

README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Every call of `pipeline.py` in a code block or between backticks."""
    blocks = re.findall(r"^    (pipeline\.py [a-z].*)$", README, flags=re.MULTILINE)
    inline = re.findall(r"`(pipeline\.py [^`]*)`", README)
    return [line.split("#")[0].strip() for line in (*blocks, *inline) if "..." not in line]


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_every_command_of_the_readme_exists(line: str) -> None:
    words = shlex.split(line)[1:]
    command: click.Command = pipeline.main
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    known = {option for param in command.params for option in param.opts}
    assert {word for word in words if word.startswith("-")} <= known


def test_every_option_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`(--[a-z-]+)", README))
    known = {option for command in pipeline.main.commands.values() for param in command.params for option in param.opts}
    assert named
    assert named <= known


def test_every_file_of_the_tree_exists() -> None:
    tree = README.split("## The tree")[1]
    for name in re.findall(r"([\w/]+\.py)", tree):
        assert list(ROOT.rglob(name)), name


@pytest.mark.parametrize("command", [[], ["cache"]])
def test_every_command_and_option_has_help(command: list[str]) -> None:
    group = pipeline.main.commands[command[0]] if command else pipeline.main
    assert isinstance(group, click.Group)
    for one in group.commands.values():
        assert one.help, one.name
        for param in one.params:
            assert not isinstance(param, click.Option) or param.help, param.name


def test_the_help_keeps_its_lines(run: Callable[..., Result]) -> None:
    lines = run("--help").out.splitlines()
    assert [line for line in lines if line.startswith("  pipeline.py bench --gpu   ")]
    assert not [line for line in lines if "\\b" in line]


def test_the_python_of_the_readme_runs(
    run: Callable[..., Result], posts: Path, models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("extract", posts, *models).code == 0
    monkeypatch.chdir(posts.parent)
    found: dict[str, object] = {}
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(code, found)  # noqa: S102 - it is our own README
    assert np.shape(found["scores"]) == (5,)
    assert np.shape(found["X"]) == (40, 32 + 512)


def test_the_page_of_heads_is_what_the_registry_says() -> None:
    from benchmarks.heads_page import PAGE, page
    from fuse import HEADS

    assert PAGE.read_text(encoding="utf-8") == page(), "run python benchmarks/heads_page.py"
    for name in HEADS:
        assert f"## {name}\n" in page()
