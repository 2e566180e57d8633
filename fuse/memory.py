"""Whether a fit finds room in memory, and what is done where it does not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import cho_factor

from cache import DataSet, FeatureTable, PipelineError, UsageError, listing, tables_of
from fuse.estimators import FusionHead
from fuse.gradient import GradientHead
from fuse.inputs import float_of
from fuse.registry import HEADS, find_head, modalities_of

IN_MEMORY, OUT_OF_CORE, REFUSED = "in memory", "out of core", "refused"

SAID = "what was said by --memory"

PREDICTED_COPIES = 5.0
"""Bytes of a prediction in memory, as multiples of the vectors' bytes: read, scaled, and in float64."""

PREDICTED_BYTES = 2**22
"""Vectors that are predicted at once where not all find room."""


LIBRARIES_BYTES = 2**28
"""Linear algebra is tried out only where there is so much: its own buffers are half of that."""

NETWORK_BYTES, LINEAR_BYTES = 100_000_000, 50_000_000
"""What a fit out of core takes beside torch and the labels; linear heads also 8 bytes for each pair of columns."""


class TooLarge(PipelineError, MemoryError):
    """A head that needs all vectors in memory, where they do not fit."""


@dataclass(frozen=True)
class Room:
    """Bytes that this process may still take, and what bounds them."""

    bytes: float
    bound: str


@dataclass(frozen=True)
class Planned:
    """A data set and how a head is to take its vectors; from `plan_fit`.

    Attributes:
        data: with the modalities that the head reads.
        needed: bytes that a fit in memory takes.
        room: what there is.
        out_of_core: whether vectors stay on disk.
    """

    data: DataSet
    needed: int
    room: Room
    out_of_core: bool

    @property
    def line(self) -> str:
        """What the user is told where vectors stay on disk."""
        return (
            f"out of core: a fit in memory takes {in_bytes(self.needed)}, there are {in_bytes(self.room.bytes)} "
            f"({self.room.bound}); vectors stay on disk, which is slower: linear heads come to the same optimum, "
            "networks see the rows in another order"
        )


def decide(needed: float, room: float, able: bool) -> str:
    """`in memory` where it fits, else `out of core` for heads that can, else `refused`; bytes."""
    if needed <= room:
        return IN_MEMORY
    return OUT_OF_CORE if able else REFUSED


def plan_fit(
    data: DataSet, head: str, params: Mapping[str, Any] | None = None, memory: float | str | None = None
) -> Planned:
    """How a head will take a data set.

    Args:
        data: features; rows without a label do not count.
        head, params: as `run_head` takes them.
        memory: bytes that the fit may take, as a number or with a unit, see `read_bytes`; None takes what is found.

    Raises:
        TooLarge: it does not fit, and the head cannot do without.
        UsageError: unknown head, or `memory` is no number of bytes.
    """
    data = data.select(modalities_of(head, params or {}, data.modalities))
    kind = find_head(head).any_class
    needed = round(vector_bytes(tables_of(data)[0], int(data.labelled.sum())) * kind.copies)
    memory = read_bytes(memory) if isinstance(memory, str) else memory
    there = room_for(kind) if memory is None else Room(memory, SAID)
    decided = decide(needed, there.bytes, kind.out_of_core)
    if decided == REFUSED:
        able = [name for name, one in HEADS.items() if one.any_class.out_of_core]
        raise TooLarge(
            f"the head {head!r} needs all vectors in memory, some {in_bytes(needed)} in all, and there are "
            f"{in_bytes(there.bytes)} ({there.bound}). Heads that can leave them on disk: {listing(able, 99)}. "
            "Or say by --memory that there is more, or take fewer --modalities"
        )
    if decided == OUT_OF_CORE and memory is None:
        _check_least(kind, tables_of(data)[0].shape[1], there)
    return Planned(data, needed, there, decided == OUT_OF_CORE)


def _check_least(kind: type[FusionHead], columns: int, there: Room) -> None:
    least = NETWORK_BYTES if issubclass(kind, GradientHead) else LINEAR_BYTES + 8 * columns**2
    if there.bytes < least:
        raise TooLarge(
            f"{kind.__name__} takes some {in_bytes(least)} even where vectors stay on disk, and there are "
            f"{in_bytes(there.bytes)} ({there.bound}); raise the limit, or end what else takes memory"
        )


