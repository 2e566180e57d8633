"""A view: one data set as rows of the store. It holds no vectors, only where they are.

`<name>.view.h5` keeps ids, labels, splits, groups and, for each modality, the item key, state
and row of every sample. It is all that stage two needs besides the segments. While a data set
is being encoded, `<name>.pending.h5` says which items it wants.
"""

from __future__ import annotations

import functools
import io
import json
import mmap
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.block import Block
from cache.errors import StoreDamaged
from cache.extent import own_texts, read_extent
from cache.files import check_held, hold, make_folder, write_sealed
from cache.key import canonical_json, digest
from cache.parts import Joined, Part, open_part
from cache.schema import KEY_DIGEST, PART_NAME, PARTS_SUFFIX, SCHEMA, SEGMENT_NAME, VIEW_SUFFIX
from cache.store import FeatureStore

if TYPE_CHECKING:
    import h5py

_TEXTS = ("ids", "labels", "split")
_ARRAYS = ("items", "state", "row")


@dataclass(frozen=True)
class View:
    """One data set: `n` samples in the order of the data.

    `columns` holds `ids`, `labels` and `split`, arrays of `n` strings (objects), empty where the data
    gives none, and `groups`, `int64 (n,)`: samples that must not be parted by a split share a number.
    `parts` are the files of the rows where they are too many for one.
    """

    name: str
    columns: Mapping[str, np.ndarray]
    blocks: Mapping[str, Block]
    source: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()

    def __len__(self) -> int:
        return sum(part.rows for part in self.parts) if self.parts else len(self.groups)

    @property
    def ids(self) -> np.ndarray:
        """Sample ids."""
        return self.columns["ids"]

    @property
    def labels(self) -> np.ndarray:
        """Labels; empty where there is none."""
        return self.columns["labels"]

    @property
    def split(self) -> np.ndarray:
        """Splits as the data gives them; empty where it gives none."""
        return self.columns["split"]

    @property
    def groups(self) -> np.ndarray:
        """`int64 (n,)`: samples that must stay together share a number."""
        return self.columns["groups"]

    @property
    def digest(self) -> str:
        """Digest of what the data set says: ids, labels, splits, groups and content; in parts, of their digests."""
        if self.parts:
            return digest(*(part.digest.encode() for part in self.parts))
        texts = canonical_json([self.columns[name].tolist() for name in _TEXTS])
        parts = [block.modality.encode() + block.items.tobytes() for block in self.blocks.values()]
        return digest(texts, self.groups.tobytes(), *parts)


def write_view(store: FeatureStore, view: View, pending: bool = False) -> None:
    """Writes a view durably; it replaces the one of the same name.

    Args:
        pending: write down only what the data set wants; whoever reads its view is not disturbed.
    """
    _write(store.pending_path(view.name) if pending else store.view_path(view.name), view)


def write_part(store: FeatureStore, number: int, view: View, run: str = "") -> Part:
    """Writes some rows of a data set durably, for a view that will name them.

    Args:
        store: the store.
        number: tells where they stand.
        view: these rows.
        run: hex digits that the file's name ends with; of one extraction's own files, which it may remove again.
    """
    folder = store.parts_path(view.name)
    make_folder(folder, "--store")
    content = digest(canonical_json(_about(view, _described)))
    name = f"{number:06d}-{content[:16]}{run}{VIEW_SUFFIX}"
    _write(folder / name, view)
    return Part(name, len(view), view.digest)


def read_part(store: FeatureStore, name: str, part: Part) -> View:
    """Some rows of the data set `name`. Raises CacheIncomplete where their file is gone, else as `read_view`."""
    return open_part(functools.partial(_read, name=name), store.parts_path(name) / part.file)


def _write(path: Path, view: View) -> None:
    def fill(file: h5py.File) -> dict[str, Any]:
        """Puts the view into an open file."""
        from h5py import string_dtype

        file.attrs["name"] = view.name
        for name in () if view.parts else _TEXTS:
            file.create_dataset(name, data=view.columns[name], dtype=string_dtype("utf-8"))
        # Its name: in another one's place it would pass for that data set.
        about = {"file": path.name} | _about(
            view, lambda name, values: {**_described(name, values), "offset": _put(file, name, values)}
        )
        for block in view.blocks.values():
            marks = {"encoder": block.encoder, "output": block.output, "dim": block.dim}
            file.require_group(f"blocks/{block.modality}").attrs.update(marks)  # for people who open the file
        raw = np.frombuffer(canonical_json(about), dtype=np.uint8)
        return {"about": {**_described("about", raw), "offset": _put(file, "about", raw)}}

    write_sealed(path, "view", fill)


