from pathlib import Path

import pytest

from cache import DataError
from extract.manifest import Manifest, Sample, checked_manifest, inside, label_counts


def test_all_bad_rows_are_reported_at_once():
    samples = [Sample("a", {}, line=2), Sample("", {}, line=3), Sample("a", {}, line=4), Sample("n\0", {}, line=5)]
    samples.append(Sample("half", {}, label="\ud83d", line=6))
    with pytest.raises(DataError) as caught:
        checked_manifest(Path("posts.csv"), "table", samples, ["line 9: 1 cells under 3 columns"])
    message = str(caught.value)
    assert "posts.csv has 5 bad rows" in message
    assert "line 9: 1 cells under 3 columns" in message
    assert "line 3: the id is empty" in message
    assert "line 5: id, label or split holds a NUL" in message
    assert "line 6: id, label or split holds a NUL or half a surrogate pair" in message
    assert "id 'a' stands 2 times (line 2, line 4)" in message


def test_first_twenty_bad_rows_are_shown_and_the_rest_counted():
    with pytest.raises(DataError, match="23 bad rows") as caught:
        checked_manifest(Path("p"), "table", [], [f"line {n}: bad" for n in range(23)])
    assert str(caught.value).count(": bad") == 20
    assert "and 3 more" in str(caught.value)


def test_no_rows_are_refused():
    with pytest.raises(DataError, match=r"posts\.csv was read as table and holds no rows"):
        checked_manifest(Path("posts.csv"), "table", [])


def test_rows_keep_their_order_and_modalities_have_a_fixed_one():
    samples = [Sample("b", {"image": Path("b")}), Sample("a", {"audio": Path("a"), "text": "x"})]
    manifest = checked_manifest(Path("p"), "table", samples)
    assert [sample.id for sample in manifest.samples] == ["b", "a"]
    assert manifest.modalities == ("text", "image", "audio")


def test_labels_are_counted_without_the_unlabelled():
    labels = ["x", "y", "", "y"]
    manifest = Manifest(Path("p"), "table", tuple(Sample(str(n), {}, label) for n, label in enumerate(labels)))
    assert list(label_counts(manifest).items()) == [("y", 2), ("x", 1)]
    assert [sample.id for sample in manifest.unlabelled().samples] == ["2"]


def test_paths_that_leave_the_folder_are_refused(tmp_path: Path):
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    (root / "out").symlink_to(tmp_path)
    assert inside(root, "sub/../1.jpg") is not None
    assert inside(root, str(root / "1.jpg")) == root / "1.jpg"
    for name in ("\ud800.jpg", "../1.jpg", "/etc/passwd", "out/1.jpg", "1\0.jpg", "sub/../../data2/1.jpg"):
        assert inside(root, name) is None, name
