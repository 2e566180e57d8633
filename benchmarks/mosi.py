"""CM-BERT's fusion block on frozen tokens and word-aligned audio, against audio zeroed, text only and the mean.

    python benchmarks/mosi.py --data MOSI-DEV --text-model FOLDER

CMU-MOSI's development split, 229 utterances of 10 videos, 5 folds by video, 3 seeds. A word's audio is
repeated over its word pieces. Writes `results/mosi.json`, `mosi.md` and `mosi_attention.png`.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from sklearn.base import clone
from sklearn.model_selection import GroupKFold

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import RESULTS, machine, write_result
from cache import load
from fuse import FusionRegressor, make_regressor, regression_metrics

SEEDS, FOLDS, AUDIO = 3, 5, 74
MEASURES = ("mae", "corr", "acc7", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc2_gt0", "f1_gt0")
SHOWN = 3


def texts_and_pieces(rows: list[dict[str, Any]], text_model: Path) -> list[list[int | None]]:
    """For each utterance the word of each of its pieces, None at [CLS] and [SEP]."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(text_model)
    return [tokenizer(row["words"], is_split_into_words=True).word_ids() for row in rows]


def features(data: Path, rows: list[dict[str, Any]], text_model: Path, work: Path) -> dict[str, Any]:
    """Tokens of our own extraction, zero-padded, with the audio of each piece beside them."""
    from extract import EncoderSpec, Settings, extract, read_manifest

    table_file = work / "mosi.jsonl"
    lines = [json.dumps({"id": row["id"], "text": " ".join(row["words"])}) for row in rows]
    table_file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    spec = EncoderSpec("text", str(text_model), tokens=True)
    extract(read_manifest(table_file), Settings(work / "store", "mosi", (spec,), device="cpu"))
    tokens = load(work / "store", "mosi").tokens("text")
    pieces = texts_and_pieces(rows, text_model)
    longest, width = int(tokens.lengths.max()), tokens.shape[1]
    text, audio = np.zeros((len(rows), longest, width)), np.zeros((len(rows), longest, AUDIO))
    for number, (row, words) in enumerate(zip(rows, pieces, strict=True)):
        if len(words) != len(tokens[number]):
            raise click.ClickException(f"{row['id']}: {len(words)} pieces, {len(tokens[number])} stored")
        sound = np.load(data / row["audio"])
        text[number, : len(words)] = tokens[number]
        for place, word in enumerate(words):
            if word is not None:
                audio[number, place] = sound[word]
    return {
        "text": text.reshape(len(rows), -1),
        "audio": audio.reshape(len(rows), -1),
        "pieces": pieces,
        "width": width,
    }


def variants(found: dict[str, Any]) -> dict[str, tuple[np.ndarray, FusionRegressor]]:
    """Columns and head of each row of the table."""
    both = {"text": slice(0, found["text"].shape[1])}
    both["audio"] = slice(both["text"].stop, both["text"].stop + found["audio"].shape[1])
    alone = {"text": both["text"]}
    width = {"text": found["width"], "audio": AUDIO}
    block = make_regressor("cmbert", dropout=0.3, blocks=both, token_dim=width)
    text_only = make_regressor("cmbert", dropout=0.3, blocks=alone, token_dim={"text": found["width"]})
    lstm = make_regressor("ef-lstm", dropout=0.3, blocks=both, token_dim=width)
    silent = np.zeros_like(found["audio"])
    return {
        "CM-BERT's block, text + audio": (np.hstack([found["text"], found["audio"]]), block),
        "the same, audio zeroed": (np.hstack([found["text"], silent]), block),
        "the same, text only": (found["text"], text_only),
        "EF-LSTM, text + audio": (np.hstack([found["text"], found["audio"]]), lstm),
    }


def judged(X: np.ndarray, y: np.ndarray, groups: np.ndarray, head: FusionRegressor) -> list[dict[str, Any]]:
    """Metrics of all rows, each predicted by a model that saw none of its video, a seed."""
    found = []
    for seed in range(SEEDS):
        predicted = np.empty(len(y))
        for train, test in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(X, y, groups):
            model = clone(head).set_params(random_state=seed).fit(X[train], y[train], groups=groups[train])
            predicted[test] = model.predict(X[test])
        found.append(regression_metrics(y, predicted))
    return found


