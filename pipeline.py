"""encode-once: encode texts and images once, then compare fusion heads on the cached features.

This file parses, calls and prints. torch and the rest are imported inside the commands, so
that `--help` is instant.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cache import FeatureTable
    from extract import EncoderSpec, Extraction, Manifest
    from fuse import Evaluation

DEMO_HEADS = ("text", "image", "vote", "logreg", "mlp")


class Pipeline(click.Group):
    """Prints the user's errors as one clear message instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; exit code 1 for what the user can mend."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("stopped; what was encoded is kept, the same command goes on from there", err=True)
            ctx.exit(1)
        except Exception as error:
            from cache import PipelineError

            if not isinstance(error, PipelineError):
                raise
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)


class Bars:
    """Progress bars with rate and time left on stderr, one a stage."""

    def __init__(self) -> None:
        self._what = ""
        self._bar: Any = None

    def __call__(self, what: str, done: int, total: int) -> None:
        """A `cache.Progress`."""
        from tqdm import tqdm

        if what != self._what:
            self.close()
            # A log file gets a line now and then instead of a moving bar; what is quick needs none.
            interval = 0.1 if sys.stderr.isatty() else 30.0
            self._bar = tqdm(total=total, desc=what, mininterval=interval, delay=0.5, dynamic_ncols=True)
            self._what = what
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Leaves the last state on the screen."""
        if self._bar is not None:
            self._bar.close()
        self._what, self._bar = "", None


class Columns(click.ParamType):
    """`text=title,image=img` as a dictionary."""

    name = "role=column,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        """Parses; exit code 2 for what is no list of pairs."""
        if isinstance(value, dict):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part]
        if not all(sign for _, sign, _ in pairs):
            self.fail(f"expected role=column,..., got {value!r}", param, ctx)
        return {role.strip(): column.strip() for role, _, column in pairs}


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


store_option = click.option("--store", default="features", show_default=True, help="Folder of the feature store.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line on stdout.")
modalities_option = click.option("--modalities", help="Such as text,image; all that the data has by default.")
data_options = _options(
    click.option("--layout", help="How DATA is laid out (mvsa, table); recognised by default."),
    click.option("--columns", type=Columns(), help="Columns of a table: id, text, image, label, split, group."),
)
encoder_options = _options(
    click.option("--text-model", help="BERT-like model by name or folder.  [default: bert-base-uncased]"),
    click.option("--image-model", help="Classification network of torchvision.  [default: resnet50]"),
    click.option("--image-weights", help="State dict (.pth, .safetensors); the official weights by default."),
    click.option(
        "--pooling", type=click.Choice(["mean", "cls"]), help="Text vector; both are stored.  [default: mean]"
    ),
    click.option("--max-length", type=int, help="Longest text in tokens; the model's own limit by default."),
    click.option("--random-init", metavar="SEED", help="Untrained weights: SEED, or text=SEED or image=SEED for one."),
    click.option("--gpu", is_flag=True, help="Run on the GPU; an error where there is none. Same as --device cuda."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
)


@click.group(cls=Pipeline, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    r"""Encode texts and images once, then compare fusion heads on the cached features.

    \b
    pipeline.py demo                   see it work, offline, in about a minute
    pipeline.py extract DATA --gpu     encode what is not yet in features/
    pipeline.py fuse --head mlp        train and judge a head on it
    pipeline.py predict --run RUN NEW  label new data
    """
    for library in ("TRANSFORMERS", "HF_HUB"):  # what matters is raised or returned
        os.environ.setdefault(f"{library}_VERBOSITY", "error")


@main.command()
@click.argument("data", default="data", type=click.Path())
@store_option
@click.option("--name", help="Name of the data set in the store; DATA's own name by default.")
@modalities_option
@data_options
@encoder_options
@click.option("--on-error", type=click.Choice(["record", "fail"]), default="record", show_default=True)
@click.option("--max-failures", type=int, help="Stop when more samples of a modality than this fail.")
@click.option("--retry-failed", is_flag=True, help="Try samples again that failed before.")
@json_option
def extract(data: str, store: str, name: str | None, as_json: bool, **options: Any) -> None:
    """Encode DATA (a folder or table; data/ by default) into the feature store.

    Only what is not yet stored is encoded: stop it at any moment and run it again.
    Exit code 3: finished, but some samples failed and are recorded.
    """
    from extract import Settings
    from extract import extract as run

    started = time.perf_counter()
    manifest = _manifest(data, options)
    specs = _specs(options, _modalities(options["modalities"]) or manifest.modalities, {})
    read = time.perf_counter() - started
    settings = Settings(Path(store), name or Path(data).resolve().stem, specs, **_how(options))
    done = _with_bars(lambda bars: run(manifest, settings, bars))
    result = _extract_result(done, store, read, time.perf_counter() - started)
    _finish(as_json, result, _extract_text(manifest, done, result))
    if done.failed_ids:
        click.get_current_context().exit(3)


@main.command()
@click.option("--head", required=True, help="Name of a head; `list` shows all.")
@store_option
@click.option("--name", help="Data set in the store; the only one by default.")
@modalities_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; a new one under runs/ by default.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A parameter of the head; repeatable.")
@click.option("--seed", default=0, show_default=True, help="Of the folds and of initial weights.")
@click.option("--folds", default=5, show_default=True, help="Used where the data gives no splits.")
@json_option
def fuse(head: str, store: str, name: str | None, modalities: str | None, as_json: bool, **options: Any) -> None:
    """Train one head on cached features, judge it on rows that it did not see, and save it."""
    from cache import load

    if head == "list":
        _list_heads(as_json)
        return
    table = load(store, name, _modalities(modalities))
    params = _assignments(options["assignments"])
    metrics, evaluation, folder, protocol = _fuse(table, head, params, store, options)
    result = {**metrics, "out": str(folder)}
    _finish(as_json, result, [_fuse_text(head, table, protocol, evaluation), f"run: {folder}"])


@main.command()
@click.option("--run", "run_folder", required=True, help="Folder of a run that fuse wrote.")
@click.argument("data", type=click.Path())
@click.option("-o", "--output", type=click.Path(path_type=Path), default="predictions.csv", show_default=True)
@store_option
@click.option("--all", "all_rows", is_flag=True, help="Predict rows that have a label, too.")
@data_options
@encoder_options
@json_option
def predict(
    run_folder: str, data: str, output: Path, store: str, all_rows: bool, as_json: bool, **options: Any
) -> None:
    """Label DATA by a saved run: its unlabelled rows, or all rows where every one has a label.

    DATA goes through the encoders of the run; what the store holds already is not encoded again.
    """
    from fuse import load_run

    run, manifest = load_run(run_folder), _manifest(data, options)
    unlabelled = manifest.unlabelled()
    if unlabelled.samples and not all_rows:
        manifest = unlabelled
    done = _encode_for(run.encoders, manifest, store, options)
    counts = _write_predictions(run.model, done, store, output)
    result = {**_extract_result(done, store, 0.0, 0.0), "rows": sum(counts.values()), "labels": counts}
    _finish(as_json, {**result, "out": str(output)}, [*_failure_lines(done, store), _predict_text(counts, output)])
    if done.failed_ids:
        click.get_current_context().exit(3)


@main.group()
def cache() -> None:
    """Look after the feature store."""


@cache.command("list")
@store_option
@json_option
def cache_list(store: str, as_json: bool) -> None:
    """Data sets and encoders of the store, with rows and bytes."""
    from cache import FeatureStore, describe_store

    content = describe_store(FeatureStore(store))
    lines = [f"store {store}: data sets: {len(content['data_sets'])}, encoders: {len(content['encoders'])}"]
    for one in content["data_sets"]:
        lines.append(f"  {one['name']}: {one['rows']} rows, {one['labelled']} labelled, {', '.join(one['modalities'])}")
    for one in content["encoders"]:
        size = f"{one['rows']} rows, {one['bytes'] / 1e6:.1f} MB, {one['failures']} failures"
        lines.append(f"  {one['key']}: {one['modality']} {one['name']}, {size}")
    _finish(as_json, content, lines)


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default="demo", show_default=True, help="Folder to work in.")
@click.option("--seed", default=0, show_default=True, help="Of the data, the weights and the folds.")
@json_option
def demo(out: Path, seed: int, as_json: bool) -> None:
    """Generate a small data set and run extract, fuse and predict on it, offline."""
    from cache import load
    from extract import write_demo

    made = write_demo(out / "input", seed)
    click.echo(
        f"{made.posts} generated posts in {made.data}; BERT-base and ResNet-50 with random weights (seed {seed}),"
    )
    click.echo("so this shows the flow, not the accuracy that trained encoders reach.\n")
    done = _demo_extract(made.data, made.text_model, out / "features", seed)
    table = load(out / "features", "posts")
    results, folders = {}, {}
    for head in DEMO_HEADS:
        options = {"out": None, "seed": seed, "folds": 5, "root": out / "runs"}
        results[head], folders[head] = _fuse(table, head, {}, str(out / "features"), options)[1:3]
    best = max(results, key=lambda head: results[head].metrics["accuracy"])
    _demo_report(results, out, made.data, folders[best], done)
    summary = {head: one.metrics["accuracy"] for head, one in results.items()}
    _finish(as_json, {"accuracy": summary, "best": best, "out": str(out)}, [])


def _manifest(data: str, options: Mapping[str, Any]) -> Manifest:
    from extract import read_manifest

    return read_manifest(data, options["layout"], options["columns"])


def _modalities(value: str | None) -> tuple[str, ...] | None:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if value else None


def _how(options: Mapping[str, Any]) -> dict[str, Any]:
    """Device and failure handling, as `extract.Settings` takes them."""
    if options["gpu"] and options["device"] == "cpu":
        raise click.UsageError("--gpu and --device cpu contradict each other")
    device = "cuda" if options["gpu"] and options["device"] == "auto" else options["device"]
    return {
        "device": device,
        "fail_fast": options.get("on_error") == "fail",
        "max_failures": options.get("max_failures"),
        "retry_failed": options.get("retry_failed", False),
    }


def _specs(
    options: Mapping[str, Any], modalities: Iterable[str], base: Mapping[str, Mapping[str, Any]]
) -> tuple[EncoderSpec, ...]:
    """One encoder a modality: what the user says, else what `base` holds, else the default."""
    from cache import UsageError, listing
    from extract import DEFAULT_MODELS, EncoderSpec

    seeds = _seeds(options["random_init"])
    given = {
        "text": {"model": options["text_model"], "output": options["pooling"], "max_length": options["max_length"]},
        "image": {"model": options["image_model"], "weights": options["image_weights"]},
    }
    specs = []
    for modality in modalities:
        if modality not in given:
            raise UsageError(f"there is no encoder for {modality!r}; --modalities takes {listing(list(given))}")
        chosen = {key: value for key, value in given[modality].items() if value is not None}
        if "weights" not in chosen and (seed := seeds.get(modality, seeds.get(""))) is not None:
            chosen["random_init"] = seed
        start = {"model": DEFAULT_MODELS[modality], **base.get(modality, {})}
        if "model" in chosen or "weights" in chosen:  # another model does not take the old one's weights
            start = {**start, "weights": None, "random_init": None}
        specs.append(EncoderSpec.from_json({**start, **chosen, "modality": modality}))
    return tuple(specs)


def _seeds(value: str | None) -> dict[str, int]:
    """`7` as {"": 7}, `text=7` as {"text": 7}."""
    parts = [part.rpartition("=") for part in (value or "").split(",") if part]
    if not all(seed.strip().isdigit() for _, _, seed in parts):
        raise click.UsageError(f"--random-init takes SEED or text=SEED or image=SEED, got {value!r}")
    return {modality.strip(): int(seed) for modality, _, seed in parts}


def _assignments(values: Iterable[str]) -> dict[str, Any]:
    """`C=0.1` as {"C": 0.1}: JSON where the value is JSON, else text."""
    params: dict[str, Any] = {}
    for value in values:
        key, sign, text = value.partition("=")
        if not sign:
            raise click.UsageError(f"--set takes KEY=VALUE, got {value!r}")
        try:
            params[key] = json.loads(text)
        except ValueError:
            params[key] = text
    return params


def _with_bars(work: Callable[[Bars], Any]) -> Any:
    bars = Bars()
    try:
        return work(bars)
    finally:
        bars.close()


def _finish(as_json: bool, result: Mapping[str, Any], lines: Iterable[str]) -> None:
    """Prints for people on stdout, or with --json for people on stderr and one object on stdout."""
    for line in lines:
        click.echo(line, err=as_json)
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False))


def _extract_result(done: Extraction, store: str, read: float, seconds: float) -> dict[str, Any]:
    return {
        "name": done.view.name,
        "store": store,
        "samples": done.samples,
        "encoded": done.encoded,
        "reused": done.reused,
        "failed": len(done.failed_ids),
        "missing": done.missing,
        "truncated": done.truncated,
        "seconds": round(seconds, 3),
        "encode_seconds": round(read + done.encode_seconds, 3),
        "device": done.device,
        "encoders": {name: block.encoder for name, block in done.view.blocks.items()},
    }


def _extract_text(manifest: Manifest, done: Extraction, result: Mapping[str, Any]) -> list[str]:
    from extract import label_counts

    used = ", ".join(f"{role}={column}" for role, column in manifest.notes.get("columns", {}).items())
    lines = [f"{manifest.path}: {done.samples} samples, layout {manifest.layout}" + (f" ({used})" if used else "")]
    counts = label_counts(manifest)
    rest = done.samples - sum(counts.values())
    shown = ", ".join(f"{label} {count}" for label, count in list(counts.items())[:12])
    lines.append(f"  labels: {shown or 'none'}" + (f"; {rest} rows without" if counts and rest else ""))
    for name, block in done.view.blocks.items():
        state = f"{done.missing[name]} missing, {len(done.failures[name])} failed"
        lines.append(f"  {name}: {block.dim} columns ({block.output}), {done.reasons[name]}; {state}")
    if done.truncated:
        lines.append(f"  {done.truncated} texts were cut to the model's longest input")
    lines += [f"warning: {warning}" for warning in done.warnings]
    lines += _failure_lines(done, result["store"])
    where = f" on {done.device}" if done.encoded else ""
    lines.append(f"{done.encoded} encoded, {done.reused} reused{where}, {result['seconds']:.1f} s")
    option = "" if result["store"] == "features" else f" --store {result['store']}"
    return [*lines, f"next: pipeline.py fuse --head mlp{option} --name {done.view.name}"]


def _failure_lines(done: Extraction, store: str) -> list[str]:
    lines = []
    for modality, failures in done.failures.items():
        lines += [f"failed: {failure.id} ({modality}): {failure.reason}" for failure in failures[:5]]
        if failures:
            path = Path(store) / done.view.blocks[modality].encoder / "failures.jsonl"
            lines.append(f"{modality} failures: {len(failures)}, recorded in {path}; --retry-failed tries them again")
    return lines


def _list_heads(as_json: bool) -> None:
    from fuse import HEADS

    width = max(map(len, HEADS))
    lines = [f"{name.ljust(width)}  {head.summary}\n{' ' * width}  {head.formula}" for name, head in HEADS.items()]
    heads = {
        name: {"summary": head.summary, "formula": head.formula, "source": head.source} for name, head in HEADS.items()
    }
    _finish(as_json, heads, lines)


def _fuse(
    table: FeatureTable, head: str, params: Mapping[str, Any], store: str, options: Mapping[str, Any]
) -> tuple[dict[str, Any], Evaluation, Path, str]:
    """Judges a head and writes its run."""
    from fuse import check_free, modalities_of, new_folder, run_head, write_run

    if options["out"] is not None:
        check_free(options["out"])
    table = table.select(modalities_of(head, table.modalities))
    seed, folds = options["seed"], options["folds"]
    evaluation, protocol = _with_bars(lambda bars: run_head(table, head, params, seed=seed, folds=folds, progress=bars))
    folder = options["out"] or new_folder(f"{table.name}-{head}", options.get("root", Path("runs")))
    settings = {"head": head, "params": dict(params), "seed": seed, "folds": folds, "store": str(store)}
    return write_run(folder, table, evaluation, protocol, settings), evaluation, folder, protocol.description


def _fuse_text(head: str, table: FeatureTable, protocol: str, evaluation: Evaluation) -> str:
    from fuse import evaluation_text

    return f"{table.name}: {protocol}\n\n{evaluation_text(head, evaluation)}\n"


def _encode_for(
    encoders: Mapping[str, Mapping[str, Any]], manifest: Manifest, store: str, options: Mapping[str, Any]
) -> Extraction:
    """Encodes data for a run, by the run's encoders and no others."""
    from extract import Settings, extract

    specs = _specs(options, encoders, {name: one["spec"] for name, one in encoders.items()})
    expected = {name: one["encoder"] for name, one in encoders.items()}
    settings = Settings(Path(store), manifest.path.stem, specs, expected=expected, keep=False, **_how(options))
    return _with_bars(lambda bars: extract(manifest, settings, bars))


