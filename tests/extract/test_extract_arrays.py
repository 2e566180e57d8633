"""Bytes of .npy files: read as numpy reads them, or refused."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.arrays import array_width, read_array, written_array
from extract.decode import DecodeError

SOUND = written_array(np.arange(12, dtype=np.float32).reshape(4, 3))
ARRAYS = [
    np.arange(3),
    np.array([[True, False]]),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(6, dtype=">f4").reshape(3, 2),
    np.arange(4, dtype=np.float16),
    np.array([[2**40]], dtype=np.uint64),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_an_array_is_read_as_numpy_reads_it(array: np.ndarray):
    raw = written_array(array)
    found = read_array(raw)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.load(io.BytesIO(raw)).astype(np.float32))
    assert array_width(raw) == array.shape[-1]


def test_a_second_version_of_the_format_is_read():
    file = io.BytesIO()
    np.lib.format.write_array(file, np.arange(3.0), version=(2, 0))
    assert read_array(file.getvalue()).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "no .npy file"),
        (SOUND[:-1], "1 bytes are missing"),
        (SOUND.replace(b"(4, 3), }", b"(4, -3),}"), "the array has the shape"),
        (SOUND.replace(b"(4, 3), }   ", b"(9**9, 3), }"), "no .npy file"),
        (SOUND.replace(b"(4, 3), }             ", b"(10000000000000, 3), }"), "bytes are missing"),
        (written_array(np.zeros((0, 3))), "has the shape"),
        (written_array(np.float64(1)), "has the shape"),
        (written_array(np.array([1 + 1j])), "is of type complex128"),
        (written_array(np.zeros(2, dtype=[("a", "f4")])), "expected numbers"),
        (written_array(np.array([1.0, np.nan])), "NaN or infinite values"),
        (written_array(np.array([[1.0], [1e300], [-np.inf]])), "in row 1 and 1 more"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(raw: bytes, reason: str):
    with pytest.raises(DecodeError, match=reason):
        read_array(raw)


def test_objects_are_never_unpickled():
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return pytest.fail, ("it was unpickled",)

    file = io.BytesIO()
    np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(DecodeError, match="holds Python objects, which are never loaded"):
        read_array(file.getvalue())


@given(st.integers(0, len(SOUND) - 1), st.binary(min_size=1, max_size=6), st.integers(0, len(SOUND)))
@settings(deadline=None, derandomize=True, database=None, max_examples=400)
def test_broken_bytes_are_refused_or_finite(place: int, put: bytes, cut: int):
    raw = (SOUND[:place] + put + SOUND[place + len(put) :])[: max(cut, 20)]
    try:
        found = read_array(raw)
    except DecodeError:
        return
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
