import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import cache
from cache import StoreDamaged, StoreError, item_key
from cache.schema import SCHEMA
from cache.segment import check_segment, merge_segments, read_segment, write_segment

ITEMS = [item_key(str(number)) for number in range(6)]
VALUES = np.random.default_rng(3).normal(size=(6, 3)).astype("<f4")
STRUCTURES = [b"TREE", b"HEAP", b"SNOD", b"GCOL"]

KILLS_WRITERS = """
import itertools, os, signal, sys, time
import numpy as np
from cache import EncoderStore, FeatureWriter, item_key
from pathlib import Path

def write_for_ever(first, begun):
    writer = FeatureWriter(EncoderStore(Path(sys.argv[1])), ["mean"], {})
    for number in itertools.count(first):
        outputs = {"mean": np.full((1, 300_000), number, dtype=np.float32)}
        os.write(begun, b".")
        writer.write([item_key(str(number))], outputs)
        print(number, flush=True)

for turn in range(20):
    reader, begun = os.pipe()
    writer = os.fork()
    if writer == 0:
        write_for_ever(100 * turn, begun)
    for _ in range(turn % 3 + 1):
        os.read(reader, 1)
    moment = time.perf_counter() + 0.0002 * turn
    while time.perf_counter() < moment:
        pass
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
"""
FILLS_THE_DISK = """
import resource, sys
import numpy as np
from pathlib import Path
from cache import StoreError, item_key
from cache.segment import write_segment
items = [item_key(str(number)) for number in range(500)]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    write_segment(Path(sys.argv[1]), items, {"mean": np.zeros((500, 4))}, {})
except StoreError as error:
    print(error)
"""
FLIPS_EVERY_BYTE = """
import signal, sys
import numpy as np
from pathlib import Path
from cache import StoreError
from cache.segment import read_segment
signal.alarm(20)
path, values = Path(sys.argv[1]), np.frombuffer(bytes.fromhex(sys.argv[2]), "<f4")
raw, bad = path.read_bytes(), path.with_name("bad.h5")
vectors = range(raw.find(values.tobytes()), raw.find(values.tobytes()) + values.nbytes)
for place in (place for place, byte in enumerate(raw) if byte and place not in vectors):
    bad.write_bytes(raw[:place] + bytes([raw[place] ^ 255]) + raw[place + 1 :])
    print(f"byte {place}:", end=" ", flush=True)
    try:
        segment = read_segment(bad)
        right = len(segment.items) and np.array_equal(segment.map("mean").ravel(), values)
        print("good" if right else "WRONG VECTORS", flush=True)
    except StoreError as error:
        print("good" if str(bad) in str(error) else "NOT NAMED", flush=True)
    except Exception as error:
        print("NO StoreError but", repr(error), flush=True)
"""


def python(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(Path(cache.__file__).parents[1])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


@pytest.fixture
def path(tmp_path):
    return write_segment(tmp_path, ITEMS, {"mean": VALUES, "cls": VALUES[:, :2]}, {"torch": "2"})


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f2"])
def test_a_segment_reads_as_it_was_written(tmp_path, dtype):
    outputs = {"mean": VALUES.astype(dtype), "cls": VALUES.astype(dtype)[::-1].T[:2].T}
    segment = read_segment(write_segment(tmp_path, ITEMS, outputs, {"device": "cpu"}))
    assert [row.tobytes() for row in segment.items] == ITEMS
    assert segment.written_by == {"device": "cpu"}
    assert len(segment) == 6
    for name, values in outputs.items():
        np.testing.assert_array_equal(segment.map(name), values)


@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
def test_datasets_are_contiguous_and_little_endian(tmp_path, dtype):
    with h5py.File(write_segment(tmp_path, ITEMS, {"mean": VALUES.astype(dtype)}, {}), "r") as file:
        dataset = file["outputs/mean"]
        assert dataset.chunks is None
        assert dataset.dtype == np.dtype("<f4")
        np.testing.assert_array_equal(dataset[...], VALUES)


@pytest.mark.parametrize("kept", [0, 100, 0.5, -1])
def test_a_truncated_segment_is_named(path, kept):
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * kept) if kept == 0.5 else kept])
    with pytest.raises(StoreDamaged, match=path.name):
        read_segment(path)


def test_a_flipped_byte_in_items_is_named(path, flip):
    flip(path, b"".join(ITEMS))
    with pytest.raises(StoreDamaged, match=path.name):
        len(read_segment(path).items)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_flipped_byte_in_the_structure_of_hdf5_is_found_and_touches_no_vector(path, flip, structure):
    if structure not in path.read_bytes():
        pytest.skip(f"this HDF5 writes no {structure.decode()} here")
    flip(path, structure)
    segment = read_segment(path)
    assert segment.items.tobytes() == b"".join(ITEMS)
    np.testing.assert_array_equal(segment.map("mean"), VALUES)
    with pytest.raises(StoreDamaged, match=path.name):
        check_segment(path)


