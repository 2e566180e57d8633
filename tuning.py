"""`finetune`: encoders of `extract` learn with a head of `fuse` on top; neither stage knows the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache import (
    CrossFitted,
    DataError,
    FeatureStore,
    FeatureTable,
    Progress,
    UsageError,
    canonical_json,
    digest,
    from_json,
    make_folder,
    table_of,
    unpack_items,
    write_json,
)
from console import with_bars

if TYPE_CHECKING:
    from extract import EncoderSpec, Extraction, Manifest, Tuning
    from fuse import Evaluation, Fold, FusionHead, Predictions, Protocol

STATE_FILE, TUNED_FILE, MODEL, SCHEMA = "finetune.json", "tuned.json", "model", 1
TUNABLE = ("text", "image")
WATCHED = 10
"""One part in so many of the training rows is watched, where the data names no validation split."""


@dataclass(frozen=True)
class Wanted:
    """What a fine-tuning is asked for.

    Attributes:
        store: feature store; features before and after the tuning are kept there.
        specs: one encoder a modality.
        tune: modalities whose encoders learn.
        head: name of the head on top.
        params: its parameters.
        tuning: how.
        task: classification or regression; None goes by the labels.
        folds: K where the data gives no splits; the first fold is judged.
        cross_fit: tune once a fold instead, so that every row is judged.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        retry_failed: try samples again that failed before.
    """

    store: Path
    specs: tuple[EncoderSpec, ...]
    tune: tuple[str, ...]
    head: str
    params: Mapping[str, Any]
    tuning: Tuning
    task: str | None = None
    folds: int = 5
    cross_fit: bool = False
    device: str = "auto"
    retry_failed: bool = False


@dataclass(frozen=True)
class Finetuned:
    """A finished fine-tuning.

    Attributes:
        folder: of the run.
        metrics: what `metrics.json` holds.
        evaluation: on the rows that judge.
        description: of how it was judged.
        tuned: `tuned.json` of each fold.
        extraction: what the encoders made of the data before they learned, with what failed.
    """

    folder: Path
    metrics: Mapping[str, Any]
    evaluation: Evaluation
    description: str
    tuned: Sequence[Mapping[str, Any]]
    extraction: Extraction


class Finetuning:
    """One fine-tuning.

    Args:
        manifest: the data set.
        name: what it is called.
        wanted: what is asked for.
        progress: told of each stage.
    """

    def __init__(self, manifest: Manifest, name: str, wanted: Wanted, progress: Progress) -> None:
        self._manifest, self._name, self._wanted, self._progress = manifest, name, wanted, progress

    def run(self, out: Path | None, root: Path) -> Finetuned | None:
        """Tunes on the training rows, judges on rows that were not seen, and keeps all.

        Args:
            out: folder of the run; None goes on with an unfinished one of the same data and settings under
                `root`, or makes a new one there.
            root: of new ones.

        Returns:
            None in a process of `torchrun` that is not the first: that one keeps the run.

        Raises:
            PipelineError: what `extract`, `protocol_for`, `Joint` and `tune` raise, and a folder of another run.
        """
        from extract import Processes

        processes = Processes(self._wanted.device)
        self._runtime = processes.runtime
        if not processes.first:
            processes.wait()  # for what the first one encodes: the others find it in the store
        before = self._extracted(self._wanted.specs, self._wanted.retry_failed)
        table = self._table(before)
        if processes.first:
            processes.wait()
        protocol = self._protocol(table)
        folder = processes.shared(self._folder(table, out, root) if processes.first else Path())
        names = [fold.name for fold in protocol.judged]
        own = {name: folder / f"fold-{name}" if self._wanted.cross_fit else folder for name in names}
        for fold in protocol.judged:
            if not processes.shared((own[fold.name] / TUNED_FILE).exists()):
                self._tune(table, protocol, fold, own[fold.name], processes.first)
        return self._keep(folder, protocol, own, before) if processes.first else None

    def _table(self, done: Extraction) -> FeatureTable:
        return table_of(FeatureStore(self._wanted.store), done.view, check=True)

    def _extracted(self, specs: Sequence[EncoderSpec], retry_failed: bool = False) -> Extraction:
        """The labelled rows, by these encoders; what the store has is not encoded again."""
        from extract import Settings, extract
        from fuse import tokens_read

        labelled = replace(self._manifest, samples=tuple(one for one in self._manifest.samples if one.label))
        if not labelled.samples:
            raise DataError(f"{self._manifest.path} has no labelled rows to tune on: see --columns label=...")
        wanted = self._wanted
        by_token = tokens_read(wanted.head, wanted.params, [spec.modality for spec in specs])
        specs = tuple(replace(spec, tokens=spec.tokens or spec.modality in by_token) for spec in specs)
        settings = Settings(
            wanted.store, self._name, specs, device=wanted.device, keep=False, retry_failed=retry_failed
        )
        return extract(labelled, settings, self._progress)

    def _protocol(self, table: FeatureTable) -> Protocol:
        """All folds where every row is to be judged; else the data's own splits, or the first fold."""
        from fuse import protocol_for, task_of

        wanted = self._wanted
        protocol = protocol_for(table, wanted.folds, wanted.tuning.seed, task_of(table.y, wanted.task))
        if len(protocol.judged) == 1 and wanted.cross_fit:
            raise UsageError(
                f"{table.name} gives splits, so that there is nothing to cross-fit; leave out --cross-fit, or the "
                "split column by --columns split="
            )
        if wanted.cross_fit:
            own = tuple(replace(fold, table=number) for number, fold in enumerate(protocol.judged))
            said = f"{wanted.folds} tunings, each judged on the fold that it did not see; {protocol.description}"
            return replace(protocol, name=f"cross-fit-{wanted.folds}-fold", description=said, judged=own)
        if len(protocol.judged) == 1:
            return protocol
        said = f"the first of {wanted.folds} folds over {len(table)} rows is judged, the others train"
        return replace(protocol, name=f"hold-out-1-of-{wanted.folds}", description=said, judged=protocol.judged[:1])

    def _folder(self, table: FeatureTable, out: Path | None, root: Path) -> Path:
        """Where the run is kept; a run that was stopped goes on."""
        from fuse import check_free, new_folder

        state = {"schema": SCHEMA, "data": table.name, "digest": self._digest(table)}
        if out is None:
            found = [path.parent for path in sorted(root.glob(f"*/{STATE_FILE}")) if _is(path, state)]
            stopped = [folder for folder in found if not (folder / "run.json").exists()]
            folder = stopped[-1] if stopped else new_folder(f"{table.name}-finetune", root)
        else:
            folder = out
            check_free(folder)
            if (folder / STATE_FILE).exists() and not _is(folder / STATE_FILE, state):
                raise UsageError(f"{folder} holds a fine-tuning of other data or settings; choose another --out")
            make_folder(folder)
        write_json(folder / STATE_FILE, state)
        return folder.absolute()

    def _digest(self, table: FeatureTable) -> str:
        """Of all that decides what the tuning comes to."""
        wanted = self._wanted
        encoders = [[block.modality, block.encoder, block.output] for block in table.view.blocks.values()]
        said = {
            key: value
            for key, value in asdict(wanted).items()
            if key not in ("store", "specs", "device", "retry_failed")
        }
        return digest(canonical_json([table.view.digest, encoders, said]))

    def _tune(self, table: FeatureTable, protocol: Protocol, fold: Fold, folder: Path, keeps: bool) -> None:
        """Writes the encoders and the head as they became; every process of `torchrun` takes part, one `keeps`."""
        from extract import Lesson, tune
        from fuse import Joint, save

        wanted = self._wanted
        samples = {sample.id: sample for sample in self._manifest.samples}
        train, watched = self._parted(table, protocol, fold)
        items = {name: unpack_items(table.view.blocks[name].items) for name in wanted.tune}
        lesson = Lesson(table.name, [samples[id_] for id_ in table.ids.tolist()], table.masks, items, train, watched)
        joint = Joint(self._head(table), table, train, wanted.tune, str(self._runtime.device))
        specs = [spec for spec in _settled(table) if spec.modality in wanted.tune]
        tuning = replace(wanted.tuning, seed=joint.seed)
        tuned = tune(lesson, specs, joint, tuning, self._runtime, folder, keeps, self._progress)
        if not keeps:
            return
        save(joint.fitted(tuned.trained.history), folder / MODEL)
        content = {
            "schema": SCHEMA,
            "encoders": {spec.modality: _moved(spec.as_json(), folder, inside=True) for spec in tuned.specs},
            "test": table.ids[fold.test].tolist(),
            "rows": {"train": len(train), "watched": len(watched), "test": len(fold.test)},
            **asdict(tuned.trained),
        }
        write_json(folder / TUNED_FILE, content)  # last: it says that all is there

    def _head(self, table: FeatureTable) -> FusionHead:
        from fuse import head_for, task_of

        wanted = self._wanted
        return head_for(wanted.head, task_of(table.y, wanted.task), wanted.params, wanted.tuning.seed)

    def _parted(self, table: FeatureTable, protocol: Protocol, fold: Fold) -> tuple[np.ndarray, np.ndarray]:
        """Rows that train, and rows whose loss is watched; none where nothing looks at it."""
        from fuse import held_out

        some = np.any(list(table.masks.values()), axis=0)
        rows = fold.train[some[fold.train]]  # what has no modality teaches nothing
        if not self._wanted.tuning.watches:
            return rows, rows[:0]
        given = [one.test for one in protocol.also if one.name == "valid"]
        if given:
            return rows, given[0]
        watched = held_out(table, rows, WATCHED, self._wanted.tuning.seed)
        return rows[~watched], rows[watched]

    def _keep(self, folder: Path, protocol: Protocol, own: Mapping[str, Path], before: Extraction) -> Finetuned:
        """Judges every fold by its encoders and head, and writes the run."""
        from fuse import load, predicted, summarise, targets, task_for, write_run

        parts: list[Predictions] = []
        tables, models, also, tuned = [], [], [], []
        wanted = self._wanted
        for fold in protocol.judged:
            held = read_json(own[fold.name] / TUNED_FILE)
            table, model = self._table(self._extracted(self._specs(own[fold.name], held))), load(own[fold.name] / MODEL)
            y = targets(table, task_for(model))
            parts.append(predicted(model, table, y, fold))
            also += [predicted(model, table, y, one) for one in protocol.also]
            tables.append(table)
            models.append(model)
            tuned.append(held)
        data = CrossFitted(self._name, tuple(tables)) if wanted.cross_fit else tables[0]
        evaluation = summarise(parts, also, models[0])
        settings = {
            "head": wanted.head,
            "params": dict(wanted.params),
            "seed": wanted.tuning.seed,
            "folds": wanted.folds,
            "store": str(wanted.store),
            "task": task_for(models[0]),
            "finetuned": list(wanted.tune),
            "cross_fit": wanted.cross_fit,
            "tuning": asdict(wanted.tuning),
        }
        metrics = write_run(folder, data, evaluation, protocol, settings)
        return Finetuned(folder, metrics, evaluation, protocol.description, tuned, before)

    def _specs(self, folder: Path, held: Mapping[str, Any]) -> list[EncoderSpec]:
        """The encoders of a fold: those that learned as they became, the others as they are."""
        changed = specs_in(folder, held)
        return [changed.get(spec.modality, spec) for spec in self._wanted.specs]


