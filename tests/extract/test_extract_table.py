import json
from pathlib import Path

import pytest

from cache import DataError, UsageError
from extract import read_manifest


def write(folder: Path, text: str, name: str = "posts.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def texts(path: Path, **columns: str) -> list[str | None]:
    return [sample.inputs.get("text") for sample in read_manifest(path, columns=columns).samples]


def test_usual_column_names_are_found_whatever_their_case(tmp_path: Path):
    path = write(tmp_path, "Tweet_ID,Caption,IMG,Sentiment,Subset,User\n7,a day,1.jpg,glad,train,ann\n")
    manifest = read_manifest(path)
    (sample,) = manifest.samples
    assert (sample.id, sample.label, sample.split, sample.group, sample.line) == ("7", "glad", "train", "ann", 2)
    assert sample.inputs == {"text": "a day", "image": tmp_path / "1.jpg"}
    assert manifest.notes["columns"]["text"] == "Caption"


def test_preferred_name_wins_over_a_later_one(tmp_path: Path):
    assert texts(write(tmp_path, "title,text\nheadline,body\n")) == ["body"]


def test_named_columns_override_and_an_empty_name_leaves_one_out(tmp_path: Path):
    path = write(tmp_path, "id,text,title,image,split\n1,body,headline,1.jpg,train\n")
    (sample,) = read_manifest(path, columns={"text": "title", "split": "", "image": ""}).samples
    assert sample.inputs == {"text": "headline"}
    assert sample.split == ""


def test_named_column_that_is_not_there(tmp_path: Path):
    path = write(tmp_path, "id,text\n1,a\n")
    with pytest.raises(DataError, match=r"posts\.csv has no column 'body' for text; it has id, text: see --columns"):
        read_manifest(path, columns={"text": "body"})
    with pytest.raises(UsageError, match="Colour can be no role; use id, text, image"):
        read_manifest(path, columns={"Colour": "text"})
    with pytest.raises(DataError, match="line 2: text is taken for the modality 'lable', whose cells are paths"):
        read_manifest(path, columns={"lable": "text"})


def test_missing_columns_say_what_was_looked_for_and_found(tmp_path: Path):
    path = write(tmp_path, "number,words\n1,a\n")
    with pytest.raises(DataError) as caught:
        read_manifest(path)
    for part in ("neither a text nor an image column", "clean_title", "img_path", "it has number, words", "--columns"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("a.csv", 'id,text\n1,"well, what"\n2,b;c\n', "utf-8"),
        ("a.csv", 'id;text\n1;well, what\n2;"b;c"\n', "utf-8"),
        ("a.csv", 'id,text\r\n1,"well, what"\r\n2,b;c\r\n', "utf-8-sig"),
        ("a.csv", 'id,text\n1,"well, what"\n2,b;c\n', "utf-16"),
        ("a.tsv", "id\ttext\n1\twell, what\n2\tb;c\n", "utf-8"),
        ("a.csv", "id\ttext\n1\twell, what\n2\tb;c\n", "utf-8"),
        ("a.jsonl", '{"id": 1, "text": "well, what"}\n\n{"id": 2, "text": "b;c"}\n', "utf-8"),
        ("A.JSONL", '{"id": 1, "text": "well, what"}\n{"id": 2, "text": "b;c"}', "utf-8-sig"),
    ],
)
def test_formats_give_the_same_rows(tmp_path: Path, name: str, text: str, encoding: str):
    manifest = read_manifest(write(tmp_path, text, name, encoding))
    rows = [(sample.id, sample.inputs["text"]) for sample in manifest.samples]
    assert rows == [("1", "well, what"), ("2", "b;c")]


def test_quoted_line_ends_keep_texts_whole_and_line_numbers_true(tmp_path: Path):
    path = write(tmp_path, 'id,text\n1,"first\nsecond"\n\n2,plain\n')
    samples = read_manifest(path).samples
    assert samples[0].inputs["text"] == "first\nsecond"
    assert [sample.line for sample in samples] == [2, 5]
    header = write(tmp_path, 'text,"a column\nof two lines"\na,b\n', "header.csv")
    assert [sample.line for sample in read_manifest(header).samples] == [3]


def test_ragged_rows_duplicate_and_empty_ids_are_reported_together(tmp_path: Path):
    path = write(tmp_path, 'id,text,label\n1,"two\nlines",x\n1,again,x\n3,short\n,nameless,x\n1,a,b,c\n')
    with pytest.raises(DataError) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert "has 4 bad rows" in message
    assert "line 5: 2 cells under 3 columns" in message
    assert "line 7: 4 cells under 3 columns" in message
    assert "line 6: the id is empty" in message
    assert "id '1' stands 2 times (line 2, line 4)" in message


