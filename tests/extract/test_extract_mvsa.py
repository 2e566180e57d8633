from pathlib import Path

import pytest

from cache import DataError, UsageError
from extract import read_manifest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Rows 3 (GB18030), 1 (UTF-8), 2 (spaces only, no picture), and 10, 9 (no text) without labels."""
    data = tmp_path / "posts" / "data"
    data.mkdir(parents=True)
    (data / "3.txt").write_bytes("今天天气很好\r\n".encode("gb18030"))
    (data / "1.txt").write_bytes("今天 what a day\n".encode())
    (data / "2.txt").write_bytes(b" \n")
    (data / "10.txt").write_bytes(b"ten")
    for name in ("3.jpg", "1.png", "10.jpg", "9.jpg"):
        (data / name).write_bytes(b"picture")
    (data.parent / "train.txt").write_text("guid,tag\n3,positive\n1,negative\n2,neutral\n", encoding="utf-8")
    (data.parent / "test_without_label.txt").write_text("guid,tag\n10,null\n9,null\n", encoding="utf-8")
    return data.parent


def test_rows_keep_the_order_of_the_lists(root: Path):
    manifest = read_manifest(root)
    assert manifest.layout == "mvsa"
    assert [sample.id for sample in manifest.samples] == ["3", "1", "2", "10", "9"]
    assert [sample.label for sample in manifest.samples] == ["positive", "negative", "neutral", "", ""]


def test_texts_are_gb18030_or_utf8_and_may_be_missing(root: Path):
    found = {sample.id: sample.inputs.get("text") for sample in read_manifest(root).samples}
    assert found == {"3": "今天天气很好", "1": "今天 what a day", "2": None, "10": "ten", "9": None}


def test_pictures_of_other_suffixes_are_found_and_missing_ones_keep_their_path(root: Path):
    found = {sample.id: sample.inputs["image"].name for sample in read_manifest(root).samples}
    assert found == {"3": "3.jpg", "1": "1.png", "2": "2.jpg", "10": "10.jpg", "9": "9.jpg"}


def test_data_may_be_the_root_its_data_folder_or_a_list(root: Path):
    assert [sample.id for sample in read_manifest(root / "data").samples] == ["3", "1", "2", "10", "9"]
    assert [sample.id for sample in read_manifest(root / "train.txt").samples] == ["3", "1", "2"]
    assert [sample.id for sample in read_manifest(root / "test_without_label.txt").samples] == ["10", "9"]


def test_data_may_be_the_working_folder(root: Path, monkeypatch: pytest.MonkeyPatch):
    for folder in (root, root / "data"):
        monkeypatch.chdir(folder)
        assert len(read_manifest(".").samples) == 5


def test_bad_rows_are_reported_together(root: Path):
    (root / "train.txt").write_text("guid,tag\n3\n../1,positive\n,x\n1,negative\n1,positive\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_manifest(root)
    message = str(caught.value)
    assert "train.txt line 2: expected guid,tag, found 1 cells" in message
    assert "train.txt line 3: the id '../1' is not the name of a file in data/" in message
    assert "train.txt line 4: the id ''" in message
    assert "id '1' stands 2 times (train.txt line 5, train.txt line 6)" in message


def test_a_text_that_cannot_be_decoded_is_reported_with_its_line(root: Path):
    (root / "data" / "1.txt").write_bytes(b"\xff\xfea")
    with pytest.raises(DataError, match=r"train\.txt line 3: 1\.txt: starts as utf-16 but is not"):
        read_manifest(root)


def test_a_list_that_cannot_be_decoded_is_named(root: Path):
    (root / "train.txt").write_bytes(b"\xff\xfea")
    with pytest.raises(DataError, match=r"train\.txt"):
        read_manifest(root)


def test_an_id_in_both_lists_names_the_lists(root: Path):
    (root / "test_without_label.txt").write_text("guid,tag\n3,null\n", encoding="utf-8")
    with pytest.raises(DataError, match="id '3' stands 2 times") as caught:
        read_manifest(root)
    assert "train.txt" in str(caught.value)
    assert "test_without_label.txt" in str(caught.value)


def test_what_is_not_this_layout(root: Path):
    with pytest.raises(UsageError, match="the layout mvsa has none"):
        read_manifest(root, columns={"text": "a"})
    with pytest.raises(DataError, match=r"is not laid out as mvsa; expected a folder with data/<id>\.txt"):
        read_manifest(root.parent, layout="mvsa")
    with pytest.raises(DataError, match="holds posts/, which is no layout that is known"):
        read_manifest(root.parent)
