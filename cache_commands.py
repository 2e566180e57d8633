"""The commands `pipeline.py cache ...`, which look after the feature store: they parse, call and print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from console import (
    SEED,
    StorePath,
    device_options,
    json_option,
    modalities_option,
    parse_modalities,
    store_option,
    with_bars,
)
from endings import finish
from flows import failed_files, verify_deep


@click.group()
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
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the rows for --deep.")
@device_options
@json_option
def cache_verify(store: Path, deep: int | None, as_json: bool, **options: Any) -> None:
    """Read every byte of the store and compare checksums, keys and rows. Exit code 1 if anything is wrong.

    Nothing in it is changed. The next `extract` sets damaged files aside and encodes their items again.
    """
    from cache import FeatureStore, finding_lines, verify_store

    if not deep and (options["name"] or options["data"]):
        raise click.UsageError("--name and --data go with --deep N; without it the whole store is read")
    result = with_bars(lambda bars: verify_store(FeatureStore(store), bars)).as_json()
    if deep and not result["findings"]:
        result["deep"] = verify_deep(store, deep, options)
        result["findings"] += result["deep"]["findings"]
    wrong = [f"{one['file']}: {one['problem']}" for one in result["findings"]]
    finish(as_json, result, finding_lines(result), failed_files(wrong, "files", 1))


@cache.command("compact")
@store_option
@json_option
def cache_compact(store: Path, as_json: bool) -> None:
    """Merge segments into few, in the order of the data sets, each item once."""
    from cache import FeatureStore, compact_store, compacted_lines

    result = with_bars(lambda bars: compact_store(FeatureStore(store), bars))
    finish(as_json, result, compacted_lines(result), failed_files(result["damaged"], "files", 3))


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
@click.argument("other", type=StorePath())
@store_option
@json_option
def cache_merge(other: Path, store: Path, as_json: bool) -> None:
    """Take over everything from the store OTHER that this store lacks. OTHER stays as it is."""
    from cache import FeatureStore, merge_stores

    result = with_bars(lambda bars: merge_stores(FeatureStore(store), FeatureStore(other), bars))
    line = (
        f"{result['items']} items, {result['bytes']} bytes, new data sets: {', '.join(result['data_sets']) or 'none'}"
    )
    finish(as_json, result, [f"{other} -> {store}: {line}"])


def parse_age(value: str) -> float:
    """`7d`, `12h`, `30m` or `0` in seconds."""
    units = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
    number, unit = (value[:-1], value[-1]) if value[-1:] in units else (value, "d")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise click.UsageError(f"--older-than takes a time such as 7d, 12h or 30m, got {value!r}")
    return seconds