def is_written(store: FeatureStore, view: View) -> bool:
    """Whether the store holds this very view, undamaged and in the present schema."""
    path = store.view_path(view.name)
    try:
        header, held = hold(path, "view")
        check_held(path, header, held)
    except (FileNotFoundError, StoreDamaged):
        return False
    if header["schema"] != SCHEMA:
        return False
    about = json.loads(_array(path, held, header["about"]).tobytes())
    if "parts" not in about:
        for extent in (about["groups"], *(array for block in about["blocks"] for array in block["arrays"].values())):
            del extent["offset"]
    return bool(about == json.loads(canonical_json({"file": path.name} | _about(view, _described))))


_Put = Callable[[str, np.ndarray], dict[str, Any]]


def _about(view: View, put: _Put) -> dict[str, Any]:
    """What a view's file says besides its name and its texts. `put` tells of each array what is written down."""
    about = {"digest": view.digest, "source": dict(view.source)}
    if view.parts:
        parts = [[part.file, part.rows, part.digest] for part in view.parts]
        return {**about, "parts": parts, "blocks": [_about_block(block) for block in view.blocks.values()]}
    blocks = [
        {
            **_about_block(block),
            "arrays": {name: put(f"blocks/{modality}/{name}", block.arrays[name]) for name in _ARRAYS},
        }
        for modality, block in view.blocks.items()
    ]
    return {**about, "groups": put("groups", view.groups), "blocks": blocks}


def _about_block(block: Block) -> dict[str, Any]:
    return {
        "modality": block.modality,
        "encoder": block.encoder,
        "output": block.output,
        "dim": block.dim,
        "spec": dict(block.spec),
        "segments": list(block.segments),
    }


def _described(_name: str, values: np.ndarray) -> dict[str, Any]:
    values = _plain(values)
    return {"shape": list(values.shape), "dtype": values.dtype.str, "crc32": zlib.crc32(values.tobytes())}


def _put(file: h5py.File, name: str, values: np.ndarray) -> int:
    offset: int = file.create_dataset(name, data=_plain(values)).id.get_offset()
    return offset


def _plain(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))


class _Held(Mapping[str, np.ndarray]):
    """Arrays and texts of a view's file, each read and checked when first asked for.

    The map is of the very file that was opened: a view of the same name that is written later
    changes nothing here. A pickled copy holds the arrays themselves.
    """

    def __init__(
        self, path: Path, header: Mapping[str, Any], held: mmap.mmap, extents: Mapping[str, Any], texts: Sequence[str]
    ) -> None:
        self._path = path
        self._header = header
        self._held = held
        self._extents = extents
        self._names = (*extents, *texts)
        self._read: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._read:
            if name in self._extents:
                self._read[name] = _array(self._path, self._held, self._extents[name])
            else:
                self._read.update(_texts(self._path, self._header, self._held))
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def _array(path: Path, held: mmap.mmap, content: Mapping[str, Any]) -> np.ndarray:
    extent = read_extent(path, content, len(held))
    raw = held[extent.offset : extent.offset + extent.nbytes] if extent.nbytes else b""
    if zlib.crc32(raw) != content.get("crc32"):
        raise StoreDamaged(f"{path} is damaged (its checksum does not fit); run extract again to replace it")
    return np.frombuffer(raw, dtype=extent.dtype).reshape(extent.shape)


def _texts(path: Path, header: Mapping[str, Any], held: mmap.mmap) -> dict[str, np.ndarray]:
    import h5py

    check_held(path, header, held)
    with h5py.File(io.BytesIO(held), "r") as file:
        return own_texts(path, file, _TEXTS)


def read_view(store: FeatureStore, name: str, pending: bool = False) -> View:
    """Opens a view; its arrays are read when they are asked for. Its rows may be outdated, see `refresh`.

    Raises:
        FileNotFoundError: there is none of that name.
        StoreDamaged: the file is not what was written; of an array, once it is asked for.
    """
    return _read(store.pending_path(name) if pending else store.view_path(name), name)


