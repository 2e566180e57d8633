"""encode-once: encode texts and images once, then compare fusion heads on the cached features.

This file parses, calls and prints; torch and the rest are imported inside the commands, so
that `--help` is instant.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache_commands import cache
from console import (
    GRID_HELP,
    SEED,
    Pipeline,
    ablation_settings,
    data_options,
    encoder_options,
    how_to_run,
    json_option,
    making_options,
    modalities_option,
    parse_assignments,
    parse_modalities,
    read_data,
    store_option,
    task_option,
    tuning_options,
    tuning_wanted,
    with_bars,
)
from endings import finish
from flows import (
    ablate_table,
    bench_specs,
    demo_ablate,
    demo_extract,
    demo_predict,
    encode_for,
    extract_whole,
    failed_fits,
    failed_in,
    fuse_text,
    list_heads,
    planned_fit,
    predict_text,
    predict_with,
    read_for,
    shown_from,
    spare_data,
    view_of_run,
)
from scale import cluster_options, extract_in_shards, in_shards

if TYPE_CHECKING:
    from extract import EncoderSpec, Manifest


@click.group(cls=Pipeline, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Encode texts and images once, then compare fusion heads on the cached features.

    \b
    pipeline.py demo                   see it work, offline, in about a minute
    pipeline.py check DATA             what is in it: duplicates, conflicts, leaks, broken files
    pipeline.py extract DATA --gpu     encode what is not yet in features/
    pipeline.py fuse --head mlp        train and judge a head on it
    pipeline.py ablate                 compare heads x modalities x seeds x folds; report.html
    pipeline.py finetune DATA --gpu    tune the encoders with a head; extract --finetuned caches them
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
@click.option("--finetuned", type=click.Path(path_type=Path), help="Encoders of a run of finetune, and its folds.")
@click.option("--finetune", is_flag=True, help="Tune the encoders first, as finetune does by default.")
@click.option("--on-error", type=click.Choice(["record", "fail"]), default="record", help="When a sample fails.")
@click.option("--max-failures", type=click.IntRange(min=0), help="Stop when more samples of a modality than this fail.")
@cluster_options
@json_option
def extract(data: str, store: Path, name: str | None, as_json: bool, **options: Any) -> None:
    """Encode DATA (a folder, table, tar or hub:OWNER/NAME; data/ by default) into the feature store.

    In shards (--shard-rows, --engine ray) DATA may be an address such as s3://bucket/posts, of tars or Parquet.

    Only what is not yet stored is encoded: stop it at any moment and run it again.
    Exit code 3: finished, but some samples failed and are recorded.
    """
    from extract import default_name

    name = name or default_name(data)
    if in_shards(options):
        extract_in_shards(data, store, name, as_json, options)
    elif options["finetuned"] or options["finetune"]:
        from tuned import encode_tuned

        encode_tuned(read_data(data, options), name, store, as_json, options)
    else:
        extract_whole(data, store, name, as_json, options)


@main.command()
@click.argument("data", default="data", type=click.Path())
@modalities_option
@data_options
@task_option
@click.option("--text-model", help="Whose tokens are counted; bert-base-uncased by default, if it is here.")
@click.option("--max-length", type=int, help="Longest text in tokens; the model's own limit by default.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the report; a new one under runs/ by default.")
@json_option
def check(data: str, out: Path | None, as_json: bool, **options: Any) -> None:
    """Report what DATA holds before anything is encoded: check.html, with examples, check.json and rows.csv.

    Rows, classes, splits, lengths, sizes; what is missing, broken, equal or nearly so, on several sides of a split
    or with several labels; what alone gives the label away. Exit code 3: some rows cannot be decoded.
    """
    from extract import CheckSettings, check_data, check_lines, write_check

    modalities = parse_modalities(options["modalities"])
    settings = CheckSettings(modalities, options["text_model"], options["max_length"], options["task"])
    manifest = read_data(data, options)
    done = with_bars(lambda bars: check_data(manifest, settings, bars))
    folder = write_check(done, out)
    lines = [*check_lines(done.summary), f"report: {folder / 'check.html'}"]
    finish(as_json, {**done.summary, "out": str(folder)}, lines)
    if done.summary["failed"]:
        click.get_current_context().exit(3)


@main.command()
@click.option("--head", required=True, help="Name of a head; `list` shows all.")
@store_option
@click.option("--name", help="Data set in the store; the only one by default.")
@modalities_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; a new one under runs/ by default.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A parameter of the head; repeatable.")
@task_option
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the folds and of initial weights.")
@click.option("--folds", default=5, show_default=True, help="Used where the data gives no splits.")
@click.option("--memory", help="Most that the fit may take, such as 2GB; what is free and allowed by default.")
@json_option
def fuse(head: str, store: Path, name: str | None, modalities: str | None, as_json: bool, **options: Any) -> None:
    """Train one head on cached features, judge it on rows that it did not see, and save it."""
    from cache import load_data_set
    from fuse import judge

    if head == "list":
        list_heads(as_json)
        return
    data = load_data_set(store, name, parse_modalities(modalities), check=True)
    params = parse_assignments(options.pop("assignments"))
    planned = planned_fit(data, head, params, options.pop("memory"))
    judged = with_bars(lambda bars: judge(planned, head, params, store=store, progress=bars, **options))
    text = fuse_text(head, data.name, judged)
    finish(as_json, {**judged.metrics, "out": str(judged.folder)}, [text, f"run: {judged.folder}"])


@main.command()
@click.argument("data", default="data", type=click.Path())
@store_option
@click.option("--name", help="Name of the data set; DATA's own name by default.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; a new one under runs/ by default.")
@modalities_option
@task_option
@tuning_options
@data_options
@encoder_options
@making_options
@json_option
def finetune(data: str, store: Path, name: str | None, out: Path | None, as_json: bool, **options: Any) -> None:
    """Tune encoders on the training rows of DATA, end to end with a head, and judge them on the others.

    What it leaves is a run, as `fuse` leaves one: `predict --run` takes it, and `extract --finetuned` caches the
    features of its encoders. Stop it at any moment: the same command goes on from the last epoch. On several GPUs:
    torchrun --nproc_per_node 4 pipeline.py finetune ...
    """
    from extract import default_name
    from tuning import finetuned, tuned_lines

    manifest = read_data(data, options)
    done = finetuned(manifest, name or default_name(data), tuning_wanted(options, manifest, store), out)
    if done is not None:
        result = {**done.metrics, "failed": len(done.extraction.failed_ids), "out": str(done.folder)}
        finish(as_json, result, tuned_lines(done), failed_in([done.extraction], store))


@main.command()
@store_option
@click.option("--name", help="Data set in the store; the only one by default.")
@click.option("--heads", help="Names, or all; 15 common ones by default. `fuse --head list` shows them.")
@click.option("--modalities", default="all", show_default=True, help="Such as text,image; every subset is compared.")
@click.option("--seeds", default="3", show_default=True, help="How many repeats, or their seeds: 7,8,9.")
@click.option("--split-seed", type=SEED, help="One seed for the folds of all repeats; each its own by default.")
@click.option("--folds", default=5, show_default=True, help="Used where the data gives no splits.")
@click.option("--grid", type=click.Choice(["none", "small", "full"]), default="none", show_default=True, help=GRID_HELP)
@click.option("--controls", help="Heads also fitted with a modality shuffled or noise; none for none.  [default: some]")
@click.option("--set", "assignments", multiple=True, metavar="HEAD.KEY=VALUE", help="A parameter; repeatable.")
@task_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder; a new one under runs/ by default.")
@click.option("--data", help="Where the data lies now, for the pictures of the report; as it was extracted by default.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes; one a core by default.")
@click.option("--gpu", is_flag=True, help="Train heads on the GPU; an error where there is none.")
@json_option
def ablate(store: Path, name: str | None, modalities: str, as_json: bool, **options: Any) -> None:
    """Compare heads x subsets of modalities x seeds x folds, with tests and a report.

    Stop it at any moment: the same command goes on. With --out of an earlier ablation, only what changed is fitted.
    Exit code 3: finished, but some fits failed; the report says why.
    """
    from fuse import ablation_result, ablation_text

    done = ablate_table(store, name, parse_modalities(modalities), ablation_settings(options), options)
    lines = [ablation_text(done.summary), f"run: {done.folder}"]
    finish(as_json, ablation_result(done), lines, failed_fits(done))


@main.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the report; that of the run by default.")
@click.option("--data", help="Where the data lies now, for the pictures; as it was extracted by default.")
@json_option
def report(runs: tuple[Path, ...], out: Path | None, data: str | None, as_json: bool) -> None:
    """Rebuild the report of an ablation, or join several RUNS on the same rows, such as one an encoder."""
    from fuse import ablation_result, ablation_text
    from fuse import report as rebuild

    done = rebuild(runs, out, shown_from(lambda: view_of_run(runs[0]), data))
    finish(as_json, ablation_result(done), [ablation_text(done.summary), f"report: {done.folder / 'report.html'}"])


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

    DATA goes through the encoders of the run; what the store holds already is not encoded again. Columns that were
    named for the run's data are taken of DATA, too, unless --columns names others.
    """
    from extract import data_lines, extraction_result
    from fuse import load_run

    started = time.perf_counter()
    run = load_run(run_folder)
    manifest = read_for(run, data, options)
    spare_data(output, manifest)
    unlabelled = manifest.unlabelled()
    if unlabelled.samples and not all_rows:
        manifest = unlabelled
    read = time.perf_counter() - started
    done = encode_for(run.encoders, manifest, store, options)
    found = predict_with(run.model, done, store, output)
    result = extraction_result(done, store, read, time.perf_counter() - started)
    result |= {**found, "out": str(output)}
    lines = [predict_text(found, output), *data_lines(manifest, done.samples)]
    finish(as_json, result, lines, failed_in([done], store))


main.add_command(cache)


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
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the data, the weights and the folds.")
@json_option
def demo(out: Path, seed: int, as_json: bool) -> None:
    """Generate a small data set and run extract, ablate and predict on it, offline."""
    from extract import write_demo
    from fuse import ablation_text, accuracies

    made, store = write_demo(out / "input", seed), out / "features"
    random = f"BERT-base and ResNet-50 have random weights (seed {seed}): this shows the flow, not their accuracy"
    click.echo(f"{made.posts} generated posts; {random}\n", err=as_json)
    click.echo("\n".join(demo_extract(made.data, made.text_model, store, seed)) + "\n", err=as_json)
    done = demo_ablate(store, out / "runs", seed)
    best = done.summary["rows"][0]
    predicted = demo_predict(done.folder, made.data, store, out / "predictions.csv")
    lines = [
        ablation_text(done.summary),
        f"\n{best['head']}: {predicted}",
        f"The report: {done.folder / 'report.html'}",
    ]
    lines += ["Your own: pipeline.py extract FOLDER, then pipeline.py ablate"]
    result = {"best": best["head"], "accuracy": accuracies(done.summary), "out": str(out), "run": str(done.folder)}
    finish(as_json, result, lines)


if __name__ == "__main__":
    main()