def test_bad_json_lines_are_reported_together(tmp_path: Path):
    lines = ['{"text": "a"}', "{broken", "[1]", '{"text": ["a"]}']
    with pytest.raises(DataError) as caught:
        read_manifest(write(tmp_path, "\n".join(lines), "posts.jsonl"))
    assert "line 2: not JSON" in str(caught.value)
    assert "line 3: expected a JSON object, found list" in str(caught.value)
    assert "line 4: text must be text or a number, found list" in str(caught.value)


def test_a_file_of_which_no_line_can_be_read_says_why(tmp_path: Path):
    with pytest.raises(DataError, match=r"has 3 bad rows; .*\n  line 1: not JSON"):
        read_manifest(write(tmp_path, '[\n{"text": "a"},\n]', "posts.jsonl"))
    with pytest.raises(DataError, match=r"posts\.jsonl holds no rows, and no header that names columns"):
        read_manifest(write(tmp_path, "\n", "posts.jsonl"))


def test_a_column_that_stands_twice_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="names a column twice: text"):
        read_manifest(write(tmp_path, "id,text,text\n1,a,b\n"))
    (tmp_path / "posts.csv").unlink()
    with pytest.raises(DataError, match=r"line 2: not JSON .names a key twice: label"):
        read_manifest(write(tmp_path, '{"text": "a"}\n{"text": "b", "label": 1, "label": 2}\n', "posts.jsonl"))


def test_rows_without_ids_are_numbered(tmp_path: Path):
    samples = read_manifest(write(tmp_path, "text\na\nb\n")).samples
    assert [sample.id for sample in samples] == ["1", "2"]


def test_null_nan_and_blank_cells_are_absent(tmp_path: Path):
    values = [None, float("nan"), "", "  ", 5, "word"]
    rows = "\n".join(json.dumps({"text": value, "label": value}) for value in values)
    samples = read_manifest(write(tmp_path, rows, "posts.jsonl")).samples
    assert [sample.inputs.get("text") for sample in samples] == [None, None, None, None, "5", "word"]
    assert [sample.label for sample in samples] == ["", "", "", "", "5", "word"]
    assert texts(write(tmp_path, "id,text\n1,\n2, \n3,c\n")) == [None, None, "c"]


