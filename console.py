"""What every command shares: options, progress bars, how errors are printed.

Imports next to nothing, so that `--help` is instant.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from endings import DOWNLOADS, visible

if TYPE_CHECKING:
    from extract import EncoderSpec, Manifest
    from fuse import Settings
    from tuning import Wanted

SEED = click.IntRange(0, 2**32 - 1)
"""What numpy, sklearn and torch take alike."""
GRID_HELP = "Settings searched within each training part, never on the rows that judge."
COLUMNS_HELP = (
    "Of a table: id, text, image, label, split, group, words; text=title+body joins columns. Further modalities: "
    "image_2=..., text_2=...; tabular=price+brand, numbers and categories; audio=clip, audio files; any other name (or "
    "audio) for .npy arrays, which words=... aligns with the text."
)


class Pipeline(click.Group):
    """Prints the user's errors as one clear message instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; exit code 1 for what the user can mend."""
        if isinstance(sys.stdout, io.TextIOWrapper):  # names of files and labels may hold what a terminal cannot show
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("stopped; what was done is kept, the same command goes on from there", err=True)
            ctx.exit(1)
        except Exception as error:
            from cache import PipelineError

            if not isinstance(error, PipelineError):
                raise
            click.echo(visible(f"error: {error}"), err=True)
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
            self._bar = tqdm(total=total, desc=visible(what), mininterval=interval, delay=0.5, dynamic_ncols=True)
            self._what = what
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Leaves the last state on the screen."""
        if self._bar is not None:
            self._bar.close()
        self._what, self._bar = "", None


def grouped(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Options that commands have in common, as one decorator."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class StorePath(click.ParamType):
    """A folder, or an address such as s3://bucket/prefix, of which a path would lose a slash."""

    name = "path"

    def convert(self, value: Any, _param: click.Parameter | None, _ctx: click.Context | None) -> Path:
        """The place; see `cache.place`."""
        if "://" not in str(value):
            return Path(value)
        from cache import place

        return place(value)


store_option = click.option(
    "--store",
    default="features",
    type=StorePath(),
    show_default=True,
    help="Folder of the feature store, or an address such as s3://bucket/prefix.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line on stdout.")
task_option = click.option(
    "--task", type=click.Choice(["classification", "regression"]), help="What labels are; by default as they look."
)
modalities_option = click.option("--modalities", help="Such as text,image; all that the data has by default.")
data_options = grouped(
    click.option(
        "--layout",
        help="How DATA is laid out (mvsa, mosi, fakeddit, table, hub, webdataset, folders); recognised by default.",
    ),
    click.option("--columns", metavar="ROLE=COLUMN,...", help=COLUMNS_HELP),
    click.option("--download", is_flag=True, help="Fetch pictures and sounds that the data names by http address."),
    click.option("--allow-private", is_flag=True, help="Let --download ask this machine and private networks, too."),
    click.option("--retry-failed", is_flag=True, help="Try again what failed before, samples and downloads."),
    click.option("--encoding", help="Of texts that are not UTF-8, such as cp1252; found out where that is sure."),
    click.option("--allow-outside", is_flag=True, help="Read files that DATA names outside of its folder, too."),
)
device_options = grouped(
    click.option("--gpu", is_flag=True, help="Run on the GPU; an error where there is none. Same as --device cuda."),
    click.option(
        "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N, or several GPUs as cuda:0,cuda:1."
    ),
    click.option("--compile", is_flag=True, help="Run the encoders through torch.compile; for long jobs on a GPU."),
)
making_options = grouped(
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16"]),
        help="Of the encoders; auto takes bf16 where it is measured to be faster and as good.  [default: auto]",
    ),
    click.option(
        "--decoder",
        type=click.Choice(["pillow", "draft", "nvjpeg"]),
        help="Of pictures: draft reads large JPEGs at reduced size, nvjpeg on the GPU.  [default: pillow]",
    ),
    click.option(
        "--dtype", type=click.Choice(["float32", "float16"]), help="Of stored pooled vectors.  [default: float32]"
    ),
    click.option("--tokens", is_flag=True, default=None, help="Keep token vectors and image grids too, as float16."),
)
encoder_options = grouped(
    click.option("--text-model", help="BERT-like model by name or folder.  [default: bert-base-uncased]"),
    click.option("--image-model", help="Classification network of torchvision.  [default: resnet50]"),
    click.option("--image-weights", help="State dict (.pth, .safetensors); the official weights by default."),
    click.option(
        "--pooling", type=click.Choice(["mean", "cls"]), help="Text vector; both are stored.  [default: mean]"
    ),
    click.option("--max-length", type=int, help="Longest text in tokens; the model's own limit by default."),
    click.option("--audio-model", help="Of audio files: like wav2vec 2.0 or HuBERT, by name or folder; no default."),
    click.option("--max-seconds", type=int, help="Longest audio clip; the rest is cut off.  [default: 30]"),
    click.option("--random-init", metavar="SEED", help="Untrained weights: SEED, or text=SEED or image=SEED for one."),
    device_options,
)


