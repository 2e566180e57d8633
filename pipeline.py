"""encode-once: encode texts and images once, then compare fusion heads on the cached features.

This file parses, calls and prints; torch and the rest are imported inside the commands, so
that `--help` is instant.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from console import (
    Pipeline,
    bench_specs,
    chosen_specs,
    data_options,
    device_options,
    encoder_options,
    finish,
    how_to_run,
    json_option,
    making_options,
    modalities_option,
    parse_age,
    parse_assignments,
    parse_modalities,
    read_data,
    store_option,
    task_option,
    with_bars,
)

if TYPE_CHECKING:
    from extract import EncoderSpec, Extraction, Manifest
    from fuse import Judged

DEMO_HEADS = ("text", "image", "vote", "logreg", "mlp")


@click.group(cls=Pipeline, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Encode texts and images once, then compare fusion heads on the cached features.

    \b
    pipeline.py demo                   see it work, offline, in about a minute
    pipeline.py extract DATA --gpu     encode what is not yet in features/
    pipeline.py fuse --head mlp        train and judge a head on it
    pipeline.py predict --run RUN NEW  label new data
    pipeline.py bench --gpu            what this machine reaches, before a big job
    """  # noqa: D301 - click wants the very character
    for library in ("TRANSFORMERS", "HF_HUB"):  # what matters is raised or returned
        os.environ.setdefault(f"{library}_VERBOSITY", "error")


@main.command()
@click.argument("data", default="data", type=click.Path())
@store_option
@click.option("--name", help="Name of the data set in the store; DATA's own name by default.")
@modalities_option
@data_options
@encoder_options
@making_options
@click.option("--on-error", type=click.Choice(["record", "fail"]), default="record", help="When a sample fails.")
@click.option("--max-failures", type=int, help="Stop when more samples of a modality than this fail.")
@click.option("--retry-failed", is_flag=True, help="Try samples again that failed before.")
@json_option
def extract(data: str, store: Path, name: str | None, as_json: bool, **options: Any) -> None:
    """Encode DATA (a folder or table; data/ by default) into the feature store.

    Only what is not yet stored is encoded: stop it at any moment and run it again.
    Exit code 3: finished, but some samples failed and are recorded.
    """
    from extract import Settings, default_name, extraction_lines, extraction_result
    from extract import extract as run

    started = time.perf_counter()
    manifest = read_data(data, options)
    specs = chosen_specs(options, parse_modalities(options["modalities"]) or manifest.modalities, {})
    read = time.perf_counter() - started
    settings = Settings(store, name or default_name(data), specs, **how_to_run(options))
    done = with_bars(lambda bars: run(manifest, settings, bars))
    seconds = time.perf_counter() - started
    lines = extraction_lines(manifest, done, store, seconds)
    finish(as_json, extraction_result(done, store, read, seconds), lines)
    if done.failed_ids:
        click.get_current_context().exit(3)


@main.command()
@click.option("--head", required=True, help="Name of a head; `list` shows all.")
@store_option
@click.option("--name", help="Data set in the store; the only one by default.")
@modalities_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; a new one under runs/ by default.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A parameter of the head; repeatable.")
@task_option
@click.option("--seed", default=0, show_default=True, help="Of the folds and of initial weights.")
@click.option("--folds", default=5, show_default=True, help="Used where the data gives no splits.")
@json_option
def fuse(head: str, store: Path, name: str | None, modalities: str | None, as_json: bool, **options: Any) -> None:
    """Train one head on cached features, judge it on rows that it did not see, and save it."""
    from cache import load
    from fuse import judge

    if head == "list":
        _list_heads(as_json)
        return
    table = load(store, name, parse_modalities(modalities), check=True)
    params = parse_assignments(options.pop("assignments"))
    judged = with_bars(lambda bars: judge(table, head, params, store=store, progress=bars, **options))
    text = _fuse_text(head, table.name, judged)
    finish(as_json, {**judged.metrics, "out": str(judged.folder)}, [text, f"run: {judged.folder}"])


@main.command()
@click.option("--run", "run_folder", required=True, help="Folder of a run that fuse wrote.")
@click.argument("data", type=click.Path())
@click.option("-o", "--output", type=click.Path(path_type=Path), default="predictions.csv", help="The CSV to write.")
@store_option
@click.option("--all", "all_rows", is_flag=True, help="Predict rows that have a label, too.")
@data_options
@encoder_options
@json_option
def predict(
    run_folder: str, data: str, output: Path, store: Path, all_rows: bool, as_json: bool, **options: Any
) -> None:
    """Label DATA by a saved run: its unlabelled rows, or all rows where every one has a label.

    DATA goes through the encoders of the run; what the store holds already is not encoded again.
    """
    from extract import extraction_result, failure_lines
    from fuse import load_run

    started = time.perf_counter()
    run, manifest = load_run(run_folder), read_data(data, options)
    unlabelled = manifest.unlabelled()
    if unlabelled.samples and not all_rows:
        manifest = unlabelled
    read = time.perf_counter() - started
    done = _encode_for(run.encoders, manifest, store, options)
    found = _predict(run.model, done, store, output)
    result = extraction_result(done, store, read, time.perf_counter() - started)
    result |= {**found, "out": str(output)}
    finish(as_json, result, [*failure_lines(done, store), _predict_text(found, output)])
    if done.failed_ids:
        click.get_current_context().exit(3)


