"""A sample's file at an address on the web, which lies in a folder beside the data once it was fetched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cache import item_key
from extract.manifest import Piece, inside

FOLDER = "downloads"
SCHEMES = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class Download(Piece):
    """What is at `url`, a file of `kind` `image` or `audio`; read from `path`, which may not be there yet."""

    url: str
    path: Path
    kind: str

    @property
    def name(self) -> str:
        """The address without its query: its suffix says what it is."""
        return bare(self.url)

    def read(self) -> bytes:
        """Its bytes. Raises OSError; FileNotFoundError where it was not fetched."""
        return self.path.read_bytes()


def is_address(cell: str) -> bool:
    """Whether a cell is an address that may be fetched. Those of other schemes, such as `file:`, are not."""
    return cell[:8].lower().startswith(SCHEMES)


def bare(cell: str) -> str:
    """An address without what follows `?` or `#`; any other cell as it is."""
    return cell.partition("#")[0].partition("?")[0] if is_address(cell) else cell


def download_of(url: str, root: Path, kind: str) -> Download:
    """The file of an address that a table in `root` names. Raises ValueError where its place lies elsewhere."""
    path = inside(root, f"{FOLDER}/{item_key(url).hex()}")
    if path is None:
        raise ValueError(f"{root / FOLDER} leads out of {root}; downloads must lie under the table's folder")
    return Download(url, path, kind)