def rows_at_once(model: FusionHead, table: FeatureTable, memory: float | None = None) -> int:
    """How many rows of a table are to be predicted at once: all of them, where they find room.

    Args:
        model: a fitted head.
        table: the rows.
        memory: as `plan_fit` takes it.
    """
    there = room_for(type(model)).bytes if memory is None else memory
    if decide(vector_bytes(table, len(table)) * PREDICTED_COPIES, there, True) == IN_MEMORY:
        return max(1, len(table))
    return part_rows(table)


def part_rows(table: FeatureTable) -> int:
    """How many rows are predicted at once where not all find room."""
    return max(1, PREDICTED_BYTES // vector_bytes(table, 1))


def vector_bytes(table: FeatureTable, rows: int) -> int:
    """Bytes of so many rows of a table as heads take them."""
    return rows * table.shape[1] * float_of(table.dtype).itemsize


def read_bytes(text: str) -> int:
    """A number of bytes with a unit, such as `500MB`, or `1.5GiB` in powers of 1024.

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]?)(i?)b?", text.strip().lower())
    if found is None or not float(found[1]):
        raise UsageError(f"{text!r} is no number of bytes above 0; write it as 500MB, 2GB or 1.5GiB")
    return round(float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " "))


def in_bytes(number: float) -> str:
    """A number of bytes for people."""
    if np.isinf(number):
        return "no limit"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} bytes"


def room_for(kind: type[FusionHead]) -> Room:
    """What there is for a head of this kind, once the libraries that it computes with have taken theirs."""
    if issubclass(kind, GradientHead):
        from fuse.training import warm_up

        warm_up()
    if room().bytes > LIBRARIES_BYTES:
        # Either OpenBLAS takes a buffer of 64 MB at its first product, and waits for ever where it gets none.
        square = np.eye(256)
        cho_factor(square @ square)
    return room()


def room(root: Path = Path("/")) -> Room:
    """The least of: memory that the machine has free, what the cgroup leaves, what resource limits leave.

    Args:
        root: where `proc` and `sys` lie.
    """
    found = [*_free(root), *_cgroup(root), *_limits(root)]
    return min(found, key=lambda one: one.bytes, default=Room(np.inf, "nothing bounds it that this system tells"))


def _free(root: Path) -> list[Room]:
    text = _read(root / "proc/meminfo")
    kilobytes = [int(line.split()[1]) for line in text.splitlines() if line.startswith("MemAvailable:")]
    return [Room(number * 1024, "free on this machine") for number in kilobytes]


def _limits(root: Path) -> list[Room]:
    try:
        import resource
    except ImportError:  # Windows has none
        return []
    sizes = dict(line.split(":", 1) for line in _read(root / "proc/self/status").splitlines() if ":" in line)
    found = []
    for name, used in (("RLIMIT_DATA", "VmData"), ("RLIMIT_AS", "VmSize")):
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit != resource.RLIM_INFINITY and used in sizes:
            left = limit - int(sizes[used].split()[0]) * 1024
            found.append(Room(max(0, left), f"what {name} leaves of {in_bytes(limit)}"))
    return found


def _cgroup(root: Path) -> list[Room]:
    """What each control group from this process's own up to the root leaves, of version 2 or 1."""
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            names, top = ("memory.max", "memory.current", ""), root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            top = root / "sys/fs/cgroup/memory"
        else:
            continue
        own = Path(path.lstrip("/"))
        found += [left for part in (own, *own.parents) for left in _left(top / part, *names)]
    return found


def _left(folder: Path, limit: str, used: str, prefix: str) -> list[Room]:
    """Pages of files that nobody changed are counted as used, but make room when it is wanted."""
    most, now = _read(folder / limit).strip(), _read(folder / used).strip()
    if not most.isdigit() or not now.isdigit():  # "max" is no limit
        return []
    stat = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
    files = sum(int(stat.get(f"{prefix}{name}", 0)) for name in ("active_file", "inactive_file"))
    return [
        Room(max(0, int(most) - max(0, int(now) - files)), f"what the control group leaves of {in_bytes(int(most))}")
    ]


def _read(path: Path) -> str:
    """The text of a file of the kernel; empty where this system has none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