def finetuned(manifest: Manifest, name: str, wanted: Wanted, out: Path | None = None) -> Finetuned | None:
    """Runs a fine-tuning with progress bars; see `Finetuning.run`."""
    return with_bars(lambda bars: Finetuning(manifest, name, wanted, bars).run(out, Path("runs")))


def specs_in(folder: Path, held: Mapping[str, Any]) -> dict[str, EncoderSpec]:
    """Encoders of a `tuned.json`, by modality; their files lie in its folder wherever that is now.

    Raises:
        UsageError: it holds no such encoders, or a path that leads out of the folder.
    """
    from extract import EncoderSpec, inside

    encoders = held.get("encoders")
    named = encoders.values() if isinstance(encoders, Mapping) else [None]
    for path in (spec.get(name) for spec in named if isinstance(spec, Mapping) for name in ("model", "weights")):
        if isinstance(path, str) and (folder / path).exists() and inside(folder, path) is None:
            raise UsageError(f"{folder / TUNED_FILE} names {path}, which lies outside of its folder")
    if not all(isinstance(spec, Mapping) and isinstance(spec.get("model"), str) for spec in named):
        raise UsageError(f"{folder / TUNED_FILE} is damaged; run finetune again with another --out")
    return {name: EncoderSpec.from_json(_moved(spec, folder.absolute())) for name, spec in (encoders or {}).items()}


