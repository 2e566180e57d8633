"""What an ablation fits: heads x subsets of the modalities x seeds x folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from cache import DataSet, FeatureTable, UsageError, listing, tables_of
from fuse.estimators import FusionHead
from fuse.gradient import check_device
from fuse.head import Head
from fuse.heads.linear import Unimodal
from fuse.leaks import refuse_tuned
from fuse.registry import HEADS, find_head, make_classifier, make_regressor
from fuse.splits import Fold, Protocol, protocol_for
from fuse.task import CLASSIFICATION
from fuse.tokens import TokenHead

COMMON = (
    *("logreg", "ridge", "svm", "kernel"),
    *("vote", "vote-product", "vote-prior", "vote-max", "vote-fitted", "stacking"),
    *("logit-max", "feature-max", "mlp", "mlp-aux", "gmu"),
)
"""What is compared unless heads are named: the families of the field, votes for next to nothing."""

ALL, NONE = "all", "none"
MOST_SUBSETS = 4
"""With more modalities than this, subsets are each alone, all but one, and all."""
CONTROLLED = ("logreg", "ridge")
"""Of the first of these that is compared controls are made: whether a modality counts at all, a linear head shows."""
CONTROLS = ("shuffled", "noise")


@dataclass(frozen=True)
class Settings:
    """What the user asks for.

    Attributes:
        heads: names; None takes those of `COMMON` that fit the data, `("all",)` all that do.
        params: parameters by head.
        seeds: one repeat each: of the folds where the data gives none, and of initial weights.
        split_seed: one for the folds of all repeats; None gives each repeat folds of its own.
        folds: K where the data gives no splits.
        task: classification or regression; None goes by the labels.
        grid: `"none"`, `"small"` or `"full"`: settings that are searched within each training part.
        controls: heads that are also fitted with a modality shuffled, and with noise in its place;
            None takes one of `CONTROLLED`.
        device: that heads are trained on.
    """

    heads: tuple[str, ...] | None = None
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    split_seed: int | None = None
    folds: int = 5
    task: str | None = None
    grid: str = NONE
    controls: tuple[str, ...] | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Cell:
    """One line of the table: a head on some modalities; as a control, with one of them spoilt."""

    head: str
    modalities: tuple[str, ...]
    control: str = ""
    spoilt: str = ""

    def __str__(self) -> str:
        spoilt = f", {self.spoilt} {self.control}" if self.control else ""
        return f"{self.head} on {' + '.join(self.modalities)}{spoilt}"


@dataclass(frozen=True)
class Round:
    """One fold of one repeat."""

    seed: int
    split_seed: int
    fold: Fold


@dataclass(frozen=True)
class Plan:
    """Cells, rounds in order of the seeds, and what was left out, each with its reason."""

    cells: tuple[Cell, ...]
    rounds: tuple[Round, ...]
    protocol: Protocol
    left_out: tuple[str, ...]


def plan_ablation(data: DataSet, settings: Settings, task: str) -> Plan:
    """Decides what is fitted to the labelled rows of a data set.

    Where it gives folds or splits, every seed repeats with the same ones.

    Raises:
        UsageError: an unknown head, one that cannot do what is asked for, or no seeds.
        DataError: see `protocol_for`.
    """
    _check(settings)
    table = tables_of(data)[0]
    protocols = [_protocol(data, settings, task, seed) for seed in settings.seeds]
    rounds = tuple(
        Round(seed, seed if settings.split_seed is None else settings.split_seed, fold)
        for seed, protocol in zip(settings.seeds, protocols, strict=True)
        for fold in protocol.judged
    )
    refuse_tuned(data, [one.fold for one in rounds])
    names, left_out = _heads(table, settings, task)
    subsets = _subsets(table.modalities)
    cells = [Cell(name, subset) for name in names for subset in subsets if _fits(table, settings, name, subset)]
    for name in names:
        if not any(cell.head == name for cell in cells):
            left_out.append(f"{name}: it joins other modalities, or another number of them, than there are")
    if not cells:
        raise UsageError(f"no head can be compared on {listing(table.modalities)}: {'; '.join(left_out)}")
    return Plan((*cells, *_controls(cells, settings, table)), rounds, protocols[0], tuple(left_out))


def make(settings: Settings, cell: Cell, task: str, seed: int) -> FusionHead:
    """The head of a cell, not fitted.

    Raises:
        UsageError: no such head or parameter, or no head for this task.
    """
    build = make_classifier if task == CLASSIFICATION else make_regressor
    head: FusionHead = build(cell.head, **settings.params.get(cell.head, {}))
    own = {"random_state": seed, "device": settings.device}
    free = set(head.get_params(deep=False)) - set(settings.params.get(cell.head, {}))
    return head.set_params(**{name: value for name, value in own.items() if name in free})


def _check(settings: Settings) -> None:
    if not settings.seeds or len(set(settings.seeds)) < len(settings.seeds):
        raise UsageError(f"--seeds must be at least one, each once; got {listing(settings.seeds) or 'none'}")
    unused = [name for name in settings.params if settings.heads not in (None, (ALL,)) and name not in settings.heads]
    if unused:
        raise UsageError(f"--set names {listing(unused)}, which is not among the heads {listing(settings.heads or ())}")
    for name in (*settings.params, *(settings.controls or ())):
        find_head(name)
    check_device(settings.device)


def _protocol(data: DataSet, settings: Settings, task: str, seed: int) -> Protocol:
    return protocol_for(data, settings.folds, seed if settings.split_seed is None else settings.split_seed, task)


def _heads(table: FeatureTable, settings: Settings, task: str) -> tuple[list[str], list[str]]:
    """Names of heads, and why others are left out. What is asked for by name must be possible."""
    if settings.heads is not None and settings.heads != (ALL,):
        for name in settings.heads:
            make(settings, Cell(name, table.modalities), task, 0)
        if len(set(settings.heads)) < len(settings.heads):
            raise UsageError(f"--heads names a head twice: {listing(settings.heads)}")
        return list(settings.heads), []
    chosen, left_out = [], []
    for name in COMMON if settings.heads is None else HEADS:
        why = _why_not(HEADS[name], table, task)
        if why:
            left_out.append(f"{name}: {why}")
        elif why is None:
            chosen.append(name)
    return chosen, left_out


def _why_not(head: Head, table: FeatureTable, task: str) -> str | None:
    """Why a head that was not asked for by name is left out; empty where that needs no word, None if it is not."""
    if issubclass(head.any_class, Unimodal):
        return ""  # logreg or ridge on one modality are the same
    if (head.classifier if task == CLASSIFICATION else head.regressor) is None:
        return f"not for {task}"
    if head.reads_tokens and not any(table.has_tokens(name) for name in table.modalities):
        return "reads tokens, which extract --tokens keeps"
    if isinstance(head.any_class, type) and issubclass(head.any_class, TokenHead) and head.any_class.aligned:
        return "needs tokens that are aligned; compare it by name"
    if head.most_rows is not None and len(table) > head.most_rows:
        return f"its memory grows with the square of the rows, {len(table)} here; compare it by name"
    return None


def _subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    count = len(modalities)
    sizes = range(1, count + 1) if count <= MOST_SUBSETS else (1, count - 1, count)
    return [subset for size in sizes for subset in combinations(modalities, size)]


def _fits(table: FeatureTable, settings: Settings, name: str, subset: tuple[str, ...]) -> bool:
    """Whether a head can join just these modalities."""
    kind = HEADS[name].any_class
    given = {**HEADS[name].params, **settings.params.get(name, {})}
    if issubclass(kind, Unimodal):
        return len(subset) == 1 and given.get("modality") in (None, subset[0])
    if kind.most_modalities is not None and len(subset) > kind.most_modalities:
        return False
    if issubclass(kind, TokenHead):
        wanted = given.get("tokens", kind().get_params()["tokens"])
        held = [modality for modality in subset if table.has_tokens(modality)]
        return bool(held) and (wanted is None or set(wanted) <= set(held))
    return True


def _controls(cells: Sequence[Cell], settings: Settings, table: FeatureTable) -> list[Cell]:
    whole = [cell for cell in cells if cell.modalities == table.modalities and len(cell.modalities) > 1]
    wanted = settings.controls
    lost = [name for name in wanted or () if not any(cell.head == name for cell in whole)]
    if lost:
        raise UsageError(
            f"--controls names {listing(lost)}, which is not compared on several modalities; those that are: "
            f"{listing(list(dict.fromkeys(cell.head for cell in whole))) or 'none'}"
        )
    if wanted is None:
        wanted = tuple(name for name in CONTROLLED if any(cell.head == name for cell in whole))[:1]
    return [
        Cell(cell.head, cell.modalities, control, modality)
        for cell in whole
        if cell.head in wanted and not HEADS[cell.head].reads_tokens
        for modality in cell.modalities
        for control in CONTROLS
    ]
