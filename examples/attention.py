"""What the output of an attention head takes from each word piece: bars for a few judged rows, as a picture.

    python examples/attention.py --run RUN --store features --name NAME -o attention.png

NAME are the features of the run's own encoders: `pipeline.py extract DATA --finetuned RUN --tokens --name NAME`.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cache import PipelineError, UsageError, load
from extract import originals
from fuse import load_run

LEAST, MOST = 4, 24
"""Word pieces of utterances that are shown, if there are any: what can be read."""


def judged_rows(run: Path) -> dict[str, str]:
    """True labels of the rows that judged the run, by id."""
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return {row["id"]: row["true"] for row in csv.DictReader(file)}


def chosen_rows(lengths: Sequence[int], labels: Sequence[str], rows: int) -> list[int]:
    """Rows of readable length, spread from the lowest label to the highest."""
    readable = [place for place, length in enumerate(lengths) if LEAST <= length <= MOST] or list(range(len(lengths)))
    ordered = sorted(readable, key=lambda place: _number(labels[place]))
    return [ordered[place] for place in np.unique(np.linspace(0, len(ordered) - 1, rows).round().astype(int))]


def _number(label: str) -> tuple[float, str]:
    try:
        return float(label), label
    except ValueError:
        return 0.0, label


def draw(titles: Sequence[str], pieces: Sequence[list[str]], weights: Sequence[np.ndarray], out: Path) -> None:
    """One row of bars an utterance."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(titles), 1, figsize=(9, 2.2 * len(titles)), layout="constrained", squeeze=False)
    for axis, title, names, own in zip(axes[:, 0], titles, pieces, weights, strict=True):
        axis.bar(range(len(own)), own)
        axis.set_xticks(range(len(own)), names, rotation=35, ha="right")
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_ylabel("weight")
    figure.suptitle("What the output takes from each word piece")
    figure.savefig(out, dpi=110)


def pieces_of(spec: Any, texts: Sequence[str]) -> list[list[str]]:
    """Word pieces of texts, with the marks at both ends."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    longest = spec["max_length"] or min(tokenizer.model_max_length, 512)
    ids = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
    return [[str(tokenizer.convert_ids_to_tokens(one)) for one in own] for own in ids]


@click.command()
@click.option("--run", "folder", type=click.Path(exists=True, path_type=Path), required=True, help="Of finetune.")
@click.option("--store", type=click.Path(exists=True, path_type=Path), required=True, help="Feature store.")
@click.option("--name", required=True, help="Data set of the run's encoders, with tokens.")
@click.option("--rows", default=5, show_default=True, help="How many utterances.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default="attention.png", help="The picture.")
def main(folder: Path, store: Path, name: str, rows: int, output: Path) -> None:
    """Draw what a run's output takes from each word piece."""
    try:
        run, table = load_run(folder), load(store, name)
        if not hasattr(run.model, "attention"):
            raise UsageError(f"the head of {folder} has no attention; give a run of cmbert")
        true = judged_rows(folder)
        table = table[[id_ in true and bool(table.masks["text"][row]) for row, id_ in enumerate(table.ids.tolist())]]
        lengths = table.tokens("text").lengths.tolist()
        table = table[chosen_rows(lengths, [true[id_] for id_ in table.ids.tolist()], rows)]
        ids = table.ids.tolist()
        shown = originals(table.view, ids).found
        pieces = pieces_of(run.encoders["text"]["spec"], [shown[id_].texts["text"] for id_ in ids])
        weights = run.model.attention(table.select(list(run.encoders)))
    except PipelineError as error:
        raise click.ClickException(str(error)) from error
    draw([f"{id_}, label {true[id_]}" for id_ in ids], pieces, weights, output)
    click.echo(f"{len(ids)} utterances: {output}")


if __name__ == "__main__":
    main()