def _write_predictions(model: Any, done: Extraction, store: str, output: Path) -> dict[str, int]:
    from cache import FeatureStore, table_of
    from fuse import write_predictions

    table = table_of(FeatureStore(store), done.view)
    proba = model.predict_proba(table)
    labels = model.classes_[proba.argmax(axis=1)]
    write_predictions(output, table.ids, labels, proba, model.classes_)
    return {str(label): int((labels == label).sum()) for label in model.classes_}


def _predict_text(counts: Mapping[str, int], output: Path) -> str:
    shown = ", ".join(f"{label} {count}" for label, count in counts.items())
    return f"{sum(counts.values())} rows labelled ({shown}): {output}"


def _demo_extract(data: Path, text_model: Path, store: Path, seed: int) -> Extraction:
    from extract import EncoderSpec, Settings, extract, read_manifest

    specs = (
        EncoderSpec("text", str(text_model), random_init=seed),
        EncoderSpec("image", "resnet50", random_init=seed),
    )
    manifest = read_manifest(data)
    started = time.perf_counter()
    done: Extraction = _with_bars(lambda bars: extract(manifest, Settings(store, "posts", specs), bars))
    seconds = time.perf_counter() - started
    click.echo("\n".join(_extract_text(manifest, done, _extract_result(done, str(store), 0.0, seconds))) + "\n")
    return done


def _demo_report(results: Mapping[str, Evaluation], out: Path, data: Path, best: Path, done: Extraction) -> None:
    from extract import read_manifest
    from fuse import comparison_table, load_run

    click.echo(comparison_table(results) + "\n")
    run = load_run(best)
    options = dict.fromkeys(("text_model", "image_model", "image_weights", "pooling", "max_length", "random_init"))
    unlabelled = read_manifest(data).unlabelled()
    store = str(out / "features")
    encoded = _encode_for(run.encoders, unlabelled, store, {**options, "gpu": False, "device": "auto"})
    click.echo(
        _predict_text(_write_predictions(run.model, encoded, store, out / "predictions.csv"), out / "predictions.csv")
    )
    click.echo(
        f"\nTry your own: pipeline.py extract FOLDER, then pipeline.py fuse --head mlp. Runs are in {out / 'runs'}."
    )


if __name__ == "__main__":
    main()