tuning_options = grouped(
    click.option("--tune", help="Modalities whose encoders learn, such as text; text and image by default."),
    click.option("--head", default="linear", show_default=True, help="On top; any that is trained by gradient."),
    click.option(
        "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A parameter of the head; repeatable."
    ),
    click.option("--epochs", type=int, help="Passes over the data.  [default: 3; of small data what makes 240 steps]"),
    click.option("--batch-size", default=32, show_default=True, help="Rows a step (and process)."),
    click.option("--accumulate", default=1, show_default=True, help="Batches that are added up for one step."),
    click.option("--lr", metavar="PART=RATE,...", help="Learning rates.  [default: text=5e-5,image=1e-4,head=1e-3]"),
    click.option(
        "--schedule",
        type=click.Choice(["linear", "cosine", "constant", "plateau"]),
        default="linear",
        show_default=True,
        help="Of the learning rate; plateau, without a warm-up, lowers it when the watched loss stalls.",
    ),
    click.option("--warm-up", default=0.1, show_default=True, help="Share of the steps in which rates rise."),
    click.option("--weight-decay", default=0.01, show_default=True, help="Of the encoders; the head has its own."),
    click.option("--clip-norm", default=1.0, show_default=True, help="Largest norm of the gradient; 0 does not clip."),
    click.option("--patience", type=int, help="Watch held-out rows; stop after so many epochs without gain."),
    click.option("--freeze", metavar="MODALITY=N,...", help="Lowest parts that stay as they are."),
    click.option("--lora", default=0, metavar="RANK", help="Learn low-rank updates of a text model (needs peft)."),
    click.option("--augment", is_flag=True, help="Crop and mirror pictures at random."),
    click.option("--checkpointing", is_flag=True, help="Save memory in a text model by computing twice."),
    click.option(
        "--seed", type=SEED, default=0, show_default=True, help="Of folds, order, dropout and initial weights."
    ),
    click.option("--folds", default=5, show_default=True, help="Where the data gives no splits; the first is judged."),
    click.option("--cross-fit", type=int, metavar="K", help="Tune once a fold, so that all rows are judged."),
)


def parse_columns(value: str | None) -> dict[str, str]:
    """`text=title,image=img` as a dictionary."""
    pairs = [part.partition("=") for part in (value or "").split(",") if part]
    if not all(sign for _, sign, _ in pairs):
        raise click.UsageError(f"--columns takes role=column,..., got {value!r}")
    named = {role.strip(): column.strip() for role, _, column in pairs}
    if len(named) < len(pairs):
        raise click.UsageError(f"--columns names a role twice: {value!r}; several columns are text=title+body")
    return named


def parse_modalities(value: str | None) -> tuple[str, ...] | None:
    """`text,image` as a tuple; None where nothing is given, or `all`."""
    return parse_names(value) if value and value != "all" else None


def how_to_run(options: Mapping[str, Any]) -> dict[str, Any]:
    """Device and failure handling, as `extract.Settings` takes them."""
    device = options.get("device", "auto")
    if options.get("gpu") and device == "cpu":
        raise click.UsageError("--gpu and --device cpu contradict each other")
    device = "cuda" if options.get("gpu") and device == "auto" else device
    return {
        "device": device,
        "compile": options.get("compile", False),
        "fail_fast": options.get("on_error") == "fail",
        "max_failures": options.get("max_failures"),
        "retry_failed": options.get("retry_failed", False),
    }


def parse_seeds(value: str | None) -> dict[str, int]:
    """`7` as {"": 7}, `text=7` as {"text": 7}."""
    parts = [part.rpartition("=") for part in (value or "").split(",") if part]
    if not all(seed.strip().isdecimal() and int(seed) < 2**32 for _, _, seed in parts):
        raise click.UsageError(f"--random-init takes SEED or text=SEED or image=SEED, got {value!r}")
    return {modality.strip(): int(seed) for modality, _, seed in parts}


def read_data(data: str, options: Mapping[str, Any]) -> Manifest:
    """The data set that a command is given; with --download, what it names by address is fetched."""
    from extract import Manners, download, read_manifest

    given = options["columns"]
    columns = parse_columns(given) if given is None or isinstance(given, str) else given
    manifest = read_manifest(data, options["layout"], columns, options["allow_outside"], options["encoding"])
    chosen = parse_modalities(options.get("modalities"))
    manners = Manners(allow_private=options["allow_private"]) if options["download"] else None
    done = with_bars(lambda bars: download(manifest, chosen, manners, options["retry_failed"], bars))
    click.get_current_context().meta[DOWNLOADS] = done
    return manifest


