"""Packed tables, texts of several columns, lists of pictures."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cache import DataError
from extract import default_name, read_manifest
from extract.datasets import table

CSV = "id,title,body,label\n1,well,what,x\n2,,only body,y\n3,only title,,x\n4, ,,y\n"


def texts(path: Path, **columns: str) -> list[Any]:
    return [sample.inputs.get("text") for sample in read_manifest(path, columns=columns).samples]


def jsonl(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "posts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_several_columns_make_one_text_a_line_each_and_empty_ones_are_left_out(tmp_path: Path):
    path = tmp_path / "posts.csv"
    path.write_text(CSV)
    assert texts(path, text="title+body") == ["well\nwhat", "only body", "only title", None]
    manifest = read_manifest(path, columns={"text": "body+title", "text_2": "title"})
    assert manifest.samples[0].inputs == {"text": "what\nwell", "text_2": "well"}
    again = read_manifest(path, columns=manifest.notes["columns"])
    assert again.samples == manifest.samples
    with pytest.raises(DataError, match="has no column 'nothing' for text; it has id, title, body, label"):
        read_manifest(path, columns={"text": "title+nothing"})
    with pytest.raises(DataError, match=r"has no column 'title\+body' for label"):
        read_manifest(path, columns={"label": "title+body"})


def test_a_column_of_exactly_that_name_wins(tmp_path: Path):
    path = tmp_path / "posts.csv"
    path.write_text("id,a,b,a+b\n1,left,right,itself\n")
    assert texts(path, text="a+b") == ["itself"]
    assert texts(path, text="a+b+a+b") == ["left\nright\nleft\nright"]
    rows = [{"a": "left", "b": "right"}, {"a+b": "itself", "a": "no"}]  # it is known of the whole table, not of the row
    assert texts(jsonl(tmp_path, *rows), text="a+b") == [None, "itself"]
    tabular = read_manifest(path, columns={"text": "a", "tabular": "a+b"}).samples[0].inputs["tabular"]
    assert json.loads(str(tabular)) == {"a+b": "itself"}


def test_a_list_of_pictures_is_image_image_2_and_so_on_in_order(tmp_path: Path):
    rows = [
        {"image": ["a.jpg", "b.jpg", "c.jpg"]},
        {"image": "a.jpg"},
        {"image": []},
        {"image": ["a.jpg", None, "c.jpg"]},
    ]
    manifest = read_manifest(jsonl(tmp_path, *rows))
    names = [{name: Path(str(path)).name for name, path in one.inputs.items()} for one in manifest.samples]
    three = {"image": "a.jpg", "image_2": "b.jpg", "image_3": "c.jpg"}
    assert names == [three, {"image": "a.jpg"}, {}, {"image": "a.jpg", "image_3": "c.jpg"}]
    assert manifest.modalities == ("image", "image_2", "image_3")


def test_a_list_may_stand_in_a_cell_of_a_csv(tmp_path: Path):
    cells = '"[""a.jpg"", ""b.jpg""]"', "[x].jpg", '"[""a.jpg"'
    (tmp_path / "posts.csv").write_text("\n".join(["image", *cells]))
    names = [[Path(str(path)).name for path in one.inputs.values()] for one in read_manifest(tmp_path).samples]
    assert names == [["a.jpg", "b.jpg"], ["[x].jpg"], ['["a.jpg']]


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        (["a.jpg", "../b.jpg"], r"the image '../b.jpg' lies outside"),
        (["a.jpg", {"x": 1}], "image must be text or a number, found dict"),
        (["a.jpg"] * 33, "image lists 33 pictures; up to 32 a row are taken"),
        (["a.jpg", "b.jpg"], "image lists 2 pictures, and image_2 is the column more already"),
    ],
)
def test_lists_that_cannot_be_pictures_are_bad_rows(tmp_path: Path, cell: list[Any], problem: str):
    path = jsonl(tmp_path, {"image": cell, "more": "z.jpg"})
    columns = {"image_2": "more"} if "already" in problem else {}
    with pytest.raises(DataError, match=f"line 1: {problem}"):
        read_manifest(path, columns=columns)


@pytest.mark.parametrize("name", ["posts.csv", "posts.tsv", "posts.jsonl", "POSTS.CSV"])
def test_packed_tables_are_read_as_they_are(tmp_path: Path, name: str):
    plain = tmp_path / name
    if name.endswith("jsonl"):
        jsonl(tmp_path, {"id": 1, "text": "well, what"}, {"id": 2, "text": "é"})
    else:
        sign = "\t" if name.endswith("tsv") else ","
        plain.write_text(f'id{sign}text\n1{sign}"well, what"\n2{sign}é\n', encoding="utf-8")
    expected = read_manifest(plain).samples
    packed = plain.with_name(f"{name}.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert read_manifest(packed).samples == expected == read_manifest(tmp_path).samples
    assert len(expected) == 2
    assert default_name(packed) == name.partition(".")[0]


def test_packed_tables_named_after_splits(tmp_path: Path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv.gz").write_bytes(gzip.compress(f"text\nof {split}\n".encode()))
    found = [(one.id, one.split, one.inputs["text"]) for one in read_manifest(tmp_path).samples]
    assert found == [("train-1", "train", "of train"), ("test-1", "test", "of test")]
    (tmp_path / "test.csv").write_text("text\nagain\n")
    with pytest.raises(DataError, match=r"holds several tables \(test.csv, test.csv.gz, train.csv.gz\); give one"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip", "empty"])
def test_a_damaged_packed_table_is_one_message(tmp_path: Path, damage: str):
    raw = bytearray(gzip.compress(("id,text\n" + "".join(f"{n},row {n * n}\n" for n in range(5000))).encode()))
    raw = {"cut": raw[: len(raw) // 2], "flipped": raw, "no gzip": bytearray(b"id,text\n1,a\n"), "empty": raw[:0]}[
        damage
    ]
    if damage == "flipped":
        raw[-6] ^= 255  # of the checksum
    (tmp_path / "posts.csv.gz").write_bytes(raw)
    expected = (
        "holds no|neither a text" if damage == "empty" else "is cut off, damaged or no gzip file .* pack it again"
    )
    with pytest.raises(DataError, match=expected) as caught:
        read_manifest(tmp_path)
    assert "posts.csv.gz" in str(caught.value)


BOMB = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30,) * 2)
from extract.datasets.table import read_rows
from cache import DataError
from pathlib import Path
try:
    read_rows(Path(sys.argv[1]), [])
except DataError as error:
    # Not ru_maxrss, into which the process counts that started this one.
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(error, int(peak.split()[1]) // 1024)
"""


