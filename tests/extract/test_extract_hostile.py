"""Tables that fuzzing has brought down, or made lose rows without a word."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cache import DataError
from extract import read_manifest


def write(folder: Path, raw: bytes, name: str = "posts.csv") -> Path:
    path = folder / name
    path.write_bytes(raw)
    return path


def rows(path: Path, **columns: str) -> list[tuple[str, object]]:
    return [(sample.id, sample.inputs.get("text")) for sample in read_manifest(path, columns=columns).samples]


@pytest.mark.parametrize("sign", [b",", b";", b"\t"])
def test_lines_may_end_as_they_did_on_old_macs(tmp_path: Path, sign: bytes):
    table = b"id,text\r1,a day\r2,b\r".replace(b",", sign)
    assert [name for name, _ in rows(write(tmp_path, table))] == ["1", "2"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_a_quote_that_is_never_closed_does_not_swallow_the_rows_that_follow(tmp_path: Path, end: bytes):
    path = write(tmp_path, b'id,text,label\n1,a,x\n2,b,"y\n3,c,x\n4,d,y' + end)
    with pytest.raises(DataError, match=r"posts\.csv: a quote opens in the row of line 3 and is never closed"):
        read_manifest(path)
    assert rows(write(tmp_path, b'id,text,label\n1,"a\n""b""",x\n2,"",y' + end)) == [("1", 'a\n"b"'), ("2", None)]


@pytest.mark.parametrize("last", [b'say "world', b'world"', b'"the world" is'])
def test_texts_that_begin_with_a_quote_swallow_no_rows_up_to_another_quote(tmp_path: Path, last: bytes):
    path = write(tmp_path, b'id\ttext\n1\t"hello\n2\ta day\n3\t' + last + b"\n4\tb\n", "posts.tsv")
    with pytest.raises(DataError, match=r"posts\.tsv: a quote makes one row of the lines 2 to 4, which hardly are one"):
        read_manifest(path)
    whole = b'id,text\n1,"Dear Bob, ""hello""\r\n, a day"\n2,"one\ttwo"\n'
    assert rows(write(tmp_path, whole)) == [("1", 'Dear Bob, "hello"\r\n, a day'), ("2", "one\ttwo")]
    three = b'id\ttext\tlabel\n1\t"a\nb"\tx\n'  # a tab in each line
    assert rows(write(tmp_path, three, "c.tsv")) == [("1", "a\nb")]
    tabs = b'id\ttext\n1\t"a\n\n""b"""\n2\t"c\td\ne"\n'
    assert rows(write(tmp_path, tabs, "b.tsv")) == [("1", 'a\n\n"b"'), ("2", "c\td\ne")]


def test_a_quote_that_is_closed_rows_later_shows_in_the_label(tmp_path: Path):
    path = write(tmp_path, b'id,text,label\n1,a,"x\n2,b,y\n3,c,x"\n4,d,y\n')
    with pytest.raises(DataError, match="line 2: id, label or split holds a line break; is a quote left open"):
        read_manifest(path)


def test_a_list_of_mvsa_loses_no_rows_to_a_quote_and_takes_long_cells(tmp_path: Path):
    (tmp_path / "data").mkdir()
    write(tmp_path, b'guid,tag\n1,"positive\n2,negative\n', "train.txt")
    with pytest.raises(DataError, match=r"train\.txt: a quote opens in the row of line 2 and is never closed"):
        read_manifest(tmp_path)
    write(tmp_path, b'guid,tag\n1,"' + b"x" * 200_000 + b'"\n2,y\n', "train.txt")
    assert [(one.id, len(one.label), one.line) for one in read_manifest(tmp_path).samples] == [
        ("1", 200_000, 2),
        ("2", 1, 3),
    ]


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"a":' * 100_000, b'{"text": ' + b"[" * 50_000])
def test_json_that_is_nested_too_deep_is_a_bad_row(tmp_path: Path, line: bytes):
    path = write(tmp_path, b'{"id": 1, "text": "a"}\n' + line + b'\n{"id": 3, "text": "c"}\n', "posts.jsonl")
    with pytest.raises(DataError, match="line 2: lists or objects within each other, too deep to be read"):
        read_manifest(path)


@pytest.mark.parametrize("number", [b"1" + b"0" * 400, b"9" * 5000])
def test_numbers_that_no_float_holds_are_a_bad_row(tmp_path: Path, number: bytes):
    table = b'{"id": 1, "text": "a", "vision": [1, 2]}\n{"id": 2, "text": "b", "vision": [1, ' + number + b"]}\n"
    with pytest.raises(DataError, match=r"has 1 bad rows.*\n.*line 2: "):
        rows(write(tmp_path, table, "posts.jsonl"), vision="vision")


@pytest.mark.parametrize("what", ["a locked folder", "a long name", "a link to itself"])
def test_what_cannot_be_looked_into_is_named(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / ("x" * 300 if what == "a long name" else "folder")
    if what == "a locked folder":
        path.mkdir()
        refuse: Callable[..., None] = lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))  # noqa: E731
        monkeypatch.setattr(os, "listdir", refuse)  # root may look into everything
        monkeypatch.setattr(os, "scandir", refuse)
    elif what == "a link to itself":
        path.symlink_to(path)
    with pytest.raises(DataError, match=r"(x|folder) cannot be read: |there is no data at"):
        read_manifest(path)