def _read(path: Path, name: str) -> View:
    header, held = hold(path, "view")
    if header["schema"] == 1:
        return _read_schema_1(path, name, header, held)
    try:
        about = json.loads(_array(path, held, header["about"]).tobytes())
        if about.get("file", path.name) != path.name:  # older views do not say
            raise StoreDamaged(
                f"{path} was written as {about['file']}, another data set or an unfinished one; give it its name "
                "back, or run extract again to replace it"
            )
        if "parts" in about:
            return _joined(path, name, about)
        blocks = {one["modality"]: _block(one, _Held(path, header, held, one["arrays"], ())) for one in about["blocks"]}
        columns = _Held(path, header, held, {"groups": about["groups"]}, _TEXTS)
        return View(name, columns, blocks, dict(about["source"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreDamaged(f"{path} is no view ({error!r}); run extract again to replace it") from error


def _block(content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Block:
    """A block as a view tells it. Raises ValueError where a name could lead out of the store."""
    names = [name for name, _ in content["segments"]]
    if not KEY_DIGEST.fullmatch(content["encoder"]) or not all(SEGMENT_NAME.fullmatch(name) for name in names):
        raise ValueError(f"it names the encoder {content['encoder']!r} and segments such as {names[:1]}")
    return Block(
        str(content["modality"]),
        content["encoder"],
        str(content["output"]),
        int(content["dim"]),
        arrays,
        tuple((name, crc) for name, crc in content["segments"]),
        dict(content["spec"]),
    )


def _joined(path: Path, name: str, about: Mapping[str, Any]) -> View:
    """A view in parts. Raises ValueError where a name could lead out of the store."""
    parts = tuple(Part(file, int(rows), str(said)) for file, rows, said in about["parts"])
    if not parts or not all(PART_NAME.fullmatch(part.file) for part in parts):
        raise ValueError(f"it names the parts {[part.file for part in parts[:1]]}")
    folder = path.with_name(f"{name}{PARTS_SUFFIX}")
    paths = [folder / part.file for part in parts]
    blocks = {}
    for one in about["blocks"]:
        arrays_of = functools.partial(_arrays_of, name, one["modality"], one["encoder"])
        blocks[one["modality"]] = _block(one, Joined(paths, _ARRAYS, arrays_of))
    columns = Joined(paths, (*_TEXTS, "groups"), functools.partial(_columns_of, name))
    return View(name, columns, blocks, dict(about["source"]), parts)


def _columns_of(name: str, path: Path) -> Mapping[str, np.ndarray]:
    return _read(path, name).columns


def _arrays_of(name: str, modality: str, encoder: str, path: Path) -> Mapping[str, np.ndarray]:
    block = _read(path, name).blocks.get(modality)
    if block is None or block.encoder != encoder:
        raise StoreDamaged(f"{path} is no part of a data set with {modality} of {encoder}; run extract again")
    return block.arrays


def check_view(store: FeatureStore, name: str, pending: bool = False) -> View:
    """Opens a view and reads every byte of it; raises as `read_view`, and at once.

    Raises:
        StoreDamaged: a file of its rows is gone: without it the view must not pass for one that was removed.
    """
    path = store.pending_path(name) if pending else store.view_path(name)
    while True:
        check_held(path, *hold(path, "view"))
        view = read_view(store, name, pending)
        try:
            for part in part_paths(store, view):
                check_held(part, *hold(part, "view"))
        except FileNotFoundError as error:
            if read_view(store, name, pending).parts != view.parts:  # extracted anew in this moment
                continue
            raise StoreDamaged(
                f"{error.filename} is gone, and {path} names it; run extract again to write it, or remove {path} if "
                "the data set is not wanted any more"
            ) from error
        return view


def part_paths(store: FeatureStore, view: View) -> list[Path]:
    """The files of a view's parts."""
    return [store.parts_path(view.name) / part.file for part in view.parts]


def _read_schema_1(path: Path, name: str, header: Mapping[str, Any], held: mmap.mmap) -> View:
    """Views of the first version keep everything in HDF5, and no checksums of segments."""
    import h5py

    check_held(path, header, held)
    with h5py.File(io.BytesIO(held), "r") as file:
        columns = own_texts(path, file, _TEXTS) | {"groups": file["groups"][...]}
        blocks = {}
        for modality in json.loads(file.attrs["blocks"]):
            group = file[f"blocks/{modality}"]
            if not KEY_DIGEST.fullmatch(str(group.attrs["encoder"])):
                raise StoreDamaged(f"{path} names the encoder {group.attrs['encoder']!r}; move it out of the store")
            blocks[modality] = Block(
                modality,
                str(group.attrs["encoder"]),
                str(group.attrs["output"]),
                int(group.attrs["dim"]),
                {key: group[key][...] for key in _ARRAYS},
                spec=json.loads(group.attrs["spec"]),
            )
        return View(name, columns, blocks, json.loads(file.attrs["source"]))


def wanted_items(store: FeatureStore) -> dict[str, np.ndarray]:
    """By encoder digest, the item keys that views and pending views name, `uint8 (n, 16)`.

    They follow each other as in the data sets; an item may stand in it several times. Items that
    failed are among them, for a later run may encode them.

    Raises:
        StoreDamaged: a view cannot be read: what it names is not known.
    """
    views = [view for name in store.pending() if (view := _still_there(store, name, True)) is not None]
    # Views second: an extraction that ends meanwhile publishes its view before it removes the pending one.
    views += [view for name in store.names() if (view := _still_there(store, name, False)) is not None]
    found: dict[str, list[np.ndarray]] = {}
    for block in (block for view in views for block in view.blocks.values()):
        found.setdefault(block.encoder, []).append(block.items[block.items.any(axis=1)])
    return {encoder: np.concatenate(items) for encoder, items in found.items()}


def _still_there(store: FeatureStore, name: str, pending: bool) -> View | None:
    try:
        return check_view(store, name, pending)
    except FileNotFoundError:  # removed or completed since it was listed
        return None