@main.group()
def cache() -> None:
    """Look after the feature store."""


@cache.command("list")
@store_option
@json_option
def cache_list(store: Path, as_json: bool) -> None:
    """Data sets and encoders of the store, with rows and bytes."""
    from cache import FeatureStore, describe_store, store_lines

    content = describe_store(FeatureStore(store))
    finish(as_json, content, store_lines(content))


@cache.command("status")
@store_option
@click.option("--name", help="Data set in the store; all by default.")
@json_option
def cache_status(store: Path, name: str | None, as_json: bool) -> None:
    """How much of a data set is stored: rows, missing, failed, done; of a stopped extraction too."""
    from cache import FeatureStore, status_lines, status_of

    content = status_of(FeatureStore(store), name)
    finish(as_json, content, status_lines(content))


@cache.command("verify")
@store_option
@click.option("--deep", type=click.IntRange(min=1), metavar="N", help="Also encode N random rows again and compare.")
@click.option("--name", help="Data set for --deep; the only one by default.")
@click.option("--data", help="Where its data lies now, for --deep; as it was extracted by default.")
@click.option("--seed", default=0, show_default=True, help="Of the rows for --deep.")
@device_options
@json_option
def cache_verify(store: Path, deep: int | None, as_json: bool, **options: Any) -> None:
    """Read every byte of the store and compare checksums, keys and rows. Exit code 1 if anything is wrong.

    Nothing is changed. The next `extract` sets damaged files aside and encodes their items again.
    """
    from cache import FeatureStore, finding_lines, verify_store

    result = with_bars(lambda bars: verify_store(FeatureStore(store), bars)).as_json()
    if deep and not result["findings"]:
        result["deep"] = _deep(store, deep, options)
        result["findings"] += result["deep"]["findings"]
    finish(as_json, result, finding_lines(result))
    if result["findings"]:
        click.get_current_context().exit(1)


@cache.command("compact")
@store_option
@json_option
def cache_compact(store: Path, as_json: bool) -> None:
    """Merge segments into few, in the order of the data sets, each item once."""
    from cache import FeatureStore, compact_store, compacted_lines

    result = with_bars(lambda bars: compact_store(FeatureStore(store), bars))
    finish(as_json, result, compacted_lines(result))


@cache.command("gc")
@store_option
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--older-than", default="0", metavar="AGE", help="Keep what is younger, such as 7d, 12h, 30m.")
@json_option
def cache_gc(store: Path, dry_run: bool, older_than: str, as_json: bool) -> None:
    """Remove what no data set reaches: vectors, encoders, damaged files, what killed writers left.

    A data set is forgotten by removing features/NAME.view.h5. What an extraction that is running
    or was stopped has encoded is kept; features/NAME.pending.h5 stands for it.
    """
    from cache import FeatureStore, collect, collected_lines

    age = parse_age(older_than)
    result = with_bars(lambda bars: collect(FeatureStore(store), age, dry_run, bars))
    finish(as_json, result, collected_lines(result))


@cache.command("export")
@click.argument("out", type=click.Path(path_type=Path))
@store_option
@click.option("--name", help="Data set in the store; the only one by default.")
@modalities_option
@json_option
def cache_export(out: Path, store: Path, name: str | None, modalities: str | None, as_json: bool) -> None:
    """Write a data set to OUT: .npz, .parquet or .h5, with ids, labels, splits, groups and masks."""
    from cache import export_table, load

    table = load(store, name, parse_modalities(modalities), check=True)
    export_table(table, out)
    size = out.stat().st_size
    result = {"out": str(out), "rows": len(table), "bytes": size}
    finish(as_json, result, [f"{out}: {len(table)} rows, {size / 1e6:.1f} MB"])


@cache.command("merge")
@click.argument("other", type=click.Path(path_type=Path))
@store_option
@json_option
def cache_merge(other: Path, store: Path, as_json: bool) -> None:
    """Take over everything from the store OTHER that this store lacks. OTHER stays as it is."""
    from cache import FeatureStore, merge_stores

    result = with_bars(lambda bars: merge_stores(FeatureStore(store), FeatureStore(other), bars))
    line = "{items} items, {bytes} bytes, data sets {data_sets}".format(**result)
    finish(as_json, result, [f"{other} -> {store}: {line}"])


