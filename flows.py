"""What commands do with both stages: `extract` and `fuse` do not know each other."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from console import chosen_specs, how_to_run, parse_modalities, read_data, with_bars
from endings import Failures, finish, program, retry_command, typed_command

if TYPE_CHECKING:
    from cache import DataSet, View
    from extract import EncoderSpec, Extraction, Manifest
    from fuse import Ablated, Judged, Planned, Run, Settings, Shown

SHOWN_FITS = 20
DEMO_HEADS = ("logreg", "vote", "vote-prior", "stacking", "mlp")


def list_heads(as_json: bool) -> None:
    """Prints all heads."""
    from fuse import heads_content, heads_lines

    finish(as_json, heads_content(), heads_lines())


def extract_whole(data: str, store: Path, name: str, as_json: bool, options: Mapping[str, Any]) -> None:
    """Encodes a data set that is read as a whole, and tells what was done."""
    from extract import Settings, extract, extraction_lines, extraction_result

    started = time.perf_counter()
    manifest = read_data(data, options)
    specs = chosen_specs(options, parse_modalities(options["modalities"]) or manifest.modalities, {}, manifest)
    read = time.perf_counter() - started
    settings = Settings(store, name, specs, **how_to_run(options))
    done = with_bars(lambda bars: extract(manifest, settings, bars))
    seconds = time.perf_counter() - started
    lines = extraction_lines(manifest, done, store, seconds)
    finish(as_json, extraction_result(done, store, read, seconds), lines, failed_in([done], store))


def failed_in(dones: Sequence[Extraction], store: Path, retry: str | None = None) -> Failures | None:
    """Samples that extractions could not encode; None where there are none.

    Args:
        dones: of the same samples, by different encoders.
        store: where they are recorded.
        retry: the command that tries them again; the one that was typed, with --retry-failed, by default.
    """
    from extract import failed_samples

    count = len({id_ for done in dones for id_ in done.failed_ids})
    if not count:
        return None
    told = [failed_samples(done, store) for done in dones]
    shown = list(dict.fromkeys(line for lines, _ in told for line in lines))
    lists = list(dict.fromkeys(path for _, paths in told for path in paths))
    before = "correct them, for equal bytes will fail again"
    return Failures(count, "samples", shown, lists, retry or retry_command("--retry-failed"), before)


def failed_fits(done: Ablated) -> Failures | None:
    """Fits that an ablation could not make; None where there are none."""
    if not done.failed:
        return None
    retry = retry_command("--out", str(done.folder))
    return Failures(len(done.failed), "fits", done.failed[:SHOWN_FITS], [done.folder / "failures.jsonl"], retry)


def failed_files(paths: Sequence[str], what: str, code: int) -> Failures | None:
    """Files of a store that were found damaged; None where there are none."""
    before = "run the extract of each data set that needs them, which encodes their items again"
    return Failures(len(paths), what, paths, [], retry_command(), before, code) if paths else None


def planned_fit(data: DataSet, head: str, params: Mapping[str, Any], memory: str | None) -> Planned:
    """How a head will take its vectors; says so where they stay on disk."""
    from fuse import plan_fit

    planned = plan_fit(data, head, params, memory)
    if planned.out_of_core:
        click.echo(planned.line, err=True)
    return planned


def fuse_text(head: str, name: str, judged: Judged) -> str:
    """What a head came to, for people."""
    from fuse import evaluation_text

    return f"{name}: {judged.protocol.description}\n\n{evaluation_text(head, judged.evaluation)}\n"


def spare_data(output: Path, manifest: Manifest) -> None:
    """Raises a UsageError where predictions would take the place of the table that they are for."""
    from cache import UsageError

    data = Path(manifest.path)
    tables = [data, *(data / str(name) for name in manifest.notes.get("tables", ()))]
    if output.exists() and any(one.is_file() and one.samefile(output) for one in tables):
        raise UsageError(f"{output} is the data itself, which predictions would overwrite; choose another --output")


def encode_for(
    encoders: Mapping[str, Mapping[str, Any]], manifest: Manifest, store: Path, options: Mapping[str, Any]
) -> Extraction:
    """Encodes data for a run, by the run's encoders and no others."""
    from extract import Settings, default_name, extract

    specs = chosen_specs(options, encoders, {name: one["spec"] for name, one in encoders.items()})
    expected = {name: one["encoder"] for name, one in encoders.items()}
    settings = Settings(store, default_name(manifest.path), specs, expected=expected, keep=False, **how_to_run(options))
    return with_bars(lambda bars: extract(manifest, settings, bars))


def read_for(run: Run, data: str, options: Mapping[str, Any]) -> Manifest:
    """New data, by the columns that were named when the run's data was read, unless --columns says otherwise."""
    from cache import PipelineError

    columns = run.settings.get("columns")
    if options["columns"] is not None or not columns:
        return read_data(data, options)
    try:
        return read_data(data, {**options, "columns": columns})
    except PipelineError as error:
        said = ",".join(f"{role}={column}" for role, column in columns.items())
        raise type(error)(
            f"{error}\n{run.folder} was trained on --columns {said}, and so new data is read; give --columns with what "
            "these are called here, or --columns '' for the usual names"
        ) from error


