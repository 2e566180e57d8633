"""Encoders and a head trained end to end, by transformers' Trainer."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # the name of an error; nothing is unpickled  # nosec B403
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as group
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from cache import Progress, StoreDamaged
from extract.finetune.data import Collate, Order, Raw, RawRows
from extract.finetune.networks import Given, Tunable
from extract.finetune.settings import SCHEDULES, Tuning
from extract.runtime import Runtime

STATE = "trainer_state.json"
"""The last file of a checkpoint that the Trainer writes."""


class Joined(nn.Module):
    """Encoders, and a module that makes a loss of their outputs.

    Args:
        encoders: by modality; several may share one.
        top: called with row numbers `(b,)` and, by modality, what the encoder gave; rows that lack the
            modality hold zeros, and a modality that no row of the batch has is left out. Gives a loss. Its
            `groups` are its parameters as the optimiser takes them, with their rates and decay.
    """

    def __init__(self, encoders: Mapping[str, Tunable], top: nn.Module) -> None:
        super().__init__()
        self.by_name, self.top = dict(encoders), top
        owners: dict[int, str] = {}
        self._owner = {name: owners.setdefault(id(encoder), name) for name, encoder in encoders.items()}
        self.encoders = nn.ModuleDict({name: one for name, one in encoders.items() if self._owner[name] == name})

    def forward(self, rows: Tensor, inputs: Mapping[str, Any], places: Mapping[str, Tensor]) -> Tensor:
        """The loss of a batch."""
        given = {
            name: _spread(self.encoders[self._owner[name]](inputs[name]), places[name], len(rows)) for name in inputs
        }
        with torch.autocast(rows.device.type, enabled=False):  # the head is small, and worth its digits
            loss: Tensor = self.top(rows, given)
        return loss


def _spread(given: Given, places: Tensor, rows: int) -> Given:
    """Outputs of some rows of a batch among all of them."""
    values, shown = given
    if len(places) == rows:
        return given
    out = values.new_zeros((rows, *values.shape[1:])).index_copy(0, places, values)
    return out, shown.new_zeros((rows, *shown.shape[1:])).index_copy(0, places, shown)


@dataclass(frozen=True)
class Trained:
    """What a training was: steps of the optimizer, seconds of this run, and losses by epoch."""

    steps: int
    seconds: float
    history: tuple[Mapping[str, float], ...]


def train(
    joined: Joined,
    raw: Raw,
    rows: Sequence[int],
    held: Sequence[int],
    tuning: Tuning,
    runtime: Runtime,
    folder: Path,
    progress: Progress,
) -> Trained:
    """Trains all that may learn; goes on from the last whole checkpoint in `folder`, which it empties at the end.

    The order of the rows, dropout and augmentation hang on the seed alone: a training that was stopped
    and goes on ends with the weights of one that was not.

    Args:
        joined: encoders and head; they are changed in place.
        raw: inputs of all rows.
        rows: numbers of the training rows.
        held: numbers of validation rows; may be empty unless the tuning watches them.
        tuning: how.
        runtime: on which device.
        folder: for checkpoints, one an epoch.
        progress: told after each step.
    """
    with _random_state_kept():
        trainer = _Trainer(joined, raw, rows, held, tuning, _arguments(tuning, runtime, folder, len(rows), bool(held)))
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Told(progress))
        if tuning.patience is not None:
            trainer.add_callback(EarlyStoppingCallback(tuning.patience))
        checkpoint = _last_whole(folder)
        try:
            done = trainer.train(resume_from_checkpoint=checkpoint)
        except UnpicklingError as error:  # of what is no plain tensor, which is never loaded
            raise StoreDamaged(
                f"{checkpoint} is not what was written: {str(error).splitlines()[0]} Remove the folder, and the same "
                "command starts anew"
            ) from error
    history = _by_epoch(trainer.state.log_history)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        shutil.rmtree(folder, ignore_errors=True)
    return Trained(int(trainer.state.global_step), float(done.metrics["train_runtime"]), history)


def _arguments(tuning: Tuning, runtime: Runtime, folder: Path, rows: int, watched: bool) -> TrainingArguments:
    on_gpu = runtime.device.type == "cuda"
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=tuning.batch_size,
        per_device_eval_batch_size=2 * tuning.batch_size,
        gradient_accumulation_steps=tuning.accumulate,
        num_train_epochs=tuning.passes(rows),
        lr_scheduler_type=SCHEDULES[tuning.schedule],
        lr_scheduler_kwargs={"factor": 0.1, "patience": 1} if tuning.schedule == "plateau" else None,
        warmup_steps=0 if tuning.schedule == "plateau" else tuning.warm_up,
        max_grad_norm=tuning.clip_norm or 0.0,
        bf16=tuning.precision == "bf16" or (tuning.precision == "auto" and runtime.has_bf16),
        use_cpu=not on_gpu,
        seed=tuning.seed,
        save_strategy="epoch",
        save_total_limit=1,
        eval_strategy="epoch" if watched else "no",
        load_best_model_at_end=tuning.patience is not None,
        metric_for_best_model="loss",
        logging_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
        dataloader_num_workers=runtime.decoders if on_gpu else 0,
        ddp_find_unused_parameters=True,  # a batch may lack a modality
        ddp_backend=None if on_gpu or not group.is_initialized() else "gloo",
    )


class _Trainer(Trainer):
    """The Trainer with a learning rate a part, our order of rows, and a loss that the model itself makes."""

    def __init__(
        self,
        joined: Joined,
        raw: Raw,
        rows: Sequence[int],
        held: Sequence[int],
        tuning: Tuning,
        arguments: TrainingArguments,
    ) -> None:
        self._joined, self._rows, self._held, self._tuning = joined, rows, held, tuning
        self._collate = Collate(joined.by_name)
        self._watched = RawRows(joined.by_name, raw, None)
        super().__init__(
            joined,
            arguments,
            data_collator=cast("Any", self._collate),
            train_dataset=RawRows(joined.by_name, raw, tuning.seed if tuning.augment else None, rows),
            eval_dataset=self._watched if len(held) else None,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        return Order(self._rows, self._tuning.seed)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW; biases and norms of encoders do not decay."""
        self.optimizer = torch.optim.AdamW(_groups(self._joined, self._tuning), fused=True)
        return self.optimizer

    def compute_loss(self, model: nn.Module, inputs: Any, *_: Any, **__: Any) -> Tensor:
        """Of a batch."""
        loss: Tensor = model(**inputs)
        return loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The mean loss of the rows that are watched."""
        self._joined.eval()
        mass, size = 0.0, self.args.per_device_eval_batch_size
        with torch.no_grad():
            for start in range(0, len(self._held), size):
                part = [self._watched[0, row] for row in self._held[start : start + size]]
                mass += float(self._joined(**self._prepare_inputs(self._collate(part)))) * len(part)
        self._joined.train()
        metrics = {"eval_loss": mass / len(self._held)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Told(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tells how far it is."""
        if state.is_world_process_zero:
            self._progress("tune", state.global_step, state.max_steps)


