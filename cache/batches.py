"""Which items are encoded together, written down before the first of them is.

Rounding depends on a batch's shape. A run that goes on where a killed one stopped, or that
encodes damaged vectors again, takes the batches that were planned then, so that it gets the
same bits on the same machine.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import StoreDamaged
from cache.files import TEMPORARY_PREFIX, check_held, hold, write_sealed
from cache.key import ITEM_BYTES, digest, pack_items, unpack_items
from cache.ragged import offsets_of
from cache.schema import PLAN_SUFFIX

if TYPE_CHECKING:
    import h5py

Batch = list[bytes]
"""Item keys in the order in which they stand in the batch."""


def plan_paths(folder: Path, of: str = "") -> list[Path]:
    """The plans in an encoder's folder; those of the data that is named, if one is."""
    if not folder.is_dir():
        return []
    paths = folder.glob(f"{of}*{PLAN_SUFFIX}")
    return sorted(path for path in paths if not path.name.startswith(TEMPORARY_PREFIX))


def write_batches(folder: Path, batches: Sequence[Batch], of: str = "") -> bool:
    """Writes a plan durably. Equal plans have one name: False if another process has written the very same.

    Args:
        folder: the encoder's folder.
        batches: the plan.
        of: what data it is of, hex digits; then it can be found without reading all plans.

    Raises:
        StoreError: the folder cannot be written.
    """
    packed = pack_items(item for batch in batches for item in batch)
    offsets = offsets_of(np.array([len(batch) for batch in batches], dtype=np.int64))
    path = folder / f"{of}{digest(packed.tobytes(), offsets.tobytes())}{PLAN_SUFFIX}"
    if path.exists():
        return False

    def fill(file: h5py.File) -> dict[str, Any]:
        places = {}
        for name, values in (("items", packed), ("offsets", offsets.astype("<i8"))):
            places[name] = [file.create_dataset(name, data=values).id.get_offset(), values.nbytes]
        return {"places": places}

    try:
        write_sealed(path, "plan", fill, first=True)
    except FileExistsError:
        return False
    return True


def read_batches(path: Path) -> list[Batch]:
    """The batches of one plan.

    Raises:
        FileNotFoundError, StoreDamaged, StoreError: as for every sealed file.
    """
    header, held = hold(path, "plan")
    check_held(path, header, held)
    try:
        raw = {name: held[start : start + length] for name, (start, length) in header["places"].items()}
        offsets = np.frombuffer(raw["offsets"], dtype="<i8")
        items = unpack_items(np.frombuffer(raw["items"], dtype=np.uint8).reshape(-1, ITEM_BYTES))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreDamaged(f"{path} is no plan ({error!r}); run extract again to replace it") from error
    return [items[start:stop] for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]


def standing_batches(
    folder: Path, missing: Collection[bytes], refused: Collection[bytes] = (), of: str = ""
) -> list[Batch]:
    """Planned batches of which nothing is stored yet; no item stands in two of them.

    Args:
        folder: the encoder's folder.
        missing: items that are to be encoded.
        refused: items that are known to be broken. In a batch they keep their place.
        of: what data plans are of; all are looked at by default.
    """
    free = {*missing, *refused}
    wanted = set(missing)
    batches = []
    for path in plan_paths(folder, of):
        try:
            planned = read_batches(path)
        except FileNotFoundError:  # collected by another process
            continue
        for batch in planned:
            if free.issuperset(batch) and not wanted.isdisjoint(batch):
                free.difference_update(batch)
                batches.append(batch)
    return batches
