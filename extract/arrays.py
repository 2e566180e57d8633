"""The bytes of `.npy` files to arrays. Nothing is ever unpickled."""

from __future__ import annotations

import io
import math
from typing import IO

import numpy as np

from extract.decode import DecodeError
from extract.manifest import File, opened

_Header = tuple[tuple[int, ...], bool, np.dtype]


def read_array(raw: bytes) -> np.ndarray:
    """What is in a `.npy` file, as float32: a vector `(D,)`, or a sequence `(T, D)` of at least one.

    Raises:
        DecodeError: no whole `.npy` file, another shape, or values that are no finite numbers.
    """
    file = io.BytesIO(raw)
    shape, fortran, dtype = _header(file)
    _check(shape, dtype)
    count = math.prod(shape)
    # Against what the header promises, before anything of that size is made.
    lost = file.tell() + count * dtype.itemsize - len(raw)
    if lost > 0:
        raise DecodeError(f"the array is cut off: {lost} bytes are missing of its shape {shape}")
    flat = np.frombuffer(raw, dtype=dtype, count=count, offset=file.tell())
    with np.errstate(over="ignore", invalid="ignore"):  # looked for below
        array = flat.reshape(shape, order="F" if fortran else "C").astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(np.atleast_2d(array)).all(axis=1))
    if len(wrong):
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise DecodeError(
            f"the array has NaN or infinite values, or too large ones for float32, in row {wrong[0]}{more}"
        )
    return array


def array_width(content: File) -> int:
    """Columns D of an array, by the header of its file.

    Raises:
        DecodeError: no `.npy` file, or another shape.
        OSError: the file cannot be read.
    """
    with opened(content) as file:
        shape, _, dtype = _header(file)
    _check(shape, dtype)
    return shape[-1]


def written_array(array: np.ndarray) -> bytes:
    """The bytes of a `.npy` file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _header(file: IO[bytes]) -> _Header:
    """Shape, whether in Fortran's order, and type, from the start of a `.npy` file."""
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(file)
        if version == (2, 0):
            return np.lib.format.read_array_header_2_0(file)
    except OSError:
        raise
    except Exception as error:  # on a broken header, a literal of Python, numpy raises almost anything
        raise DecodeError(f"no .npy file: {str(error).strip()[:200] or type(error).__name__}") from error
    raise DecodeError(f"a .npy file of version {version}, which holds no plain numbers")


def _check(shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype.hasobject:
        raise DecodeError("the array holds Python objects, which are never loaded; save numbers")
    if dtype.kind not in "fiub":
        raise DecodeError(f"the array is of type {dtype}, expected numbers")
    if len(shape) not in (1, 2) or not math.prod(shape) or min(shape) < 0:
        raise DecodeError(f"the array has the shape {shape}, expected (D,) or (rows, D), at least 1 each")
