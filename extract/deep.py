"""Encodes stored items again, to see that the store holds what the encoders give."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from cache import (
    TOKENS,
    Block,
    DataError,
    FeatureStore,
    FeatureTable,
    ModelError,
    Progress,
    Ragged,
    Values,
    read_view,
    silent,
    table_of,
)
from extract.contents import read_contents
from extract.datasets import read_again
from extract.decode import DecodeError
from extract.encoders import build_encoder
from extract.encoders.spec import EncoderSpec, decode_light, stored_dtype
from extract.manifest import Content

_ANEW = "move the .h5 files of the folder out of the store and run extract again to encode all anew"
TOLERANCE = {"float32": 1e-4, "float16": 2e-3, "bfloat16": 3e-2}
"""Largest difference that batches, devices and rounding explain, beside vectors of the size of 1."""


def verify_by_encoding(
    store: str | Path,
    rows: int,
    name: str | None = None,
    data: str | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Encodes random rows of a data set again, each by itself, and compares with what is stored.

    Args:
        store: the store's folder.
        rows: how many of each modality.
        name: the data set; may be left out when the store holds only one.
        data: where its data lies now; where it was when it was extracted by default.
        device: as for `extract`.
        seed: of the choice of rows.
        progress: told after each row.

    Returns:
        `name`, `rows` (that were compared), `changed` (whose content is gone or another one now),
        `largest_difference` (of any value, divided by the largest value of its vector or 1), `findings`.

    Raises:
        DataError: the data cannot be read, or holds none of the rows.
        ModelError: an encoder is not to be had any more, or is another one now.
    """
    opened = FeatureStore(store)
    name = opened.choose_view(name)
    view = read_view(opened, name)
    manifest = read_again(view.source, data)
    result: dict[str, Any] = {"name": name, "rows": 0, "changed": 0, "largest_difference": 0.0, "findings": []}
    table = table_of(opened, view)
    contents = read_contents(manifest.samples, list(view.blocks), progress)
    for modality, block in view.blocks.items():
        places = contents[modality].places
        again = _Again(block, device)
        samples = np.random.default_rng(seed).permutation(np.flatnonzero(block.present))[:rows]
        for number, sample in enumerate(samples.tolist(), 1):
            place = places.get(block.items[sample].tobytes())
            if place is None:
                result["changed"] += 1
                continue
            difference, problem = again.compare(table[[sample]], place)
            result["rows"] += difference is not None
            result["largest_difference"] = max(difference or 0.0, result["largest_difference"])
            if problem:
                result["findings"].append({"file": str(opened.encoder(block.encoder).folder), "problem": problem})
            progress(f"encode {modality} again", number, len(samples))
    if not result["rows"] and not result["findings"]:
        raise DataError(f"{manifest.path} holds none of the contents from which {name} was made; give --data")
    return result


class _Again:
    """The encoder of a block, once more."""

    def __init__(self, block: Block, device: str) -> None:
        self._block = block
        from extract.runtime import choose_runtime

        self._encoder = build_encoder(EncoderSpec.from_json(block.spec), choose_runtime(device))
        if self._encoder.key.digest != block.encoder:
            raise ModelError(
                f"{block.spec['model']} has the key {self._encoder.key.digest} now, the {block.modality} vectors were "
                f"made by {block.encoder}: other weights, tokenizer or preprocessing; nothing can be compared"
            )

    def compare(self, row: FeatureTable, place: Content) -> tuple[float | None, str]:
        """The largest difference of one stored row, None if none can be had; and what is wrong, or an empty text."""
        stored: dict[str, Values] = {self._block.output: row.block(self._block.modality)}
        if row.has_tokens(self._block.modality):
            stored[TOKENS] = row.tokens(self._block.modality)
        name = f"{self._block.modality} of {row.ids[0]}"
        try:
            found = self._encode(place)
        except DecodeError as error:
            return None, f"{name} is stored, but cannot be decoded now: {error}"
        differences = {output: _difference(values, found[output]) for output, values in stored.items()}
        largest = max(differences.values())
        for output, difference in differences.items():
            fields = self._encoder.key.fields
            if difference > max(TOLERANCE[stored_dtype(fields, output).name], TOLERANCE[fields["compute"]]):
                return largest, f"{name} differs by {largest:.3g} from what its encoder gives now; {_ANEW}"
        return largest, ""

    def _encode(self, place: Content) -> dict[str, Values]:
        lights, _ = self._encoder.prepare([place])
        return self._encoder.encode([decode_light(self._encoder, lights[0])])


def _difference(stored: Values, found: Values) -> float:
    one, two = (np.asarray(_flat(part), dtype=np.float64) for part in (stored, found))
    difference = float(np.abs(one - two).max() / max(1.0, np.abs(two).max()))
    return difference if np.isfinite(difference) else sys.float_info.max  # JSON knows no infinity


def _flat(values: Values) -> np.ndarray:
    return values.values if isinstance(values, Ragged) else values
