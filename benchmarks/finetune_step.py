"""A step of `finetune` against a plain loop's: what `benchmarks/finetune.py step` runs."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from cache import FeatureStore, table_of
from extract import EncoderSpec, Processes, Settings, Tuning, extract, read_manifest
from extract.finetune.data import Order, raw_rows
from extract.finetune.networks import TunableText
from extract.finetune.trainer import Joined, train
from fuse import Joint, head_for


class Ours:
    """The trainer of `finetune` on a linear head; it trains a round of steps, and its steps alone are counted."""

    def __init__(self, data: Path, model: Path, rows: int, tuning: Tuning) -> None:
        manifest = read_manifest(data)
        samples = [sample for sample in manifest.samples if sample.label][:rows]
        spec = EncoderSpec("text", str(model))
        with tempfile.TemporaryDirectory() as store:
            part = type(manifest)(manifest.path, manifest.layout, tuple(samples))
            done = extract(part, Settings(Path(store), "part", (spec,), device="cpu", keep=False))
            table = table_of(FeatureStore(store), done.view)
            joint = Joint(head_for("linear", "classification", {}, 0), table, np.arange(rows), ("text",))
        encoders = {"text": TunableText(spec, tokens=False)}
        self._joined = Joined(encoders, joint)
        self._raw = raw_rows(encoders, samples, table.masks)
        self._rows, self._tuning, self._runtime = list(range(rows)), tuning, Processes("cpu").runtime

    def seconds(self) -> float:
        """Of a round's steps, from the end of the first to that of the last."""
        marks: list[float] = []

        def told(_what: str, _done: int, _total: int) -> None:
            marks.append(time.perf_counter())

        with tempfile.TemporaryDirectory() as folder:
            train(self._joined, self._raw, self._rows, [], self._tuning, self._runtime, Path(folder), told)
        return (marks[-1] - marks[0]) / (len(marks) - 1)


class Plain:
    """Twenty lines of torch on the same batches."""

    def __init__(self, data: Path, model: Path, rows: int, tuning: Tuning) -> None:
        samples = [sample for sample in read_manifest(data).samples if sample.label][:rows]
        self._texts = [str(sample.inputs.get("text", "")) for sample in samples]
        labels = np.unique([sample.label for sample in samples], return_inverse=True)[1]
        self._labels = torch.as_tensor(labels)
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._model = AutoModel.from_pretrained(model).train()
        self._head = nn.Linear(self._model.config.hidden_size, int(labels.max()) + 1)
        self._order, self._size = Order(range(rows), tuning.seed), tuning.batch_size
        self._bf16 = Processes("cpu").runtime.has_bf16

    def seconds(self) -> float:
        """As ours."""
        groups = [{"params": self._model.parameters(), "lr": 5e-5}, {"params": self._head.parameters(), "lr": 1e-3}]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
        places = [row for _, row in self._order]
        marks = []
        for start in range(0, len(places), self._size):
            rows = places[start : start + self._size]
            batch = self._tokenizer(
                [self._texts[row] for row in rows], return_tensors="pt", padding=True, truncation=True
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
                hidden = self._model(**batch).last_hidden_state
                share = batch["attention_mask"].unsqueeze(-1)
                logits = self._head((hidden * share).sum(1) / share.sum(1))
                loss = functional.cross_entropy(logits.float(), self._labels[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*self._model.parameters(), *self._head.parameters()], 1.0)
            optimizer.step()
            marks.append(time.perf_counter())
        return (marks[-1] - marks[0]) / (len(marks) - 1)


def measure(data: Path, model: Path, steps: int, rounds: int, batch: int) -> dict[str, float]:
    """Milliseconds of a step by each way, medians of rounds in turns."""
    tuning = Tuning(epochs=1, batch_size=batch)
    rows = steps * batch
    ways: dict[str, Callable[[], float]] = {
        "ours": Ours(data, model, rows, tuning).seconds,
        "plain loop": Plain(data, model, rows, tuning).seconds,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in list(ways.items())[:: -1 if number % 2 else 1]:
            seconds = run()
            if number:  # the first round warms up
                times[name].append(1000 * seconds)
    return {name: statistics.median(own) for name, own in times.items()}