def test_no_flipped_byte_beside_the_vectors_goes_unnoticed_or_kills_the_reader(tmp_path):
    path = write_segment(tmp_path, ITEMS, {"mean": VALUES}, {})
    with python(FLIPS_EVERY_BYTE, path, VALUES.tobytes().hex()) as child:
        outcomes = child.stdout.read().splitlines()
    wrong = [outcome for outcome in outcomes if not outcome.endswith("good")]
    assert (child.returncode, len(wrong), wrong[:5]) == (0, 0, [])


def test_another_schema_is_refused_with_both_versions(tmp_path, monkeypatch):
    with monkeypatch.context() as later:
        later.setattr("cache.files.SCHEMA", SCHEMA + 41)
        path = write_segment(tmp_path, ITEMS, {"mean": VALUES}, {})
    with pytest.raises(
        StoreError, match=rf"{path.name} was .* schema {SCHEMA + 41}, .* reads 1 and {SCHEMA};"
    ) as caught:
        read_segment(path)
    assert not isinstance(caught.value, StoreDamaged)  # it must not be set aside and encoded again


def test_a_file_of_another_kind_is_no_segment(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    with pytest.raises(StoreDamaged, match=r"other\.h5 is damaged or no segment"):
        read_segment(tmp_path / "other.h5")


def test_a_good_segment_that_cannot_be_opened_is_not_called_damaged(path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(path, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))  # the next file to be opened is one too many
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)) as caught:
            read_segment(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not isinstance(caught.value, StoreDamaged)


@pytest.mark.parametrize("room", [100, 9000])
def test_a_full_disk_is_named_and_the_process_ends_well(tmp_path, room):
    with python(FILLS_THE_DISK, tmp_path, room) as child:
        said = child.stdout.read()
    assert said.startswith(f"cannot write {tmp_path}")
    assert child.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_killed_writers_leave_whole_segments_and_all_that_they_announced(house):
    encoder = house.encoder()
    with python(KILLS_WRITERS, encoder.folder) as child:
        announced = child.stdout.read().split()
    assert child.returncode == 0
    assert len(announced) > 10
    assert encoder.items() >= {item_key(number) for number in announced}
    for segment in encoder.segments():
        vectors = segment.map("mean")
        assert segment.items.tobytes() == item_key(str(int(vectors[0, 0])))
        assert (vectors == vectors[0, 0]).all()


@pytest.mark.parametrize("n", [7, 9000])
def test_merging_keeps_every_item_once_in_the_given_order(tmp_path, n):
    items = [item_key(str(number)) for number in range(n)]
    values = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    parts = np.array_split(np.random.default_rng(0).permutation(n), 3)
    parts[2] = np.concatenate([parts[2], parts[0][:2]])  # stored twice
    for part in parts:
        write_segment(tmp_path, [items[number] for number in part], {"mean": values[part], "neg": -values[part]}, {})
    old = sorted(tmp_path.iterdir())
    order = {items[number]: n - 1 - number for number in range(1, n)}  # backwards, and item 0 has no place
    [path] = merge_segments([read_segment(path) for path in old], order)
    merged = read_segment(path)
    wanted = [*range(n - 1, 0, -1), 0]
    assert [row.tobytes() for row in merged.items] == [items[number] for number in wanted]
    np.testing.assert_array_equal(merged.map("mean"), values[wanted])
    np.testing.assert_array_equal(merged.map("neg"), -values[wanted])
    assert list(tmp_path.iterdir()) == [merged.path]


def test_a_merge_parts_what_is_too_large_for_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("cache.segment.PART_BYTES", 2 * VALUES[0].nbytes)
    old = [write_segment(tmp_path, ITEMS[part], {"mean": VALUES[part]}, {}) for part in (slice(3), slice(3, 6))]
    made = merge_segments([read_segment(path) for path in old], {item: place for place, item in enumerate(ITEMS)})
    assert [len(read_segment(path)) for path in made] == [2, 2, 2]
    np.testing.assert_array_equal(np.concatenate([read_segment(path).map("mean") for path in made]), VALUES)


def test_merging_does_not_launder_a_flipped_byte_in_the_vectors(tmp_path, flip):
    paths = [write_segment(tmp_path, ITEMS[part], {"mean": VALUES[part]}, {}) for part in (slice(3), slice(3, 6))]
    segments = [read_segment(path) for path in paths]
    flip(paths[1], VALUES[3:].tobytes())
    with pytest.raises(StoreDamaged, match=paths[1].name):
        merge_segments(segments, {})
    assert sorted(tmp_path.iterdir()) == sorted(paths)