def _groups(joined: Joined, tuning: Tuning) -> list[dict[str, Any]]:
    """Parameters by learning rate and decay."""
    found = []
    for name in joined.encoders:
        encoder = joined.by_name[name]
        learning = [(own, part) for own, part in encoder.named_parameters() if part.requires_grad]
        for decays in (True, False):
            chosen = [part for _, part in learning if (part.ndim > 1) == decays]
            if chosen:
                decay = tuning.weight_decay if decays else 0.0
                found.append({"params": chosen, "lr": tuning.rate(name, encoder.spec.kind), "weight_decay": decay})
    return [*found, *joined.top.groups]  # type: ignore[misc]


def _last_whole(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; what was not goes."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    for path in [path for path in found if not (path / STATE).exists()]:
        shutil.rmtree(path)
    whole = [path for path in found if (path / STATE).exists()]
    return str(whole[-1]) if whole else None


def _by_epoch(logged: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, float], ...]:
    """Losses of training and validation of each epoch."""
    names = {"loss": "train_loss", "eval_loss": "valid_loss"}
    found: dict[int, dict[str, float]] = {}
    for entry in logged:
        own = found.setdefault(round(entry["epoch"]), {"epoch": round(entry["epoch"])})
        own |= {names[key]: float(value) for key, value in entry.items() if key in names}
    return tuple(found[epoch] for epoch in sorted(found))


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """The Trainer seeds every generator of the process; the caller gets them back as they were."""
    python, numbers, on_cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
        torch.set_rng_state(on_cpu)
