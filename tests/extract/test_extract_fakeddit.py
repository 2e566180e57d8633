"""The layout of Fakeddit."""

from pathlib import Path

import pytest

from cache import DataError, UsageError
from extract import read_manifest

HEADER = "author\tclean_title\tid\timage_url\t2_way_label\t6_way_label\n"


def write(
    folder: Path, name: str = "multimodal_train.tsv", ids: tuple[str, ...] = ("a1", "a2"), more: str = ""
) -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = [
        f"u\ttitle of {id_}\t{id_}\thttp://x.test/{id_}.jpg\t{number % 2}\t{number}\n" for number, id_ in enumerate(ids)
    ]
    (folder / name).write_text(HEADER + "".join(rows) + more, encoding="utf-8")
    (folder / "images" / f"{ids[0]}.jpg").write_bytes(b"picture")
    return folder


def test_several_lists_are_splits_in_their_order(tmp_path: Path):
    write(write(tmp_path, "multimodal_test_public.tsv", ("c1",)), "multimodal_validate.tsv", ("b1",))
    manifest = read_manifest(write(tmp_path))
    assert (manifest.layout, manifest.modalities) == ("fakeddit", ("text", "image"))
    assert [(one.id, one.split, one.label) for one in manifest.samples] == [
        ("a1", "train", "0"),
        ("a2", "train", "1"),
        ("b1", "valid", "0"),
        ("c1", "test", "0"),
    ]
    assert manifest.samples[0].inputs == {"text": "title of a1", "image": tmp_path / "images" / "a1.jpg"}


def test_one_list_has_no_split_and_the_label_is_chosen(tmp_path: Path):
    folder = write(tmp_path, ids=("x", "y", "z"))
    samples = read_manifest(folder / "multimodal_train.tsv", columns={"label": "2_way_label"}).samples
    assert [(one.label, one.split, one.group) for one in samples] == [("0", "", ""), ("1", "", ""), ("0", "", "")]
    assert [one.group for one in read_manifest(folder, columns={"group": "author"}).samples] == ["u"] * 3
    assert [one.label for one in read_manifest(folder, columns={"label": ""}).samples] == [""] * 3


def test_pictures_lie_in_the_first_folder_that_has_them_and_missing_ones_at_their_address_or_there(tmp_path: Path):
    folder = write(tmp_path, ids=("a", "b", "c"))
    (folder / "b.png").write_bytes(b"picture")
    found = [one.inputs["image"] for one in read_manifest(folder).samples]
    assert found[:2] == [folder / "images/a.jpg", folder / "b.png"]
    assert (found[2].url, found[2].path.parent) == ("http://x.test/c.jpg", folder / "downloads")
    listed = folder / "multimodal_train.tsv"
    listed.write_text(listed.read_text().replace("http://x.test/c.jpg", "nan"))
    assert read_manifest(folder).samples[2].inputs["image"] == folder / "images/c.jpg"


@pytest.mark.parametrize(("id_", "problem"), [("../a", "is not the name of a file"), ("", "the id is empty")])
def test_bad_rows_are_named(tmp_path: Path, id_: str, problem: str):
    folder = write(tmp_path, more=f"u\tt\t{id_}\thttp://x.test\t0\t0\n")
    with pytest.raises(DataError, match=f"multimodal_train.tsv line 4: .*{problem}"):
        read_manifest(folder)


def test_what_is_no_fakeddit_is_said_or_read_otherwise(tmp_path: Path):
    (tmp_path / "posts.tsv").write_text("clean_title\tlabel\na\tx\n", encoding="utf-8")
    assert read_manifest(tmp_path).layout == "table"
    with pytest.raises(DataError, match="not laid out as fakeddit; expected a folder with"):
        read_manifest(tmp_path, "fakeddit")
    folder = write(tmp_path / "two")
    with pytest.raises(UsageError, match="the layout fakeddit has id, text, label, group, not image"):
        read_manifest(folder, columns={"image": "path"})
    with pytest.raises(DataError, match="has no column '3_way_label' for label; it has author, clean_title"):
        read_manifest(folder, columns={"label": "3_way_label"})
    write(folder, "other_train.tsv", ("q",))
    with pytest.raises(DataError, match="not one each of train, validate and test"):
        read_manifest(folder)


def test_labels_mean_the_same_in_all_lists(tmp_path: Path):
    folder = write(tmp_path)
    (folder / "test.tsv").write_text("clean_title\tid\timage_url\t2_way_label\nt\tc1\tu\t1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"test.tsv has no column '6_way_label' for label"):
        read_manifest(folder)
    (folder / "test.tsv").write_text("clean_title\tid\timage_url\nt\tc1\tu\n", encoding="utf-8")
    assert [one.label for one in read_manifest(folder).samples] == ["0", "1", ""]
