"""Writes a data set with its features to one file that needs nothing of this project."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import UsageError, listing
from cache.files import replacing
from cache.table import FeatureTable

ROWS_AT_ONCE = 8192


def export_table(table: FeatureTable, path: str | Path) -> None:
    """Writes ids, labels, splits, groups and, of each modality, features and mask.

    The suffix says how: `.npz` (arrays `ids`, `labels`, `split`, `groups`, and `M`, `M_mask` for each modality M),
    `.h5` (datasets of the same names, and the provenance as attributes) or `.parquet` (one row a sample, features
    as lists). Features of a row that lacks the modality are zeros in arrays, and null in Parquet. Tokens, where there
    are some, become `M_tokens` `(sum_T, D)` and `M_offsets` `(n + 1,)`; Parquet leaves them out.

    Raises:
        UsageError: another suffix, or pyarrow is not installed.
        StoreError: the file cannot be written.
    """
    target = Path(path)
    write = WRITERS.get(target.suffix)
    if write is None:
        raise UsageError(f"{target} ends in none of {listing(list(WRITERS))}, which say how to write it")
    with replacing(target) as temporary:
        write(table, temporary)


def _columns(table: FeatureTable) -> dict[str, np.ndarray]:
    return {"ids": table.ids, "labels": table.labels, "split": table.split, "groups": table.groups}


def _tokens(table: FeatureTable, modality: str) -> dict[str, np.ndarray]:
    if not table.has_tokens(modality):
        return {}
    tokens = table.tokens(modality)
    return {f"{modality}_tokens": tokens.values, f"{modality}_offsets": tokens.offsets}


def _write_npz(table: FeatureTable, path: Path) -> None:
    arrays = _columns(table)
    for name, mask in table.masks.items():
        arrays[name] = table.block(name)
        arrays[f"{name}_mask"] = mask
        arrays.update(_tokens(table, name))
    np.savez(path, **arrays)  # type: ignore[arg-type]  # no name of ours is savez's own allow_pickle


def _write_h5(table: FeatureTable, path: Path) -> None:
    import h5py

    text_type = h5py.string_dtype("utf-8")
    with h5py.File(path, "w") as file:
        for name, values in _columns(table).items():
            text = values.dtype.kind == "U"
            file.create_dataset(name, data=values.astype(object) if text else values, dtype=text_type if text else None)
        for name, mask in table.masks.items():
            columns = table.blocks[name]
            shape = (len(table), columns.stop - columns.start)
            features = file.create_dataset(name, shape=shape, dtype=table[:0].block(name).dtype)
            for start in range(0, len(table), ROWS_AT_ONCE):
                part = table[start : start + ROWS_AT_ONCE].block(name)
                features[start : start + len(part)] = part
            features.attrs.update(_provenance(table, name))
            for part_name, values in {f"{name}_mask": mask, **_tokens(table, name)}.items():
                file.create_dataset(part_name, data=values)
        file.attrs.update({"name": table.name, "digest": table.view.digest})


def _write_parquet(table: FeatureTable, path: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow: pip install pyarrow; or export to .npz or .h5") from error
    columns = _columns(table)
    about = {f"encode_once.{name}": json.dumps(_provenance(table, name)) for name in table.modalities}
    writer = None
    for start in range(0, max(len(table), 1), ROWS_AT_ONCE):
        part = table[start : start + ROWS_AT_ONCE]
        rows = slice(start, start + len(part))
        arrays: dict[str, Any] = {name: pyarrow.array(values[rows]) for name, values in columns.items()}
        for name, mask in part.masks.items():
            arrays[name] = _lists(pyarrow, part.block(name), mask)
        batch = pyarrow.table(arrays).replace_schema_metadata(about)
        writer = writer or parquet.ParquetWriter(path, batch.schema)
        writer.write_table(batch)
    if writer is not None:
        writer.close()


def _lists(pyarrow: Any, values: np.ndarray, mask: np.ndarray) -> Any:
    """Rows as lists, null where the mask is False."""
    flat = pyarrow.array(np.ascontiguousarray(values[mask]).ravel())
    offsets = np.concatenate([[0], np.cumsum(mask)]) * values.shape[1]
    return pyarrow.ListArray.from_arrays(pyarrow.array(offsets, type=pyarrow.int32()), flat, mask=pyarrow.array(~mask))


def _provenance(table: FeatureTable, modality: str) -> dict[str, str]:
    block = table.view.blocks[modality]
    return {"encoder": block.encoder, "output": block.output, "spec": json.dumps(dict(block.spec), sort_keys=True)}


WRITERS: dict[str, Callable[[FeatureTable, Path], None]] = {
    ".npz": _write_npz,
    ".h5": _write_h5,
    ".parquet": _write_parquet,
}
