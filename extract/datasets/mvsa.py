"""The layout of MVSA and of the ECNU course data: a file a text, a file a picture, lists of ids.

    posts/
      data/1.txt  data/1.jpg  data/2.txt  data/2.jpg ...
      train.txt                  guid,tag        1,positive
      test_without_label.txt     guid,tag        2,null        (may be absent)

Texts are UTF-8 or GB18030, mixed. DATA is `posts`, or `posts/data`, or one of the lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from cache import DataError, UsageError, listing
from extract.datasets.lines import csv_rows
from extract.decode import DecodeError, decode_text
from extract.manifest import Content, Manifest, Sample, checked_manifest, inside

LISTS = ("train.txt", "test_without_label.txt")
PICTURES = (".jpg", ".jpeg", ".png")
EXPECTS = "a folder with data/<id>.txt, data/<id>.jpg and train.txt (lines of guid,tag)"
NO_LABEL = ("", "null")


def recognise(path: Path) -> bool:
    """Whether the path is such a folder, its `data/`, or one of its lists."""
    return _lists(path) is not None


def _lists(path: Path) -> tuple[list[Path], Path] | None:
    """The lists to read and the folder of texts and pictures, or None where it is no such data set."""
    if path.is_file():
        folder = path.parent / "data"
        return ([path], folder) if path.suffix == ".txt" and folder.is_dir() else None
    root = path if (path / LISTS[0]).is_file() else path.resolve().parent
    folder = root / "data"
    if not (root / LISTS[0]).is_file() or not folder.is_dir():
        return None
    if root != path and path.resolve() != folder.resolve():
        return None
    return [root / name for name in LISTS if (root / name).is_file()], folder


def read(path: Path, columns: Mapping[str, str]) -> Manifest:
    """Reads the data set; rows keep the order of the lists.

    Raises:
        DataError: it is no such folder, or rows are bad (all are listed).
        UsageError: columns were named, of which this layout has none.
    """
    if columns:
        raise UsageError("--columns is for tables; the layout mvsa has none")
    found = _lists(path)
    if found is None:
        raise DataError(f"{path} is not laid out as mvsa; expected {EXPECTS}")
    lists, folder = found
    samples: list[Sample] = []
    problems: list[str] = []
    for listed in lists:
        for line, name, tag in _rows(listed, problems):
            where = f"{listed.name} line {line}"
            base = inside(folder, name)
            if base is None or base.parent != folder:
                problems.append(f"{where}: the id {name!r} is not the name of a file in {folder.name}/")
                continue
            text, picture = folder / f"{name}.txt", _picture(folder, name)
            strays = [one.name for one in (text, picture) if one.is_symlink() and inside(folder, one.name) is None]
            if strays:
                problems.append(f"{where}: {listing(strays)} leads out of {folder}; see --allow-outside")
                continue
            try:
                inputs: dict[str, Content] = {**_text(text), "image": picture}
            except DecodeError as error:
                problems.append(f"{where}: {name}.txt: {error}")
                continue
            except OSError as error:
                problems.append(f"{where}: the files of {name[:40]!r} cannot be read: {error.strerror}")
                continue
            label = "" if tag.lower() in NO_LABEL else tag
            samples.append(Sample(name, inputs, label, line=line, file=listed.name))
    return checked_manifest(path, "mvsa", samples, problems, {"lists": [listed.name for listed in lists]})


def _rows(listed: Path, problems: list[str]) -> Iterator[tuple[int, str, str]]:
    try:
        text = decode_text(listed.read_bytes())
    except (OSError, DecodeError) as error:
        raise DataError(f"{listed} cannot be read: {error}") from error
    for number, row in csv_rows(listed, text, ","):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and cells[0].lower() in ("guid", "id")):
            continue
        if len(cells) != 2:
            problems.append(f"{listed.name} line {number}: expected guid,tag, found {len(cells)} cells")
            continue
        yield number, cells[0], cells[1]


def _text(path: Path) -> dict[str, str]:
    """The text as a modality; nothing where the file is missing or holds no more than spaces."""
    try:
        text = decode_text(path.read_bytes(), legacy="gb18030").strip()
    except FileNotFoundError:
        return {}
    return {"text": text} if text else {}


def _picture(folder: Path, name: str) -> Path:
    paths = [folder / f"{name}{suffix}" for suffix in PICTURES]
    return next((path for path in paths if path.is_file()), paths[0])