def chosen_specs(
    options: Mapping[str, Any],
    modalities: Iterable[str],
    base: Mapping[str, Mapping[str, Any]],
    manifest: Manifest | None = None,
) -> tuple[EncoderSpec, ...]:
    """One encoder a modality, by the options of the command, else by those of a run in `base`, else by the data."""
    from extract import choose_specs, found_in

    text = {"model": "text_model", "output": "pooling", "max_length": "max_length"}
    image = {"model": "image_model", "weights": "image_weights", "decoder": "decoder"}
    audio = {"model": "audio_model", "max_length": "max_seconds"}
    kept = {"dtype": "dtype", "tokens": "tokens"}
    computed = {**kept, "precision": "precision"}
    fields = {"text": text | computed, "image": image | computed, "audio": audio | computed, "array": kept}
    given = {
        modality: {key: options[name] for key, name in names.items() if options.get(name) is not None}
        for modality, names in fields.items()
    }
    names = tuple(modalities)
    found = found_in(manifest, names) if manifest is not None else {}
    return choose_specs(names, given, parse_seeds(options.get("random_init")), base, found)


def tuning_wanted(options: Mapping[str, Any], manifest: Manifest, store: Path) -> Wanted:
    """What `finetune` is asked for."""
    from extract import Tuning
    from tuning import TUNABLE, Wanted

    specs = chosen_specs(options, parse_modalities(options["modalities"]) or manifest.modalities, {}, manifest)
    able = [spec.modality for spec in specs if spec.kind in TUNABLE]
    tune = parse_names(options["tune"]) or tuple(able)
    if not tune or not set(tune) <= set(able):
        shown = ", ".join(able) or "none"
        raise click.UsageError(f"--tune names {', '.join(tune) or 'nothing'}; encoders that can be tuned: {shown}")
    rates, params = parse_numbers("--lr", options["lr"], float), parse_assignments(options["assignments"])
    if "head" in rates:
        params["learning_rate"] = rates.pop("head")
    same = ("epochs", "batch_size", "accumulate", "schedule", "warm_up", "weight_decay", "patience", "lora", "augment")
    tuning = Tuning(
        **{name: options[name] for name in (*same, "checkpointing", "seed")},
        rates=rates,
        clip_norm=options["clip_norm"] or None,
        freeze=parse_numbers("--freeze", options["freeze"], int),
        precision=options["precision"] or "auto",
    )
    return Wanted(
        store=store,
        specs=specs,
        tune=tune,
        head=options["head"],
        params=params,
        tuning=tuning,
        task=options["task"],
        folds=options["cross_fit"] or options["folds"],
        cross_fit=options["cross_fit"] is not None,
        device=how_to_run(options)["device"],
        retry_failed=how_to_run(options)["retry_failed"],
    )


def parse_numbers(option: str, value: str | None, kind: type) -> dict[str, Any]:
    """`text=4,image=2` as a dictionary of numbers."""
    found = {}
    for part in (value or "").split(","):
        name, sign, number = part.partition("=")
        try:
            if sign:
                found[name.strip()] = kind(number)
        except ValueError:
            sign = ""
        if part and not sign:
            raise click.UsageError(f"{option} takes NAME=NUMBER,..., got {value!r}")
    return found


def parse_names(value: str | None) -> tuple[str, ...] | None:
    """`a,b` as a tuple; None where nothing is given."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if value is not None else None


def parse_repeats(value: str) -> tuple[int, ...]:
    """`3` as the seeds 0, 1, 2; `7,8` as these, and `7,` as this one."""
    try:
        numbers = [int(part) for part in value.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or not all(0 <= one < 2**32 for one in numbers) or ("," not in value and numbers[0] < 1):
        raise click.UsageError(f"--seeds takes how many, or seeds such as 7,8,9; got {value!r}")
    return tuple(numbers) if "," in value else tuple(range(numbers[0]))


def parse_by_head(values: Iterable[str]) -> dict[str, dict[str, Any]]:
    """`mlp.dropout=0.3` as {"mlp": {"dropout": 0.3}}."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in parse_assignments(values).items():
        head, dot, name = key.partition(".")
        if not dot:
            raise click.UsageError(f"--set takes HEAD.KEY=VALUE here, got {key}={value}")
        found.setdefault(head, {})[name] = value
    return found


def ablation_settings(options: Mapping[str, Any]) -> Settings:
    """What `ablate` is asked to compare."""
    from fuse import Settings

    controls = parse_names(options["controls"])
    return Settings(
        heads=parse_names(options["heads"]),
        params=parse_by_head(options["assignments"]),
        seeds=parse_repeats(options["seeds"]),
        split_seed=options["split_seed"],
        folds=options["folds"],
        task=options["task"],
        grid=options["grid"],
        controls=() if controls == ("none",) else controls,
        device="cuda" if options["gpu"] else "cpu",
    )


def parse_assignments(values: Iterable[str]) -> dict[str, Any]:
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


def with_bars(work: Callable[[Bars], Any]) -> Any:
    """What `work` returns; its progress bars are left in order whatever happens."""
    bars = Bars()
    try:
        return work(bars)
    finally:
        bars.close()