def test_pictures_outside_the_folder_are_refused(tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir()
    path = write(folder, "image\n../secret.jpg\nfine.jpg\n/etc/passwd\n")
    with pytest.raises(DataError) as caught:
        read_manifest(path)
    assert "has 2 bad rows" in str(caught.value)
    assert f"line 2: the image '../secret.jpg' lies outside {folder}" in str(caught.value)
    assert "line 4: the image '/etc/passwd'" in str(caught.value)


def test_tables_named_after_splits_are_one_data_set(tmp_path: Path):
    for name in ("test", "valid", "train"):
        write(tmp_path, f"text,image\n{name} words,{name}.jpg\n", f"{name}.csv")
    manifest = read_manifest(tmp_path)
    assert [sample.split for sample in manifest.samples] == ["train", "valid", "test"]
    assert [sample.inputs["text"] for sample in manifest.samples] == ["train words", "valid words", "test words"]
    assert [sample.id for sample in manifest.samples] == ["train-1", "valid-1", "test-1"]


def test_duplicate_ids_across_tables_name_the_tables(tmp_path: Path):
    write(tmp_path, "id,text\n1,a\n", "train.csv")
    write(tmp_path, "id,text\n1,b\n", "test.csv")
    with pytest.raises(DataError, match="id '1' stands 2 times") as caught:
        read_manifest(tmp_path)
    assert "train.csv" in str(caught.value)
    assert "test.csv" in str(caught.value)


def test_lines_without_anything_before_the_header_are_no_header(tmp_path: Path):
    assert texts(write(tmp_path, "\r\n\nid;text\n1;a, b\n")) == ["a, b"]


def test_what_macos_puts_beside_a_table_is_no_table(tmp_path: Path):
    write(tmp_path, "id,text\n1,a\n", "posts.csv")
    write(tmp_path, "Mac OS X", "._posts.csv")
    assert texts(tmp_path) == ["a"]


def test_several_other_tables_are_refused(tmp_path: Path):
    for name in ("train.csv", "posts.csv"):
        write(tmp_path, "text\na\n", name)
    with pytest.raises(DataError, match=r"several tables \(posts\.csv, train\.csv\); give one of them as DATA"):
        read_manifest(tmp_path)


PARTS = {
    "spark": ["part-00000-9f2c-c000.csv", "part-00001-9f2c-c000.csv", "part-00010-07aa-c000.csv", "_SUCCESS"],
    "dask": ["part.0.csv", "part.2.csv", "part.10.csv"],
    "arrow": ["part-0.csv", "part-2.csv", "part-10.csv"],
    "numbers": ["00000.csv", "00001.csv", "00010.csv"],
    "of": ["posts-00000-of-00003.csv", "posts-00001-of-00003.csv", "posts-00002-of-00003.csv"],
}


@pytest.mark.parametrize("kind", PARTS)
def test_the_parts_of_one_table_are_one_data_set_in_the_order_of_their_numbers(tmp_path: Path, kind: str):
    for number, name in enumerate(PARTS[kind]):
        write(tmp_path, f"text,label\nword {number},a\nday {number},b\n", name)
    manifest = read_manifest(tmp_path)
    texts = [f"{word} {number}" for number in range(3) for word in ("word", "day")]
    assert [sample.inputs["text"] for sample in manifest.samples] == texts
    assert {sample.split for sample in manifest.samples} == {""}
    assert len({sample.id for sample in manifest.samples}) == 6


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["posts1.csv", "posts2.csv"], "holds several tables"),
        (["2019.csv", "posts.csv"], "holds several tables"),
        (["part-0.csv", "part-1.tsv"], "holds several tables"),
        (["part-0.csv", "0001.csv"], "holds several tables"),
        (["a-00000-of-00002.csv", "b-00000-of-00002.csv"], "holds several tables"),
        (["train-00000-of-00001.csv", "train.csv"], "holds several tables"),  # the same rows twice?
        (["train-00000-of-00001.csv", "train-00000-of-00002.csv", "train-00001-of-00002.csv"], "holds several tables"),
        (["a-00000-of-00001.csv", "a-00000-of-00002.csv", "a-00001-of-00002.csv"], "holds several tables"),
        (["posts-00000-of-00003.csv", "posts-00002-of-00003.csv"], "holds 2 of the 3 tables posts-"),
        (["00000.csv", "00001.csv", "00000.tar"], "give one of them as DATA, or --layout webdataset for the tars"),
    ],
)
def test_tables_that_are_no_parts_of_one_are_refused(tmp_path: Path, names: list[str], said: str):
    for name in names:
        write(tmp_path, "text\ta\nday\tb\n" if name.endswith("tsv") else "text\nday\n", name)
    with pytest.raises(DataError, match=said):
        read_manifest(tmp_path)


def test_header_only_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="was read as table and holds no rows"):
        read_manifest(write(tmp_path, "id,text\n"))


def test_texts_longer_than_the_csv_modules_own_limit_are_read(tmp_path: Path):
    assert texts(write(tmp_path, f"id,text\n1,{'word ' * 40_000}end\n")) == ["word " * 40_000 + "end"]


def test_unknown_layouts_say_what_is_known(tmp_path: Path):
    with pytest.raises(DataError, match=r"there is no data at .*nowhere; .*pipeline\.py demo"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is empty, which is no layout that is known"):
        read_manifest(tmp_path)
    write(tmp_path, "hello", "notes.md")
    with pytest.raises(DataError) as caught:
        read_manifest(tmp_path)
    for part in ("holds notes.md", "mvsa: a folder with data/<id>.txt", "table: a CSV, TSV, JSONL or Parquet table"):
        assert part in str(caught.value)
    with pytest.raises(UsageError, match="there is no layout 'csv'; choose one of mvsa, mosi, fakeddit, table"):
        read_manifest(tmp_path, layout="csv")


def test_one_role_is_one_column_in_all_tables(tmp_path: Path):
    write(tmp_path, "id,title,label\n1,a day,x\n", "train.csv")
    write(tmp_path, "id,text,title,label\n2,body,headline,x\n", "test.csv")
    with pytest.raises(DataError, match=r"text is the column title in some files and text in others; .*--columns text"):
        read_manifest(tmp_path)
    assert texts(tmp_path, text="title") == ["a day", "headline"]


def test_columns_are_noted_though_the_last_table_lacks_them(tmp_path: Path):
    write(tmp_path, "id,text,label\n1,a,x\n", "train.csv")
    write(tmp_path, "id,text\n2,b\n", "test.csv")
    manifest = read_manifest(tmp_path)
    assert manifest.notes["columns"] == {"id": "id", "text": "text", "label": "label"}
    assert [(sample.label, sample.split) for sample in manifest.samples] == [("x", "train"), ("", "test")]
