"""Folders of pictures by class."""

import os
from pathlib import Path

import pytest
from PIL import Image

from cache import DataError, UsageError
from extract import Manifest, extraction_lines, originals, read_manifest


def write(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f" {name} ") if name.endswith(".txt") else path.write_bytes(name.encode())
    return root


def rows(manifest: Manifest) -> list[tuple[str, str, str]]:
    return [(one.id, one.label, one.split) for one in manifest.samples]


def test_the_folder_of_a_picture_is_its_label_and_a_text_beside_it_its_text(tmp_path: Path):
    write(tmp_path, "dog/b.PNG", "cat/a.jpg", "cat/a.txt", "cat/with.dots.webp", "dog/only.txt", "dog/empty.txt")
    (tmp_path / "dog" / "empty.txt").write_text("  ")
    manifest = read_manifest(tmp_path)
    assert manifest.layout == "folders"
    assert rows(manifest) == [
        ("cat/a", "cat", ""), ("cat/with.dots", "cat", ""), ("dog/b", "dog", ""), ("dog/empty", "dog", ""),
        ("dog/only", "dog", ""),
    ]  # fmt: skip
    assert [one.inputs for one in manifest.samples] == [
        {"text": "cat/a.txt", "image": tmp_path / "cat" / "a.jpg"},
        {"image": tmp_path / "cat" / "with.dots.webp"},
        {"image": tmp_path / "dog" / "b.PNG"},
        {},
        {"text": "dog/only.txt"},
    ]


def test_folders_of_splits_hold_classes_or_what_has_no_label(tmp_path: Path):
    write(tmp_path, "test/x/1.jpg", "test/9.jpg", "Train/x/1.jpg", "Train/y/2.jpg", "val/y/1.jpg")
    assert rows(read_manifest(tmp_path)) == [
        ("Train/x/1", "x", "train"), ("Train/y/2", "y", "train"), ("val/y/1", "y", "val"), ("test/9", "", "test"),
        ("test/x/1", "x", "test"),
    ]  # fmt: skip


def test_bad_files_are_reported_together(tmp_path: Path):
    data = write(tmp_path / "pets", "cat/a.jpg", "cat/a.png", "cat/b.txt", "dog/c.jpg", "dog/deep/d.jpg", "lost.jpg")
    (data / "cat" / "b.txt").write_bytes(b"\xff\xfe\x00")
    secret = write(tmp_path, "secret.jpg", "outside/e.jpg")
    (data / "dog" / "link.jpg").symlink_to(secret / "secret.jpg")
    (data / "dog" / "fine.jpg").symlink_to(data / "cat" / "a.jpg")
    (data / "bird").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError) as caught:
        read_manifest(data)
    for part in (
        "has 6 bad rows",
        "cat/a.jpg and cat/a.png have one stem; rename or remove one",
        "cat/b.txt: starts as utf-16 but is not",
        "dog/deep/ lies too deep",
        "lost.jpg lies in no folder of a class",
        f"dog/link.jpg leads out of {data}",
        f"bird/ leads out of {data}",
    ):
        assert part in str(caught.value), part


def test_links_that_lead_nowhere_are_failures_of_their_samples(tmp_path: Path, bench):
    write(tmp_path, "dog/1.jpg")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "cat" / "gone.jpg").symlink_to("nothing.jpg")
    manifest = read_manifest(tmp_path)
    assert [one.id for one in manifest.samples] == ["cat/gone", "cat/loop", "dog/1"]
    done = bench.extract(manifest, bench.image)
    assert done.missing == {"image": 1}
    assert [one.id for one in done.failures["image"]] == ["cat/loop", "dog/1"]


def test_a_folder_that_cannot_be_listed_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, "cat/1.jpg", "dog/1.jpg")
    inner = os.scandir

    def refuse(path: Path):  # root may list all
        if path.name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return inner(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot be read: .*Permission denied: .*dog"):
        read_manifest(tmp_path)


def test_a_class_that_may_be_a_split_is_not_guessed(tmp_path: Path):
    write(tmp_path, "test/1.jpg", "cat/1.jpg", "dog/2.jpg")
    with pytest.raises(
        DataError, match=r"holds folders of splits \(test\) beside others \(cat, dog\); which are classes"
    ):
        read_manifest(tmp_path)


def test_other_files_are_left_out_and_counted(tmp_path: Path, bench):
    write(tmp_path, "cat/1.jpg", "cat/1.json", "dog/2.jpg", "dog/.DS_Store", "dog/Thumbs", "README.md", "labels.txt")
    (tmp_path / ".git").mkdir()
    manifest = read_manifest(tmp_path)
    assert len(manifest.samples) == 2
    assert manifest.notes["left_out"] == {".md": 1, ".txt": 1, ".json": 1, "hidden": 2, "without a suffix": 1}
    lines = extraction_lines(manifest, bench.extract(manifest, bench.image), bench.store, 0.1)
    assert "  left out: 2 hidden, 1 .md, 1 .txt, 1 .json, 1 without a suffix" in lines


def test_one_folder_of_pictures_may_be_anything_unless_it_is_named(tmp_path: Path):
    write(tmp_path, "pictures/1.jpg", "notes.md")
    with pytest.raises(DataError, match=r"holds notes.md, pictures/, which is no layout that is known"):
        read_manifest(tmp_path)
    assert rows(read_manifest(tmp_path, layout="folders")) == [("pictures/1", "pictures", "")]
    with pytest.raises(UsageError, match="the layout folders has none"):
        read_manifest(tmp_path, layout="folders", columns={"label": "x"})
    with pytest.raises(DataError, match="is not laid out as folders; expected a folder with a folder of pictures"):
        read_manifest(tmp_path / "pictures", layout="folders")


def test_a_table_beside_the_folders_comes_first(tmp_path: Path):
    write(tmp_path, "cat/1.jpg", "dog/2.jpg")
    (tmp_path / "posts.csv").write_text("id,image,label\n1,cat/1.jpg,kitten\n")
    assert (read_manifest(tmp_path).layout, read_manifest(tmp_path, layout="folders").layout) == ("table", "folders")


def test_folders_are_encoded_and_shown(tmp_path: Path, bench):
    for number, name in enumerate(("cat/a", "cat/b", "dog/a")):
        path = tmp_path / "pets" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (80 * number, 50, 200)).save(path)
    (tmp_path / "pets" / "dog" / "a.txt").write_text("my day")
    done = bench.extract(read_manifest(tmp_path / "pets"))
    assert done.encoded == 4
    assert done.view.labels.tolist() == ["cat", "cat", "dog"]
    shown = originals(done.view, ["dog/a"]).found["dog/a"]
    assert (shown.texts, list(shown.pictures)) == ({"text": "my day"}, ["image"])
