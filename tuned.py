"""What a fine-tuning left: its encoders, and the data sets that they make of some data."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache import DataError, FeatureStore, UsageError, fold_view_name, listing
from console import chosen_specs, how_to_run, parse_modalities, tuning_wanted, with_bars
from endings import finish, retry_command
from flows import failed_in
from tuning import TUNED_FILE, finetuned, read_json, specs_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from extract import EncoderSpec, Manifest

    Chosen = Callable[[Iterable[str], Mapping[str, Mapping[str, Any]]], tuple[EncoderSpec, ...]]


@dataclass(frozen=True)
class TunedFold:
    """Encoders that were tuned, by modality, and the ids of the rows that judge them."""

    specs: Mapping[str, EncoderSpec]
    test: tuple[str, ...]


def tuned_folds(run: Path) -> list[TunedFold]:
    """What a fine-tuning left: one entry, or one a fold where it was cross-fitted.

    Raises:
        UsageError: the folder holds no finished fine-tuning.
    """
    folders = [run] if (run / TUNED_FILE).exists() else sorted(run.glob("fold-*"), key=lambda one: int(one.name[5:]))
    if not (run / "run.json").exists() or not folders or not all((one / TUNED_FILE).exists() for one in folders):
        raise UsageError(f"{run} holds no finished fine-tuning (looked for run.json and {TUNED_FILE}); see finetune")
    held = [read_json(folder / TUNED_FILE) for folder in folders]
    return [TunedFold(specs_in(folder, one), tuple(one["test"])) for folder, one in zip(folders, held, strict=True)]


def tuned_whole(run: Path) -> TunedFold:
    """The encoders of a fine-tuning without folds. Raises UsageError where it has some, or is none."""
    folds = tuned_folds(run)
    if len(folds) > 1:
        raise UsageError(
            f"{run} was cross-fitted: it has encoders for each of {len(folds)} folds of its own data, which is read as "
            "a whole; leave out --shard-rows and --engine ray, or tune without --cross-fit"
        )
    return folds[0]


def specs_with(run: Path, fold: TunedFold, modalities: Iterable[str], chosen: Chosen) -> tuple[EncoderSpec, ...]:
    """One encoder a modality, tuned where it was. Raises UsageError where another one is named for such a modality."""
    specs = chosen(modalities, {modality: spec.as_json() for modality, spec in fold.specs.items()})
    other = [spec.modality for spec in specs if spec.modality in fold.specs and spec.tuned_on is None]
    if other:
        raise UsageError(f"{run} brings its own {listing(other)} encoder; leave out the options that name another")
    return specs


@dataclass(frozen=True)
class View:
    """One data set that `extract` is to write."""

    name: str
    manifest: Manifest
    specs: tuple[EncoderSpec, ...]


def views_of(run: Path, manifest: Manifest, name: str, chosen: Chosen, store: Path) -> list[View]:
    """The data sets that the encoders of a fine-tuning make of some data: one, or one a fold.

    Where the data gives no splits, rows that were held out of the tuning become `test` and the other labelled
    rows `train`, so that heads are fitted and judged as the encoders were.

    Args:
        run: of a fine-tuning.
        manifest: the data.
        name: what it is to be called in the store.
        chosen: makes specs for these modalities; what it is given stands where the user names nothing else.
        store: where they will lie.

    Raises:
        UsageError: the run is none, an encoder is named for a modality that was tuned, the name is taken.
        DataError: the data is not what was cross-fitted.
    """
    folds = tuned_folds(run)
    labelled = {sample.id for sample in manifest.samples if sample.label}
    split = any(sample.split for sample in manifest.samples)
    found = []
    for number, fold in enumerate(folds):
        specs = specs_with(run, fold, manifest.modalities, chosen)
        test = set(fold.test)
        own = manifest if split or not test <= labelled else _split(manifest, test)
        found.append(View(fold_view_name(name, number) if len(folds) > 1 else name, own, specs))
    if len(folds) > 1:
        _check_folds(run, manifest, name, folds, store)
    return found


def _split(manifest: Manifest, test: set[str]) -> Manifest:
    samples = [
        replace(one, split=("test" if one.id in test else "train") if one.label else "") for one in manifest.samples
    ]
    return replace(manifest, samples=tuple(samples))


def _check_folds(run: Path, manifest: Manifest, name: str, folds: Sequence[TunedFold], store: Path) -> None:
    judged = [id_ for fold in folds for id_ in fold.test]
    labelled = [sample.id for sample in manifest.samples if sample.label]
    if sorted(judged) != sorted(labelled) or any(sample.split for sample in manifest.samples):
        strange = sorted(set(labelled) ^ set(judged))
        raise DataError(
            f"{run} was cross-fitted on {len(judged)} labelled rows without splits, and {manifest.path} has "
            f"{len(labelled)} ({len(strange)} in only one of them: {listing(strange)}); give the data that it was "
            "tuned on, or tune without --cross-fit to encode other data"
        )
    if name in FeatureStore(store).names():
        raise UsageError(
            f"{store} has a data set {name!r}, and {run} makes one of {len(folds)} views; give another --name"
        )


def encode_tuned(manifest: Manifest, name: str, store: Path, as_json: bool, options: Mapping[str, Any]) -> None:
    """`extract` with tuned encoders: one view, or one a fold. Prints what was done, and ends the command."""
    from extract import Settings, extract, extraction_lines, extraction_result

    started = time.perf_counter()
    run = options["finetuned"]
    if options["finetune"]:
        run = _tuned_first(manifest, name, store, options)
    if run is None:  # another process of torchrun keeps the run and encodes
        return

    def chosen(modalities: Iterable[str], base: Mapping[str, Mapping[str, Any]]) -> tuple[EncoderSpec, ...]:
        names = parse_modalities(options["modalities"]) or modalities
        if not options["finetune"]:
            return chosen_specs(options, names, base, manifest)
        # The options have named what was tuned, just now.
        specs = chosen_specs(options, names, {}, manifest)
        return tuple(replace(spec, **base[spec.modality]) if spec.modality in base else spec for spec in specs)

    results, lines, dones = [], [f"encoders of {run}"], []
    for view in views_of(run, manifest, name, chosen, store):
        begun = time.perf_counter()
        settings = Settings(store, view.name, view.specs, **how_to_run(options))
        done = with_bars(partial(extract, view.manifest, settings))
        lines += extraction_lines(view.manifest, done, store, time.perf_counter() - begun)
        results.append(extraction_result(done, store, 0.0, time.perf_counter() - begun) | {"name": view.name})
        dones.append(done)
    total = {key: sum(one[key] for one in results) for key in ("encoded", "reused", "encode_seconds")}
    same = {key: results[0][key] for key in ("samples", "failed")}
    seconds = time.perf_counter() - started
    result = {**same, **total, "seconds": seconds, "finetuned": str(run), "views": results}
    finish(as_json, result, lines, failed_in(dones, store, _retry(run, options)))


def _retry(run: Path, options: Mapping[str, Any]) -> str:
    """The command that tries failed samples again by the same encoders; nothing is tuned again for it."""
    if not options["finetune"]:
        return retry_command("--retry-failed")
    return retry_command("--finetuned", str(run), "--retry-failed", without=["--finetune", "--retry-failed"])


def _tuned_first(manifest: Manifest, name: str, store: Path, options: Mapping[str, Any]) -> Path | None:
    """The run of a fine-tuning by default settings, made now."""
    if options["finetuned"]:
        raise UsageError("--finetune makes a run and --finetuned takes one; give one of them")
    command = click.get_current_context().find_root().command
    finetune: Any = command.commands["finetune"] if isinstance(command, click.Group) else command
    # Options without a default have a mark of click's own.
    given = {one.name: one.get_default(click.Context(finetune)) for one in finetune.params}
    defaults = {name: value if isinstance(value, str | int | float | bool) else None for name, value in given.items()}
    asked = {**defaults, **options, "assignments": ()}
    done = finetuned(manifest, name, tuning_wanted(asked, manifest, store))
    return None if done is None else done.folder