def by_mean(y: np.ndarray, groups: np.ndarray) -> list[dict[str, Any]]:
    """What the mean of the training labels would score."""
    found = []
    for seed in range(SEEDS):
        predicted = np.empty(len(y))
        for train, test in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(y, y, groups):
            predicted[test] = y[train].mean()
        found.append(regression_metrics(y, predicted))
    return found


def picture(rows: list[dict[str, Any]], found: dict[str, Any], y: np.ndarray, text_model: Path) -> None:
    """Three utterances: how much the output takes from each piece, with the audio and with it zeroed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(text_model)
    kinds = list(variants(found).items())[:2]
    lengths = np.array([len(row["words"]) for row in rows])
    readable = np.flatnonzero((lengths >= 6) & (lengths <= 14))
    chosen = readable[np.argsort(y[readable])[[0, len(readable) // 2, -1]]]
    rest = np.setdiff1d(np.arange(len(rows)), chosen)
    figure, axes = plt.subplots(SHOWN, 1, figsize=(9, 7.5), layout="constrained")
    weights = {
        name: clone(head).set_params(random_state=0).fit(X[rest], y[rest]).attention(X[chosen])
        for name, (X, head) in kinds
    }
    for axis, place in zip(axes, range(SHOWN), strict=True):
        row = rows[chosen[place]]
        names = tokenizer.convert_ids_to_tokens(tokenizer(row["words"], is_split_into_words=True)["input_ids"])
        for shift, (name, each) in zip((-0.2, 0.2), weights.items(), strict=True):
            axis.bar(np.arange(len(names)) + shift, each[place], width=0.4, label=name)
        axis.set_xticks(range(len(names)), names, rotation=35, ha="right")
        axis.set_title(f"label {row['label']:+.1f}", loc="left", fontsize=10)
        axis.set_ylabel("weight")
    axes[0].legend(frameon=False)
    figure.suptitle("What the output takes from each word piece (trained without these utterances)")
    figure.savefig(RESULTS / "mosi_attention.png", dpi=110)


def lines_of(table: dict[str, list[dict[str, Any]]]) -> list[str]:
    lines = [f"{FOLDS} folds by video, means over {SEEDS} seeds (standard deviation over seeds).", ""]
    lines += ["| | " + " | ".join(MEASURES) + " |", "|---" * (len(MEASURES) + 1) + "|"]
    for name, found in table.items():
        cells = []
        for key in MEASURES:
            values = [one[key] for one in found]
            known = None not in values
            cells.append(f"{statistics.mean(values):.3f} ({statistics.pstdev(values):.3f})" if known else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    notes = [
        "The paper's figures are for full tuning on the whole of MOSI; here only the fusion block is trained.",
        "The audio makes no difference, by the formula: the output is made from [CLS] alone, whose audio is a row of",
        "zeros, so that its scores relu(P_a P_a') all but vanish. EF-LSTM reads the audio of every word.",
    ]
    return [*lines, "", *notes, "", "![what the output takes from each word piece](mosi_attention.png)"]


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="The folder mosi-dev.")
@click.option("--text-model", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of MiniLM-L6.")
def main(data: Path, text_model: Path) -> None:
    """Measure CM-BERT's block on MOSI's development split and write the results beside this script."""
    rows = [json.loads(line) for line in (data / "mosi_dev.jsonl").read_text(encoding="utf-8").splitlines()]
    y, groups = np.array([row["label"] for row in rows]), np.array([row["video"] for row in rows])
    with tempfile.TemporaryDirectory() as work:
        found = features(data, rows, text_model, Path(work))
    table = {name: judged(X, y, groups, head) for name, (X, head) in variants(found).items()}
    table["mean of the training labels"] = by_mean(y, groups)
    picture(rows, found, y, text_model)
    result = {"machine": machine("matplotlib"), "rows": len(rows), "videos": len(set(groups)), "table": table}
    click.echo(write_result("mosi", "CM-BERT's block on MOSI's development split", result, lines_of(table)))


if __name__ == "__main__":
    main()
