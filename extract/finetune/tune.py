"""Tunes encoders and keeps what they became."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn

from cache import NO_ITEM, Progress, UsageError, listing, silent
from extract.encoders.spec import EncoderSpec
from extract.finetune.data import raw_rows
from extract.finetune.networks import Tunable, tunable
from extract.finetune.settings import Tuning
from extract.finetune.trainer import Joined, Trained, train
from extract.manifest import Sample
from extract.runtime import Runtime

CHECKPOINTS, ENCODERS = "checkpoints", "encoders"


@dataclass(frozen=True)
class Lesson:
    """What encoders learn from.

    Attributes:
        data: name of the data set.
        samples: `n` of them.
        masks: by modality `bool (n,)`, which samples have it.
        items: by modality the item key of each sample.
        rows: numbers of the samples that train.
        held: numbers of those whose loss is watched; may be empty.
    """

    data: str
    samples: Sequence[Sample]
    masks: Mapping[str, np.ndarray]
    items: Mapping[str, Sequence[bytes]]
    rows: np.ndarray
    held: np.ndarray

    def tuned_on(self, modalities: Sequence[str]) -> dict[str, Any]:
        """What an encoder of these modalities has seen: their content in the training and in the watched rows."""
        rows = (*self.rows.tolist(), *self.held.tolist())
        seen = {self.items[name][row] for name in modalities for row in rows} - {NO_ITEM}
        return {"data": self.data, "items": sorted(item.hex() for item in seen)}


@dataclass(frozen=True)
class Tuned:
    """Encoders as they became, in the order in which they were asked for, and how the training went."""

    specs: tuple[EncoderSpec, ...]
    trained: Trained


def tune(
    lesson: Lesson,
    specs: Sequence[EncoderSpec],
    top: nn.Module,
    tuning: Tuning,
    runtime: Runtime,
    folder: Path,
    keeps: bool = True,
    progress: Progress = silent,
) -> Tuned:
    """Tunes encoders together with what stands on them.

    A call that was stopped goes on from its last whole epoch when it is made again.

    Args:
        lesson: rows to learn from.
        specs: encoders that learn, one a modality.
        top: see `Joined`; it is changed in place. Its `by_token` names modalities of which it takes every token.
        tuning: how.
        runtime: on which device.
        folder: gets `encoders/<modality>`; checkpoints lie in it while it goes on.
        keeps: whether this process writes the encoders, as one of those of `torchrun` does.
        progress: told of the steps.

    Raises:
        ModelError: an encoder cannot be loaded.
        UsageError: the tuning names what there is not.
    """
    by_token = set(cast("Sequence[str]", top.by_token))
    encoders = _encoders(specs, by_token)
    _check(encoders, lesson, tuning)
    for name, count in tuning.freeze.items():
        encoders[name].freeze(count)
    adapted = _adapted(encoders, tuning)
    joined = Joined(encoders, top)
    raw = raw_rows(encoders, lesson.samples, lesson.masks)
    rows, held = lesson.rows.tolist(), lesson.held.tolist()
    trained = train(joined, raw, rows, held, tuning, runtime, folder / CHECKPOINTS, progress)
    joined.cpu()
    for encoder in adapted:
        encoder.model = encoder.model.merge_and_unload()
    made, saved = [], dict[int, dict[str, Any]]()
    for spec in specs if keeps else ():
        encoder = encoders[spec.modality]
        if id(encoder) not in saved:
            saved[id(encoder)] = encoder.save(folder / ENCODERS / spec.modality)
        sharing = [name for name, one in encoders.items() if one is encoder]
        made.append(replace(spec, **saved[id(encoder)], tuned_on=lesson.tuned_on(sharing)))
    return Tuned(tuple(made), trained)


def _encoders(specs: Sequence[EncoderSpec], by_token: Collection[str]) -> dict[str, Tunable]:
    """Encoders by modality; modalities that start from the same one share it, such as several pictures of a row."""
    found: dict[str, Tunable] = {}
    for spec in specs:
        by = spec.modality in by_token
        same = (one for one in found.values() if replace(one.spec, modality=spec.modality) == spec and one.tokens == by)
        found[spec.modality] = next(same, None) or tunable(spec, by)
    return found


def _check(encoders: Mapping[str, Tunable], lesson: Lesson, tuning: Tuning) -> None:
    strange = [name for name in (*tuning.freeze, *tuning.rates) if name not in encoders]
    if strange:
        raise UsageError(f"{listing(strange)} is not among the modalities that are tuned: {listing(list(encoders))}")
    if tuning.watches and not len(lesson.held):
        raise UsageError("patience, and the schedule plateau, need rows whose loss is watched; there are none")
    texts = [name for name, encoder in encoders.items() if encoder.spec.kind == "text"]
    if (tuning.lora or tuning.checkpointing) and not texts:
        raise UsageError("LoRA and checkpointing are for a text model, and none is tuned")
    if tuning.lora and set(texts) & set(tuning.freeze):
        raise UsageError("LoRA leaves all weights of the text model as they are; leave out --freeze text=...")


def _adapted(encoders: Mapping[str, Tunable], tuning: Tuning) -> list[Any]:
    """Puts LoRA's layers and checkpoints of activations where they are asked for; gives what LoRA adapts."""
    texts: list[Any] = list({id(one): one for one in encoders.values() if one.spec.kind == "text"}.values())
    for encoder in texts:
        if tuning.checkpointing:
            enable = getattr(encoder.model, "activation_checkpointing_enable", None)  # its name from some version on
            (enable or encoder.model.gradient_checkpointing_enable)()
        if tuning.lora:
            encoder.model = _with_lora(encoder.model, tuning.lora)
    return texts if tuning.lora else []


def _with_lora(model: nn.Module, rank: int) -> nn.Module:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UsageError("--lora needs peft: pip install peft") from error
    names = sorted({name for name, part in model.named_modules() if isinstance(part, nn.Linear)})
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=names)
    adapted: nn.Module = get_peft_model(model, config)
    return adapted