@pytest.mark.slow
def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path: Path):
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(bytes(2**24)) * 64)  # 1 GiB
    assert path.stat().st_size < 2**23
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(path)],
        capture_output=True, text=True, cwd=root, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, check=True,
    )  # fmt: skip
    assert "unpacks to more than" in done.stdout
    assert "gunzip it if it is what you think" in done.stdout
    assert int(done.stdout.split()[-1]) < 1200  # MiB


def test_a_well_packed_table_is_no_bomb_until_it_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "posts.csv.gz"
    content = b"id,text\n" + b"".join(b"%d,the same again\n" % n for n in range(20_000))
    path.write_bytes(gzip.compress(content))
    assert len(read_manifest(path).samples) == 20_000
    monkeypatch.setattr(table, "SURELY_UNPACKED", 1000)
    monkeypatch.setattr(table, "MOST_TIMES", 2)
    with pytest.raises(DataError, match=f"is {path.stat().st_size} bytes and unpacks to more than {len(content)}"):
        read_manifest(path)
    monkeypatch.setattr(table, "MOST_TIMES", 1000)
    monkeypatch.setattr(table, "MOST_UNPACKED", 1000)
    with pytest.raises(DataError, match="packed tables are read up to 1000 bytes"):
        read_manifest(path)


def test_json_nested_without_end_is_a_bad_row(tmp_path: Path):
    (tmp_path / "posts.jsonl").write_text('{"text": "a"}\n' + "[" * 200_000)
    with pytest.raises(DataError, match="line 2: lists or objects within each other, too deep"):
        read_manifest(tmp_path)
