"""What each fit of an ablation left, one file a fit: a stopped run goes on, and nothing is fitted twice."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache import digest, make_folder, replacing

ABOUT = "about"
DIGEST = 32
"""Characters at the start of a file: the digest of the .npz that follows."""


@dataclass(frozen=True)
class Fit:
    """One head fitted to one fold and judged on it.

    `about` is JSON: metrics, seconds, settings. `arrays` holds `label`, class numbers `int32 (n,)` or
    values `float64 (n,)` of the judged rows; of classes `proba`, `float32 (n, K)`; `hidden <modality>`,
    labels with that modality hidden; `history`, losses `(epochs, 2)` of heads that are trained by gradient.
    """

    about: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


class Fits:
    """A folder of fits by key. A file that is not what was written counts as none: the fit is made again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self) -> None:
        """Makes the folder.

        Raises:
            StoreError: it cannot be made.
        """
        make_folder(self._folder)

    def write(self, key: str, fit: Fit) -> None:
        """Keeps a fit, as a whole or not at all."""
        content = io.BytesIO()
        about = np.frombuffer(json.dumps(dict(fit.about)).encode(), dtype=np.uint8)
        np.savez(content, allow_pickle=False, **{ABOUT: about}, **fit.arrays)
        raw = content.getvalue()
        with replacing(self._path(key)) as temporary:
            temporary.write_bytes(digest(raw).encode() + raw)

    def read(self, key: str) -> Fit | None:
        """The fit of this key; None if there is none that is whole."""
        try:
            content = self._path(key).read_bytes()
        except OSError:  # where there is something wrong with the disk, writing the fit again will say so
            return None
        raw = content[DIGEST:]
        if digest(raw).encode() != content[:DIGEST]:
            return None
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return Fit(json.loads(arrays.pop(ABOUT).tobytes()), arrays)

    def adopt(self, key: str, others: Iterable[Fits]) -> Fit | None:
        """The fit of this key from here, else from one of the others, of which a copy is kept."""
        found = self.read(key)
        if found is not None:
            return found
        for other in others:
            found = other.read(key)
            if found is not None:
                self.write(key, found)
                return found
        return None

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.fit"
