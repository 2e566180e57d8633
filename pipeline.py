"""encode-once: encode texts and images once, then compare fusion heads on the cached features.

This file parses, calls and prints; torch and the rest are imported inside the commands, so
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
    from extract import EncoderSpec, Extraction, Manifest
    from fuse import Judged

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


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


store_option = click.option(
    "--store",
    default="features",
    type=click.Path(path_type=Path),
    show_default=True,
    help="Folder of the feature store.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line on stdout.")
modalities_option = click.option("--modalities", help="Such as text,image; all that the data has by default.")
data_options = _options(
    click.option("--layout", help="How DATA is laid out (mvsa, table); recognised by default."),
    click.option("--columns", metavar="ROLE=COLUMN,...", help="Of a table: id, text, image, label, split, group."),
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
    manifest = _manifest(data, options)
    specs = _specs(options, _modalities(options["modalities"]) or manifest.modalities, {})
    read = time.perf_counter() - started
    settings = Settings(store, name or default_name(data), specs, **_how(options))
    done = _with_bars(lambda bars: run(manifest, settings, bars))
    seconds = time.perf_counter() - started
    lines = extraction_lines(manifest, done, store, seconds)
    _finish(as_json, extraction_result(done, store, read, seconds), lines)
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
def fuse(head: str, store: Path, name: str | None, modalities: str | None, as_json: bool, **options: Any) -> None:
    """Train one head on cached features, judge it on rows that it did not see, and save it."""
    from cache import load
    from fuse import judge

    if head == "list":
        _list_heads(as_json)
        return
    table = load(store, name, _modalities(modalities))
    params = _assignments(options.pop("assignments"))
    judged = _with_bars(lambda bars: judge(table, head, params, store=store, progress=bars, **options))
    text = _fuse_text(head, table.name, judged)
    _finish(as_json, {**judged.metrics, "out": str(judged.folder)}, [text, f"run: {judged.folder}"])


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
    run, manifest = load_run(run_folder), _manifest(data, options)
    unlabelled = manifest.unlabelled()
    if unlabelled.samples and not all_rows:
        manifest = unlabelled
    read = time.perf_counter() - started
    done = _encode_for(run.encoders, manifest, store, options)
    counts = _predict(run.model, done, store, output)
    result = extraction_result(done, store, read, time.perf_counter() - started)
    result |= {"rows": sum(counts.values()), "labels": counts, "out": str(output)}
    _finish(as_json, result, [*failure_lines(done, store), _predict_text(counts, output)])
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
    _finish(as_json, content, store_lines(content))


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
    _finish(as_json, {"accuracy": accuracy, "best": best, "out": str(out)}, lines)


def _manifest(data: str, options: Mapping[str, Any]) -> Manifest:
    from extract import read_manifest

    return read_manifest(data, options["layout"], _columns(options["columns"]))


def _columns(value: str | None) -> dict[str, str]:
    """`text=title,image=img` as a dictionary."""
    pairs = [part.partition("=") for part in (value or "").split(",") if part]
    if not all(sign for _, sign, _ in pairs):
        raise click.UsageError(f"--columns takes role=column,..., got {value!r}")
    return {role.strip(): column.strip() for role, _, column in pairs}


def _modalities(value: str | None) -> tuple[str, ...] | None:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if value else None


def _how(options: Mapping[str, Any]) -> dict[str, Any]:
    """Device and failure handling, as `extract.Settings` takes them."""
    device = options.get("device", "auto")
    if options.get("gpu") and device == "cpu":
        raise click.UsageError("--gpu and --device cpu contradict each other")
    device = "cuda" if options.get("gpu") and device == "auto" else device
    return {
        "device": device,
        "fail_fast": options.get("on_error") == "fail",
        "max_failures": options.get("max_failures"),
        "retry_failed": options.get("retry_failed", False),
    }


def _specs(
    options: Mapping[str, Any], modalities: Iterable[str], base: Mapping[str, Mapping[str, Any]]
) -> tuple[EncoderSpec, ...]:
    from extract import choose_specs

    text = {"model": "text_model", "output": "pooling", "max_length": "max_length"}
    image = {"model": "image_model", "weights": "image_weights"}
    given = {
        modality: {key: options[name] for key, name in names.items() if options.get(name) is not None}
        for modality, names in (("text", text), ("image", image))
    }
    return choose_specs(modalities, given, _seeds(options.get("random_init")), base)


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


def _list_heads(as_json: bool) -> None:
    from fuse import HEADS

    width = max(map(len, HEADS))
    lines = [f"{name.ljust(width)}  {head.summary}\n{' ' * width}  {head.formula}" for name, head in HEADS.items()]
    about = ("summary", "formula", "source")
    heads = {name: {key: getattr(head, key) for key in about} for name, head in HEADS.items()}
    _finish(as_json, heads, lines)


def _fuse_text(head: str, name: str, judged: Judged) -> str:
    from fuse import evaluation_text

    return f"{name}: {judged.protocol.description}\n\n{evaluation_text(head, judged.evaluation)}\n"


def _encode_for(
    encoders: Mapping[str, Mapping[str, Any]], manifest: Manifest, store: Path, options: Mapping[str, Any]
) -> Extraction:
    """Encodes data for a run, by the run's encoders and no others."""
    from extract import Settings, default_name, extract

    specs = _specs(options, encoders, {name: one["spec"] for name, one in encoders.items()})
    expected = {name: one["encoder"] for name, one in encoders.items()}
    settings = Settings(store, default_name(manifest.path), specs, expected=expected, keep=False, **_how(options))
    return _with_bars(lambda bars: extract(manifest, settings, bars))


def _predict(model: Any, done: Extraction, store: Path, output: Path) -> dict[str, int]:
    from cache import FeatureStore, table_of
    from fuse import predict

    return predict(model, table_of(FeatureStore(store), done.view), output)


def _predict_text(counts: Mapping[str, int], output: Path) -> str:
    shown = ", ".join(f"{label} {count}" for label, count in counts.items())
    return f"{sum(counts.values())} rows labelled ({shown}): {output}"


def _demo_extract(data: Path, text_model: Path, store: Path, seed: int) -> list[str]:
    from extract import EncoderSpec, Settings, extract, extraction_lines, read_manifest

    text = EncoderSpec("text", str(text_model), random_init=seed)
    image = EncoderSpec("image", "resnet50", random_init=seed)
    manifest = read_manifest(data)
    started = time.perf_counter()
    done = _with_bars(lambda bars: extract(manifest, Settings(store, "posts", (text, image)), bars))
    return extraction_lines(manifest, done, store, time.perf_counter() - started)[:-1]


def _demo_predict(run_folder: Path, data: Path, store: Path, output: Path) -> str:
    from extract import read_manifest
    from fuse import load_run

    run = load_run(run_folder)
    done = _encode_for(run.encoders, read_manifest(data).unlabelled(), store, {})
    return _predict_text(_predict(run.model, done, store, output), output)


if __name__ == "__main__":
    main()