@main.command()
@click.argument("data", required=False, type=click.Path())
@click.option("--samples", type=click.IntRange(min=1), help="How many.  [default: 128 on the CPU, 2048 on a GPU]")
@modalities_option
@data_options
@encoder_options
@making_options
@json_option
def bench(data: str | None, samples: int | None, modalities: str | None, as_json: bool, **options: Any) -> None:
    """Measure stage one: what this machine reaches, what its limit is, where the time goes.

    Takes the first samples of DATA, or generated posts and an untrained BERT-base and ResNet-50.
    Writes nothing that stays.
    """
    from extract import bench as run
    from extract import bench_lines

    manifest = read_data(data, options) if data else None
    how, chosen = how_to_run(options), parse_modalities(modalities)

    def specs(data: Manifest, model: Path | None) -> tuple[EncoderSpec, ...]:
        return bench_specs(data, model, chosen, options)

    result = with_bars(lambda bars: run(manifest, specs, how["device"], how["compile"], samples, bars))
    finish(as_json, result, bench_lines(result))


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default="demo", show_default=True, help="Folder to work in.")
@click.option("--seed", default=0, show_default=True, help="Of the data, the weights and the folds.")
@json_option
def demo(out: Path, seed: int, as_json: bool) -> None:
    """Generate a small data set and run extract, fuse and predict on it, offline."""
    from cache import load
    from extract import write_demo
    from fuse import comparison_table, judge

    made, store = write_demo(out / "input", seed), out / "features"
    random = f"BERT-base and ResNet-50 have random weights (seed {seed}): this shows the flow, not their accuracy"
    click.echo(f"{made.posts} generated posts; {random}\n", err=as_json)
    click.echo("\n".join(_demo_extract(made.data, made.text_model, store, seed)) + "\n", err=as_json)
    table = load(store, "posts")
    runs = {head: judge(table, head, store=store, root=out / "runs", seed=seed) for head in DEMO_HEADS}
    accuracy = {head: run.metrics["accuracy"] for head, run in runs.items()}
    best = max(accuracy, key=accuracy.__getitem__)
    predicted = _demo_predict(runs[best].folder, made.data, store, out / "predictions.csv")
    lines = [comparison_table({head: run.evaluation for head, run in runs.items()}), f"\n{best}: {predicted}"]
    lines += [f"Runs are in {out / 'runs'}. Your own: pipeline.py extract FOLDER, then pipeline.py fuse --head mlp"]
    finish(as_json, {"accuracy": accuracy, "best": best, "out": str(out)}, lines)


def _list_heads(as_json: bool) -> None:
    from fuse import heads_content, heads_lines

    finish(as_json, heads_content(), heads_lines())


def _fuse_text(head: str, name: str, judged: Judged) -> str:
    from fuse import evaluation_text

    return f"{name}: {judged.protocol.description}\n\n{evaluation_text(head, judged.evaluation)}\n"


def _encode_for(
    encoders: Mapping[str, Mapping[str, Any]], manifest: Manifest, store: Path, options: Mapping[str, Any]
) -> Extraction:
    """Encodes data for a run, by the run's encoders and no others."""
    from extract import Settings, default_name, extract

    specs = chosen_specs(options, encoders, {name: one["spec"] for name, one in encoders.items()})
    expected = {name: one["encoder"] for name, one in encoders.items()}
    settings = Settings(store, default_name(manifest.path), specs, expected=expected, keep=False, **how_to_run(options))
    return with_bars(lambda bars: extract(manifest, settings, bars))


def _predict(model: Any, done: Extraction, store: Path, output: Path) -> dict[str, Any]:
    from cache import FeatureStore, table_of
    from fuse import predict

    return predict(model, table_of(FeatureStore(store), done.view, check=True), output)


def _deep(store: Path, rows: int, options: Mapping[str, Any]) -> dict[str, Any]:
    from extract import verify_by_encoding

    device = how_to_run(options)["device"]
    name, data, seed = options["name"], options["data"], options["seed"]
    return with_bars(lambda bars: verify_by_encoding(store, rows, name, data, device, seed, bars))


def _predict_text(found: Mapping[str, Any], output: Path) -> str:
    if "labels" in found:
        shown = ", ".join(f"{label} {count}" for label, count in found["labels"].items())
    else:
        shown = ", ".join(f"{key} {found[key]:.3g}" for key in ("mean", "least", "largest") if found["rows"])
    return f"{found['rows']} rows labelled ({shown}): {output}"


def _demo_extract(data: Path, text_model: Path, store: Path, seed: int) -> list[str]:
    from extract import EncoderSpec, Settings, extract, extraction_lines, read_manifest

    text = EncoderSpec("text", str(text_model), random_init=seed, precision="auto")
    image = EncoderSpec("image", "resnet50", random_init=seed, precision="auto")
    manifest = read_manifest(data)
    started = time.perf_counter()
    done = with_bars(lambda bars: extract(manifest, Settings(store, "posts", (text, image)), bars))
    return extraction_lines(manifest, done, store, time.perf_counter() - started)[:-1]


def _demo_predict(run_folder: Path, data: Path, store: Path, output: Path) -> str:
    from extract import read_manifest
    from fuse import load_run

    run = load_run(run_folder)
    done = _encode_for(run.encoders, read_manifest(data).unlabelled(), store, {})
    return _predict_text(_predict(run.model, done, store, output), output)


if __name__ == "__main__":
    main()
