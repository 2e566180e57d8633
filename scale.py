"""`extract` on data sets that need not fit into memory: in shards, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from console import chosen_specs, grouped, how_to_run, parse_columns, parse_modalities, read_data, with_bars
from endings import finish
from flows import failed_in

if TYPE_CHECKING:
    from extract import EncoderSpec, Engine, Manifest, Shard

SHARD_ROWS = 50_000
"""Rows of a shard on a cluster, where nothing is said."""

cluster_options = grouped(
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Who encodes: this machine, or a cluster (needs Ray; see docs/scale.md).",
    ),
    click.option("--shard-rows", type=click.IntRange(1), help="Read DATA in shards of about so many rows, not whole."),
    click.option("--address", help="Of a running cluster of Ray; auto for this machine's. One is started by default."),
    click.option("--workers", type=int, help="Of a cluster: so many encode at most; as many as it has by default."),
    click.option("--gpus-per-worker", type=float, help="Of a cluster.  [default: 1 where GPUs are used]"),
)


def in_shards(options: Mapping[str, Any]) -> bool:
    """Whether DATA is read in shards. Raises UsageError for what does not go together."""
    alone = [name for name in ("address", "workers", "gpus_per_worker") if options[name] is not None]
    if options["engine"] == "local" and alone:
        raise click.UsageError(f"--{alone[0].replace('_', '-')} is of a cluster: it needs --engine ray")
    found = options["engine"] == "ray" or options["shard_rows"] is not None
    if found and options["finetune"]:
        raise click.UsageError(
            "encoders are tuned on data as a whole: leave out --shard-rows and --engine ray, or tune them by finetune "
            "first and give the run by --finetuned"
        )
    return found


def extract_in_shards(data: str, store: Path, name: str, as_json: bool, options: Mapping[str, Any]) -> None:
    """Encodes, and tells what was done."""
    from extract import Settings, extract_shards, extraction_lines, extraction_result

    started = time.perf_counter()
    shards = _shards(data, options)
    # A tar may hold nothing.
    first = next((held for shard in shards if (held := shard.read()).samples), None) or shards[0].read()
    specs, judged = _specs(first, options)
    settings = Settings(store, name, specs, **how_to_run(options))
    read = time.perf_counter() - started
    with _engine(options) as engine:
        connected = time.perf_counter() - started - read
        found = with_bars(lambda bars: extract_shards(shards, settings, engine, bars, judged))
    seconds = time.perf_counter() - started
    result = extraction_result(found.done, store, read, seconds)
    result |= {"engine": options["engine"], "shards": len(shards), "start_seconds": round(connected, 3)}
    lines = extraction_lines(found.manifest, found.done, store, seconds, found.labels)
    if options["finetuned"]:
        result["finetuned"] = str(options["finetuned"])
        lines = [f"encoders of {options['finetuned']}", *lines]
    finish(as_json, result, lines, failed_in([found.done], store))


def _specs(first: Manifest, options: Mapping[str, Any]) -> tuple[tuple[EncoderSpec, ...], frozenset[str] | None]:
    """The encoders, and of tuned ones the ids of the rows that judged them."""
    modalities = parse_modalities(options["modalities"]) or first.modalities
    run, judged = options["finetuned"], None
    if run is None:
        specs = chosen_specs(options, modalities, {}, first)
    else:
        from tuned import specs_with, tuned_whole

        fold = tuned_whole(run)
        specs = specs_with(run, fold, modalities, lambda names, base: chosen_specs(options, names, base, first))
        judged = frozenset(fold.test)
    # Columns of tables are settled by all rows, not by those of the first shard.
    return tuple(replace(spec, columns=()) for spec in specs), judged


def _shards(data: str, options: Mapping[str, Any]) -> list[Shard]:
    """With --download the whole manifest is read, and what it names by address is fetched."""
    from extract import at_address, is_remote, parted, shards_of

    rows = options["shard_rows"] or SHARD_ROWS
    if options["download"] and at_address(data):
        raise click.UsageError(
            f"--download keeps what it fetches beside the data, and {data} is an address: write pictures into the "
            "Parquet files or tars themselves, or copy the data to a disk"
        )
    if options["download"]:  # by absolute paths, for a cluster's workers work elsewhere
        return parted(read_data(data if is_remote(data) else str(Path(data).absolute()), options), rows)
    columns = parse_columns(options["columns"])
    return shards_of(data, rows, options["layout"], columns, options["allow_outside"], options["encoding"])


@contextlib.contextmanager
def _engine(options: Mapping[str, Any]) -> Iterator[Engine]:
    from extract import Local, RayEngine, RayOptions

    run = how_to_run(options)
    if options["engine"] == "local":
        yield Local(run["device"], run["compile"])
        return
    cluster = RayOptions(options["address"], options["workers"], options["gpus_per_worker"])
    with contextlib.closing(RayEngine(cluster, run["device"], run["compile"])) as engine:
        yield engine
