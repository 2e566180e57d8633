import json
import sys

import h5py
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from cache import StoreError, UsageError, export_table, load

TEXT = ["a", "bcd", None, "a", "", "é🐟"]
IMAGE = ["x", None, "broken", "y", None, "x"]
CONTENTS = {"text": TEXT, "image": IMAGE}
LABELS = ["ü", "", "positive 🐟", "", " x ", "ü"]
IDS, SPLIT, GROUPS = [f"s{number}" for number in range(6)], ["train", "test"] * 3, [0, 1, 2, 0, 4, 0]
MASKS = {"text": [True, True, False, True, True, True], "image": [True, False, False, True, False, True]}


@pytest.fixture
def table(house):
    house.add(["", "bcd", "é🐟", "a"], tokens=True)
    for content in "yx":
        house.add([content], "image")
    house.view(CONTENTS, labels=LABELS, groups=GROUPS)
    return load(house.store.root)


def columns_are_right(found):
    for name, wanted in {"ids": IDS, "labels": LABELS, "split": SPLIT, "groups": GROUPS}.items():
        assert list(found[name]) == wanted


def tokens_are_right(house, values, offsets):
    wanted = [house.tokens(content or "") for content in TEXT]
    assert np.diff(offsets).tolist() == [len(item) for item in wanted]
    np.testing.assert_array_equal(values, np.concatenate(wanted))


def test_npz_is_read_by_numpy_alone(house, table, tmp_path):
    export_table(table, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as found:
        columns_are_right(found)
        for name, mask in MASKS.items():
            np.testing.assert_array_equal(found[name], house.expected({name: CONTENTS[name]}))
            assert found[name].dtype == np.float32
            assert found[f"{name}_mask"].tolist() == mask
        tokens_are_right(house, found["text_tokens"], found["text_offsets"])
        assert "image_tokens" not in found


def test_h5_is_read_by_h5py_alone(house, table, tmp_path, monkeypatch):
    monkeypatch.setattr("cache.export.ROWS_AT_ONCE", 4)
    export_table(table, tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        texts = {name: file[name].asstr()[...] for name in ("ids", "labels", "split")}
        columns_are_right({**texts, "groups": file["groups"][...]})
        for name, mask in MASKS.items():
            np.testing.assert_array_equal(file[name][...], house.expected({name: CONTENTS[name]}))
            assert file[f"{name}_mask"][...].tolist() == mask
            block = table.view.blocks[name]
            assert file[name].attrs["encoder"] == block.encoder == house.encoder(name).digest
            assert (file[name].attrs["output"], json.loads(file[name].attrs["spec"])) == ("mean", {"model": "tiny"})
        tokens_are_right(house, file["text_tokens"][...], file["text_offsets"][...])
        assert (file.attrs["name"], file.attrs["digest"]) == ("posts", table.view.digest)


def test_parquet_is_read_by_pyarrow_alone(house, table, tmp_path, monkeypatch):
    monkeypatch.setattr("cache.export.ROWS_AT_ONCE", 4)
    export_table(table, tmp_path / "out.parquet")
    found = parquet.read_table(tmp_path / "out.parquet")
    columns_are_right(found.to_pydict())
    for name, mask in MASKS.items():
        column = found[name].to_pylist()
        assert [value is not None for value in column] == mask
        wanted = house.expected({name: CONTENTS[name]})[mask]
        np.testing.assert_array_equal(np.array([v for v in column if v is not None], dtype="<f4"), wanted)
    about = json.loads(found.schema.metadata[b"encode_once.image"])
    assert about == {"encoder": house.encoder("image").digest, "output": "mean", "spec": '{"model": "tiny"}'}


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".parquet"])
def test_float16_stays_float16(house, tmp_path, suffix):
    house.add(["a", "b"], "audio")
    house.view({"audio": ["b", None, "a"]})
    path = tmp_path / f"out{suffix}"
    export_table(load(house.store.root), path)
    wanted = house.expected({"audio": ["b", None, "a"]})
    if suffix == ".parquet":
        column = parquet.read_table(path)["audio"]
        assert column.type.value_type == pyarrow.float16()
        np.testing.assert_array_equal(np.array(column.drop_null().to_pylist(), dtype="<f2"), wanted[[0, 2]])
        return
    with np.load(path) if suffix == ".npz" else h5py.File(path) as file:
        assert file["audio"].dtype == np.float16
        np.testing.assert_array_equal(file["audio"][...], wanted)


def read(path, name):
    if path.suffix == ".parquet":
        return parquet.read_table(path)[name].to_pylist()
    if path.suffix == ".npz":
        with np.load(path) as found:
            return found[name].tolist()
    with h5py.File(path) as file:
        return (file[name].asstr() if name == "ids" else file[name])[...].tolist()


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".parquet"])
def test_chosen_rows_and_modalities_are_exported(house, table, tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    export_table(table.select(["image"])[[5, 3]], path)
    assert read(path, "ids") == ["s5", "s3"]
    assert read(path, "image") == house.expected({"image": ["x", "y"]}).tolist()
    with pytest.raises(KeyError):
        read(path, "text")


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".parquet"])
def test_a_table_without_rows_is_a_file_without_rows(table, tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    export_table(table[:0], path)
    assert read(path, "ids") == read(path, "text") == []


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".parquet"])
def test_a_modality_that_no_row_has_is_exported(table, tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    export_table(table[[1, 2]], path)
    assert read(path, "image") == ([None, None] if suffix == ".parquet" else [[0, 0], [0, 0]])


def test_an_export_replaces_the_old_file_and_leaves_nothing_beside_it(table, tmp_path):
    (tmp_path / "exports").mkdir()
    path = tmp_path / "exports" / "out.npz"
    for part in (table, table[:2]):
        export_table(part, str(path))
    assert read(path, "ids") == ["s0", "s1"]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["out.csv", "out", "out.NPZ", "out.npz.gz"])
def test_another_suffix_is_refused_with_those_that_are_known(table, tmp_path, name):
    with pytest.raises(UsageError, match=rf"{name} ends in none of \.npz, \.h5, \.parquet"):
        export_table(table, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_parquet_without_pyarrow_says_what_to_install(table, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="pip install pyarrow"):
        export_table(table, tmp_path / "out.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features"]


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".parquet"])
def test_a_folder_that_is_not_there_is_named(table, tmp_path, suffix):
    with pytest.raises(StoreError, match=rf"cannot write .*gone/out\{suffix}"):
        export_table(table, tmp_path / "gone" / f"out{suffix}")