def predict_with(model: Any, done: Extraction, store: Path, output: Path) -> dict[str, Any]:
    """Labels what was encoded."""
    from cache import FeatureStore, table_of
    from fuse import predict

    return predict(model, table_of(FeatureStore(store), done.view, check=True), output)


def predict_text(found: Mapping[str, Any], output: Path) -> str:
    """What was predicted, in a line."""
    if "labels" in found:
        shown = ", ".join(f"{label} {count}" for label, count in found["labels"].items())
    else:
        shown = ", ".join(f"{key} {found[key]:.3g}" for key in ("mean", "least", "largest") if found["rows"])
    return f"{found['rows']} rows labelled ({shown}): {output}"


def verify_deep(store: Path, rows: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Encodes random rows again and compares."""
    from extract import verify_by_encoding

    device = how_to_run(options)["device"]
    name, data, seed = options["name"], options["data"], options["seed"]
    return with_bars(lambda bars: verify_by_encoding(store, rows, name, data, device, seed, bars))


def ablate_table(
    store: Path, name: str | None, modalities: Sequence[str] | None, settings: Settings, options: Mapping[str, Any]
) -> Ablated:
    """Compares heads on a data set of the store; the report shows its texts and pictures from where they lie."""
    from cache import load_data_set
    from fuse import Asked, ablate

    data = load_data_set(store, name, modalities, check=True)
    asked = Asked(str(store), typed_command())
    out, jobs, show = options.get("out"), options.get("jobs"), shown_from(lambda: data.view, options.get("data"))
    root = options.get("root", Path("runs"))
    return with_bars(
        lambda bars: ablate(data, settings, asked, out=out, root=root, jobs=jobs, show=show, progress=bars)
    )


def shown_from(view: Callable[[], View], data: str | None) -> Callable[[Sequence[str]], Mapping[str, Shown]]:
    """Gives texts and small pictures of samples by id; `view` is asked for only if some are wanted."""

    def show(ids: Sequence[str]) -> Mapping[str, Shown]:
        from extract import originals
        from fuse import Shown

        found = originals(view(), ids, data).found
        return {id_: Shown(one.texts, one.pictures) for id_, one in found.items()}

    return show


def view_of_run(folder: Path) -> View:
    """The view of the data set that a run was made from."""
    from cache import FeatureStore, read_view
    from fuse import read_summary

    summary = read_summary(folder)
    data = summary["data"]
    return read_view(FeatureStore(summary["provenance"]["store"]), data.get("view", data["name"]))


def bench_specs(
    manifest: Manifest, model: Path | None, modalities: Iterable[str] | None, options: Mapping[str, Any]
) -> tuple[EncoderSpec, ...]:
    """The encoders that are named; on generated posts untrained ones where none is: they are as quick."""
    if model is not None:
        seeds = {"text": options["text_model"], "image": options["image_weights"]}
        untrained = ",".join(f"{name}=0" for name, named in seeds.items() if named is None)
        options = {**options, "text_model": options["text_model"] or str(model)}
        options["random_init"] = options["random_init"] or untrained
    return chosen_specs(options, modalities or manifest.modalities, {}, manifest)


def demo_extract(data: Path, text_model: Path, store: Path, seed: int) -> list[str]:
    """Encodes the generated posts."""
    from extract import EncoderSpec, Settings, extract, extraction_lines, read_manifest

    text = EncoderSpec("text", str(text_model), random_init=seed, precision="auto")
    image = EncoderSpec("image", "resnet50", random_init=seed, precision="auto")
    manifest = read_manifest(data)
    started = time.perf_counter()
    done = with_bars(lambda bars: extract(manifest, Settings(store, "posts", (text, image)), bars))
    lines = extraction_lines(manifest, done, store, time.perf_counter() - started)[:-1]
    options = ["--store", store, "--name", "posts", "--text-model", text_model, "--random-init", seed, "--retry-failed"]
    failures = failed_in([done], store, shlex.join([*program(), "extract", *map(str, [data, *options])]))
    return [*lines, *(failures.lines() if failures else ())]


def demo_ablate(store: Path, root: Path, seed: int) -> Ablated:
    """Compares some heads on them."""
    from fuse import Settings

    settings = Settings(heads=DEMO_HEADS, seeds=(seed,), controls=())
    return ablate_table(store, "posts", None, settings, {"root": root})


def demo_predict(run_folder: Path, data: Path, store: Path, output: Path) -> str:
    """Labels those that have no label by the best head."""
    from extract import read_manifest
    from fuse import load_run

    run = load_run(run_folder)
    done = encode_for(run.encoders, read_manifest(data).unlabelled(), store, {})
    return predict_text(predict_with(run.model, done, store, output), output)
