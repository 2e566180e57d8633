"""Leakage candidates: what was planted is found, chance is not."""

import numpy as np
import pytest

from extract import check_data, read_manifest
from extract.check.leaks import FEWEST, Column, candidates, sampled


def levels(found):
    return {one["name"]: one["level"] for one in found["columns"]}


def looked_at(columns, labels, task="classification", together=None):
    n = np.arange(len(labels))
    return candidates(columns, labels, n if together is None else together, n, task)


@pytest.fixture
def labels():
    """300 rows of three classes, 70, 20 and 10 of a hundred."""
    return np.random.default_rng(0).choice(["a", "b", "c"], 300, p=[0.7, 0.2, 0.1]).tolist()


def test_what_was_planted_is_found(labels):
    draw, y = np.random.default_rng(1), np.array(labels)
    rare = [f"{label}{draw.integers(20)}" for label in labels]  # each of 60 categories is of one class
    spoilt = np.where(draw.random(300) < 0.15, draw.permutation(y), y).tolist()
    found = looked_at(
        [
            Column("copy", labels),
            Column("size", np.where(y == "c", 5.0, 1.0) + draw.random(300)),  # one rare class alone
            Column("code", [{"a": "17", "b": "4", "c": "90"}[label] for label in labels]),
            Column("rare", rare),
            Column("spoilt", spoilt, is_input=True),
            Column("empty for a", ["" if label == "a" else "x" for label in labels]),
        ],
        labels,
    )
    assert (
        levels(found)["copy"] == levels(found)["code"] == levels(found)["rare"] == levels(found)["spoilt"] == "warning"
    )
    assert levels(found)["size"] in ("note", "warning")
    assert levels(found)["empty for a"] in ("note", "warning")
    assert found["columns"][0]["score"] == 1.0
    assert [one["name"] for one in found["columns"] if one["is_input"]] == ["spoilt"]


def test_what_is_different_in_every_row_gives_nothing_away(labels):
    ids = [f"post-{number}" for number in range(300)]
    found = looked_at([Column("id", ids), Column("place", np.arange(300.0)), Column("constant", ["x"] * 300)], labels)
    assert levels(found) == {"place": "none"}


def test_ids_that_go_by_class_are_found(labels):
    found = looked_at([Column("id", [str(1000 * "abc".index(one) + row) for row, one in enumerate(labels)])], labels)
    assert levels(found) == {"id": "warning"}


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_chance_is_hardly_ever_taken_for_a_leak(task):
    alarms = total = 0
    for seed in range(12):
        draw = np.random.default_rng(seed)
        n, classes = (60, 200)[seed % 2], (2, 3)[seed % 3 > 0]
        shares = [0.7, *[0.3 / (classes - 1)] * (classes - 1)]
        labels = [
            str(one) for one in (draw.choice(classes, n, p=shares) if task != "regression" else draw.normal(size=n))
        ]
        columns = [
            Column("number", draw.normal(size=n)),
            Column("users", [f"u{one}" for one in draw.integers(0, n // 3, n)]),
            Column("few", [str(one) for one in draw.integers(0, 4, n)]),
            Column("holes", np.where(draw.random(n) < 0.5, np.nan, draw.random(n))),
        ]
        found = levels(looked_at(columns, labels, task))
        alarms += sum(level != "none" for level in found.values())
        total += len(found)
    assert total >= 44
    assert alarms <= 1


def test_numbers_are_predicted_too():
    draw = np.random.default_rng(0)
    y = draw.normal(size=200)
    columns = [
        Column("close", y + 0.1 * draw.normal(size=200)),
        Column("sign", ["+" if one > 0 else "-" for one in y]),
        Column("noise", draw.normal(size=200)),
    ]
    assert levels(looked_at(columns, [f"{one:.4f}" for one in y], "regression")) == {
        "close": "warning",
        "sign": "warning",
        "noise": "none",
    }


def test_a_group_that_is_kept_in_one_fold_hides_what_it_knows():
    """Each author has one class: that tells nothing of other authors, but the group itself is a leak."""
    draw = np.random.default_rng(0)
    author = np.repeat(np.arange(60), 5)
    labels = [("a", "b")[one] for one in draw.integers(0, 2, 60)[author]]
    followers = draw.integers(0, 10**6, 60)[author].astype(float)
    names = [f"user{one}" for one in author]
    found = looked_at([Column("followers", followers), Column("group", names, is_group=True)], labels, together=author)
    assert levels(found) == {"followers": "none", "group": "warning"}
    assert levels(looked_at([Column("followers", followers)], labels)) == {"followers": "warning"}


def test_of_few_rows_nothing_is_said():
    found = looked_at([Column("copy", ["a", "b"])], ["a", "b"])
    assert found["columns"] == []
    assert f"fewer than {FEWEST}" in found["why"]
    assert "two classes" in looked_at([], ["a"] * 60)["why"]


def test_long_and_odd_cells_do_no_harm(labels):
    cells = ["x" * 100_000, "nan", "inf", "1e400", "", "١٢"] * 50
    assert len(looked_at([Column("odd", cells)], labels)["columns"]) == 1


def test_many_rows_are_sampled():
    rows = np.arange(100)
    assert sampled(rows, 200) is rows
    assert len(sampled(rows, 30)) == 30
    assert sampled(rows, 30).tolist() == sorted(sampled(rows, 30).tolist())


def test_the_label_is_no_leak_of_itself_where_the_last_table_lacks_it(tmp_path):
    labelled = [f"text number {number},{'ab'[number % 2]}" for number in range(80)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *labelled]))
    (tmp_path / "test.csv").write_text("text\none more\n")
    checked = check_data(read_manifest(tmp_path))
    assert checked.summary["columns"] == {"text": "text", "label": "label"}
    assert "label" not in [one["name"] for one in checked.summary["leaks"]["columns"]]