def _settled(table: FeatureTable) -> list[EncoderSpec]:
    """The encoders of a table, with the precision that was chosen."""
    from extract import EncoderSpec

    return [EncoderSpec.from_json(block.spec) for block in table.view.blocks.values()]


def _moved(spec: Mapping[str, Any], folder: Path, inside: bool = False) -> dict[str, Any]:
    """A spec whose files in `folder` are named from there (`inside`), or by whole paths."""
    found = dict(spec)
    for name in ("model", "weights"):
        path = Path(found[name] or "")
        if inside and path.is_relative_to(folder):
            found[name] = str(path.relative_to(folder))
        elif not inside and found[name] and (folder / path).exists():
            found[name] = str(folder / path)
    return found


def _is(path: Path, state: Mapping[str, Any]) -> bool:
    """Whether a file says just this; one that cannot be read does not."""
    try:
        return read_json(path) == state
    except UsageError:
        return False


def read_json(path: Path) -> dict[str, Any]:
    """A file of a fine-tuning. Raises UsageError where it cannot be read."""
    try:
        content = from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}; run finetune again with another --out") from error
    return content if isinstance(content, dict) else {}


def tuned_lines(done: Finetuned) -> list[str]:
    """What a fine-tuning came to, for people."""
    from fuse import evaluation_text

    lines = []
    for number, held in enumerate(done.tuned):
        rows, history = held["rows"], held["history"]
        watched = f", {history[-1]['valid_loss']:.3f} on {rows['watched']} watched rows" if rows["watched"] else ""
        lines.append(
            f"tuning {number + 1} of {len(done.tuned)}: {rows['train']} rows, {held['steps']} steps, "
            f"{held['seconds']:.0f} s; training loss {history[0]['train_loss']:.3f} in the first epoch, "
            f"{history[-1]['train_loss']:.3f} in the last{watched}"
        )
    text = evaluation_text(done.metrics["head"], done.evaluation)
    return [*lines, f"{done.description}\n\n{text}\n", f"run: {done.folder}"]
