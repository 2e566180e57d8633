"""Data sets in shards are the data sets that are read as a whole."""

import pickle
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from cache import DataError
from extract import read_manifest
from extract.datasets.shards import Shard, first_rows, parted, shards_of
from tests.extract.test_extract_webdataset import write as write_tar


def rows_of(shards: list[Shard]) -> list[object]:
    return [sample for shard in pickle.loads(pickle.dumps(shards)) for sample in shard.read().samples]  # noqa: S301


def write_parquet(path: Path, first: int, n: int, group: int, ids: bool = True) -> None:
    numbers = range(first, first + n)
    columns = {"text": [f"text {number}" for number in numbers], "label": [str(number % 3) for number in numbers]}
    columns |= {"photo": [b"picture %d" % number if number % 4 else None for number in numbers]}
    columns |= {"id": [f"p{number}" for number in numbers]} if ids else {}
    parquet.write_table(pa.table(columns), path, row_group_size=group)


COLUMNS = {"image": "photo"}


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("rows", [1, 5, 12, 1000])
def test_parquet_is_parted_by_groups_of_rows(tmp_path: Path, rows: int, ids: bool):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", 0, 11, 4, ids)
    write_parquet(tmp_path / "train-00001-of-00002.parquet", 11, 7, 3, ids)
    write_parquet(tmp_path / "test.parquet", 18, 2, 2, ids)
    whole = read_manifest(tmp_path, columns=COLUMNS)
    shards = shards_of(tmp_path, rows, columns=COLUMNS)
    assert rows_of(shards) == list(whole.samples)
    expected = {1: [4, 4, 3, 3, 3, 1, 2], 5: [4, 4, 3, 3, 4, 2]}.get(rows, [11, 7, 2])
    assert [len(shard.read().samples) for shard in shards] == expected


def test_one_parquet_file_has_rows_without_the_name_of_a_file(tmp_path: Path):
    write_parquet(tmp_path / "posts.parquet", 0, 9, 2, ids=False)
    for data in (tmp_path, tmp_path / "posts.parquet"):
        shards = shards_of(data, 4, columns=COLUMNS)
        assert [len(shard.read().samples) for shard in shards] == [4, 4, 1]
        assert [one.id for one in rows_of(shards)] == [str(number) for number in range(1, 10)]


def test_rows_of_a_file_that_was_replaced_are_not_lost(tmp_path: Path):
    write_parquet(tmp_path / "posts.parquet", 0, 9, 2)
    shards = shards_of(tmp_path, 4, columns=COLUMNS)
    write_parquet(tmp_path / "posts.parquet", 0, 30, 2)
    for shard in shards:
        with pytest.raises(DataError, match=r"posts\.parquet was replaced while the data set was read"):
            shard.read()


def test_a_tar_is_a_shard(tmp_path: Path):
    for name, keys in {"train-0": "ab", "train-1": "c", "test-0": "de"}.items():
        write_tar(tmp_path / f"{name}.tar", {f"{key}.txt": f"text {key}" for key in keys})
    shards = shards_of(tmp_path, 1)
    assert rows_of(shards) == list(read_manifest(tmp_path).samples)
    assert [len(shard.read().samples) for shard in shards] == [2, 2, 1]


def test_one_of_several_tars_may_be_empty(tmp_path: Path):
    write_tar(tmp_path / "0.tar", {})
    write_tar(tmp_path / "1.tar", {"a.txt": "text a", "a.png": "picture"})
    shards = shards_of(tmp_path, 1)
    assert rows_of(shards) == list(read_manifest(tmp_path).samples)
    assert [len(shard.read().samples) for shard in shards] == [0, 1]
    assert first_rows(shards).modalities == ("text", "image")
    (tmp_path / "1.tar").unlink()
    (shard,) = shards_of(tmp_path, 1)
    with pytest.raises(DataError, match="holds no rows"):
        shard.read()


def test_encoders_are_chosen_by_rows_that_have_what_was_named(tmp_path: Path):
    for number, suffix in enumerate(["txt", "txt", "png", "png"]):
        write_tar(tmp_path / f"{number}.tar", {f"a.{suffix}": f"content {number}"})
    shards = shards_of(tmp_path, 1)
    assert [one.id for one in first_rows(shards).samples] == ["0/a"]
    assert [one.id for one in first_rows(shards, ["text", "image"]).samples] == ["0/a", "2/a"]
    assert [one.id for one in first_rows(shards, ["audio"]).samples] == ["0/a"]


def test_a_tar_without_samples_is_no_error_and_one_that_is_broken_is_named(tmp_path: Path):
    write_tar(tmp_path / "a.tar", {"README": "of the others"})
    write_tar(tmp_path / "b.tar", {"1.txt": "a day"})
    (tmp_path / "._b.tar").write_bytes(b"macOS has put it there")
    assert [sample.id for sample in rows_of(shards_of(tmp_path, 1))] == ["b/1"]
    assert [sample.id for sample in read_manifest(tmp_path).samples] == ["b/1"]
    (tmp_path / "c.tar").write_bytes(b"junk" * 1000)
    with pytest.raises(DataError, match=r"c\.tar after its beginning: the tar cannot be read on"):
        shards_of(tmp_path, 1)[2].read()
    (tmp_path / "c.tar").unlink()
    (tmp_path / "b.tar").unlink()
    with pytest.raises(DataError, match="holds no rows"):
        read_manifest(tmp_path)


def test_other_layouts_are_read_and_parted_by_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lines = [f"{number},text {number},{number}.png" for number in range(7)]
    (tmp_path / "posts.csv").write_text("id,text,image\n" + "\n".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path.parent)
    shards = shards_of(tmp_path.name, 3)
    assert [len(shard.read().samples) for shard in shards] == [3, 3, 1]
    assert rows_of(shards) == list(read_manifest(tmp_path).samples)  # absolute, for workers work elsewhere
    whole = read_manifest(tmp_path)
    assert rows_of(parted(whole, 2)) == list(whole.samples)


def test_what_is_wrong_with_a_shard_comes_to_light_when_it_is_read(tmp_path: Path):
    write_parquet(tmp_path / "train.parquet", 0, 4, 2)
    raw = (tmp_path / "train.parquet").read_bytes()
    write_parquet(tmp_path / "test.parquet", 4, 4, 2)
    (tmp_path / "train.parquet").write_bytes(raw[:4] + bytes(len(raw) // 3) + raw[4 + len(raw) // 3 :])
    broken, *_, sound = shards_of(tmp_path, 2, columns=COLUMNS)
    assert len(sound.read().samples) == 2
    with pytest.raises(DataError, match=r"train\.parquet cannot be read"):
        broken.read()


def test_data_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="there is no data at"):
        shards_of(tmp_path / "nothing", 5)
