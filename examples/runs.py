"""Runs side by side: a table of their metrics, and the one whose watched loss fell lowest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

MEASURES = {
    "classification": (
        "accuracy",
        "macro_f1",
        "weighted_f1",
        "weighted_precision",
        "weighted_recall",
        "majority_accuracy",
    ),
    "regression": ("acc7", "acc2_non0", "f1_non0", "acc2_has0", "f1_has0", "acc2_gt0", "f1_gt0", "mae", "corr"),
}


def read(path: Path) -> dict[str, Any]:
    """A JSON file of a run. Raises ClickException where there is none."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{path} cannot be read: {error}; give folders that finetune wrote") from error
    return found


def table_lines(root: Path, names: Sequence[str]) -> list[str]:
    """A Markdown table, one row a run under `root`, of the rows that judge it."""
    metrics = [read(root / name / "metrics.json") for name in names]
    keys = MEASURES[metrics[0]["task"]]
    lines = [f"| run | modalities | {' | '.join(keys)} | rows | protocol |", "|---" * (len(keys) + 4) + "|"]
    for name, one in zip(names, metrics, strict=True):
        cells = ["-" if one[key] is None else f"{one[key]:.3f}" for key in keys]
        shown = [name, " + ".join(one["modalities"]), *cells, str(one["n"]), one["protocol"]]
        lines.append(f"| {' | '.join(shown)} |")
    return lines


def watched_loss(run: Path) -> float:
    """The lowest loss of the rows that were watched, which are training rows held out: not those that judge."""
    history = read(run / "tuned.json")["history"]
    losses = [epoch["valid_loss"] for epoch in history if "valid_loss" in epoch]
    if not losses:
        raise click.ClickException(f"{run} watched no rows; tune it with --patience")
    return float(min(losses))


root = click.option("--root", type=click.Path(exists=True, path_type=Path), default=".", help="Folder that holds them.")
names = click.argument("names", nargs=-1, required=True)


@click.group()
def main() -> None:
    """Look at several runs of finetune."""


@main.command()
@root
@names
def table(root: Path, names: tuple[str, ...]) -> None:
    """Print a table of the runs NAMES."""
    click.echo("\n".join(table_lines(root, names)))


@main.command()
@root
@names
def best(root: Path, names: tuple[str, ...]) -> None:
    """Print that of the runs NAMES whose watched loss fell lowest."""
    click.echo(min(names, key=lambda name: watched_loss(root / name)))


if __name__ == "__main__":
    main()
