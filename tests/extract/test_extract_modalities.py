"""Several images a row, further texts, columns of numbers and categories."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cache import DataError, UsageError
from extract import EncoderSpec, Manifest, check_data, choose_specs, found_in, originals, read_manifest
from extract.encoders.tabular import TabularEncoder
from extract.found import columns_in, settled_columns

IMAGES = {"id": "id", "image": "photo1", "image_2": "photo2", "label": "label"}


def pictures(folder: Path, count: int) -> None:
    draw = np.random.default_rng(1)
    for number in range(count):
        Image.fromarray(draw.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / f"{number}.png")


def reviews(folder: Path, rows: list[tuple[str, ...]], header: str = "id,photo1,photo2,label") -> Path:
    (folder / "reviews.csv").write_text("\n".join([header, *map(",".join, rows)]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def image(bench) -> Callable[[str], EncoderSpec]:
    return lambda name: EncoderSpec(name, "shufflenet_v2_x0_5", weights=str(bench.shufflenet))


def test_two_images_a_row_share_one_store_and_each_is_encoded_once(tmp_path: Path, bench, image, encoded):
    folder = tmp_path / "data"
    folder.mkdir()
    pictures(folder, 4)
    rows = [("a", "0.png", "1.png", "x"), ("b", "1.png", "", "y"), ("c", "2.png", "gone.png", "x")]
    manifest = read_manifest(reviews(folder, [*rows, ("d", "", "3.png", "y")]), columns=IMAGES)
    assert manifest.modalities == ("image", "image_2")
    done = bench.extract(manifest, image("image"), image("image_2"))
    assert done.encoded == sum(size for _, size in encoded) == 4
    assert {block.encoder for block in done.view.blocks.values()} == {done.view.blocks["image"].encoder}
    one, two = bench.vectors(done, "image"), bench.vectors(done, "image_2")
    assert np.isnan(one).all(axis=1).tolist() == [False, False, False, True]
    assert np.isnan(two).all(axis=1).tolist() == [False, True, True, False]
    assert np.array_equal(two[0], one[1])
    assert not np.array_equal(one[0], one[1])
    assert done.missing == {"image": 1, "image_2": 2}
    assert bench.extract(manifest, image("image"), image("image_2")).encoded == 0


def test_the_precision_of_two_images_is_settled_once(tmp_path: Path, bench, image, monkeypatch: pytest.MonkeyPatch):
    pictures(tmp_path, 2)
    manifest = read_manifest(reviews(tmp_path, [("a", "0.png", "1.png", "x")]), columns=IMAGES)
    answers = ["fp32", "bf16"]
    monkeypatch.setattr("extract.chosen.choose_precision", lambda *_: (answers.pop(0), "by chance"))
    monkeypatch.setattr("extract.runtime._cpu_has_bf16", lambda: True)
    done = bench.extract(manifest, *(replace(image(name), precision="auto") for name in ("image", "image_2")))
    assert answers == ["bf16"]
    assert done.precision == dict.fromkeys(("image", "image_2"), ("fp32", "by chance"))
    assert len({block.encoder for block in done.view.blocks.values()}) == 1


def test_equal_pictures_in_two_columns_keep_rows_together(tmp_path: Path, bench, image):
    pictures(tmp_path, 5)
    rows = [("a", "0.png", "1.png", "x"), ("b", "1.png", "2.png", "y"), ("c", "3.png", "4.png", "x")]
    done = bench.extract(read_manifest(reviews(tmp_path, rows), columns=IMAGES), image("image"), image("image_2"))
    assert done.view.groups.tolist() == [0, 0, 1]


def test_failures_of_both_columns_are_recorded(tmp_path: Path, bench, image):
    pictures(tmp_path, 2)
    (tmp_path / "2.png").write_bytes(b"<html>")
    (tmp_path / "3.png").write_bytes(b"<body>")
    (tmp_path / "folder.png").mkdir()
    rows = [("a", "2.png", "3.png", "x"), ("b", "0.png", "2.png", "y"), ("c", "folder.png", "1.png", "x")]
    manifest = read_manifest(reviews(tmp_path, rows), columns=IMAGES)
    for _ in range(2):  # the second time they are known
        done = bench.extract(manifest, image("image"), image("image_2"))
        assert [one.id for one in done.failures["image"]] == ["c", "a"]
        assert [one.id for one in done.failures["image_2"]] == ["a", "b"]
        assert len(bench.failures(done, "image")) == 3  # a broken picture stands once
    assert done.encoded == 0


def test_a_second_text_takes_the_options_of_text(tmp_path: Path, bench, bert_alone):
    (tmp_path / "posts.csv").write_text("id,title,body\n1,the sun,my day\n2,my day,\n")
    manifest = read_manifest(tmp_path, columns={"text": "title", "text_body": "body"})
    given = {"text": {"model": str(bench.bert), "precision": "fp32", "output": "cls"}}
    specs = choose_specs(manifest.modalities, given, {}, {}, found_in(manifest))
    done = bench.extract(manifest, *specs)
    assert done.encoded == 2
    np.testing.assert_allclose(bench.vectors(done, "text_body")[0], bert_alone("my day")[1], atol=1e-5)
    assert np.array_equal(bench.vectors(done, "text_body")[0], bench.vectors(done, "text")[1])
    assert originals(done.view, ["1"]).found["1"].texts == {"text": "the sun", "text_body": "my day"}


GOODS = "id,title,price,brand,stars\n1,sun,9.5,ACME,5\n2,rain,,Zed,4\n3,day,-2e3,ACME,\n4,home,,,\n5,sun,9.5,ACME,5\n"
TABULAR = {"id": "id", "text": "title", "tabular": "price+brand+stars"}


def goods(folder: Path, text: str = GOODS) -> Manifest:
    (folder / "goods.csv").write_text(text, encoding="utf-8")
    return read_manifest(folder / "goods.csv", columns=TABULAR)


def test_columns_become_numbers_and_categories(tmp_path: Path, bench):
    manifest = goods(tmp_path)
    (spec,) = choose_specs(["tabular"], {}, {}, {}, found_in(manifest))
    assert dict(spec.columns) == {"price": None, "brand": ("ACME", "Zed"), "stars": None}
    done = bench.extract(manifest, spec)
    rows = dict(zip("12345", bench.vectors(done, "tabular").tolist(), strict=True))
    names = [name for name, known in spec.columns for _ in range(2)]
    assert names == ["brand"] * 2 + ["price"] * 2 + ["stars"] * 2
    assert rows["1"] == rows["5"] == [1, 0, 9.5, 0, 5, 0]
    assert rows["2"] == [0, 1, 0, 1, 4, 0]
    assert rows["3"] == [1, 0, -2000, 0, 0, 1]
    assert np.isnan(rows["4"]).all()
    assert done.missing["tabular"] == 1


def test_words_for_nothing_make_no_categories_of_numbers(tmp_path: Path, bench):
    cells = ["9.5", "NA", "nan", "None", "null", "", "inf", "3"]
    text = "".join(f"{number},t,{cell},NA,1\n" for number, cell in enumerate(cells))
    manifest = goods(tmp_path, f"id,title,price,brand,stars\n{text}")
    (spec,) = choose_specs(["tabular"], {}, {}, {}, found_in(manifest))
    assert dict(spec.columns) == {"price": None, "brand": ("NA",), "stars": None}
    done = bench.extract(manifest, spec)
    assert bench.vectors(done, "tabular")[:, 1].tolist()[:6] == [9.5, 0, 0, 0, 0, 0]
    assert bench.vectors(done, "tabular")[:, 2].tolist()[:6] == [0, 1, 1, 1, 1, 1]
    assert [(one.id, one.reason) for one in done.failures["tabular"]] == [("6", "price is 'inf', expected a number")]
    checked = check_data(manifest).summary["modalities"]["tabular"]["columns"]
    assert checked["price"] == {"kind": "numbers", "missing": 5, "distinct": 3}
    assert checked["brand"] == {"kind": "categories", "missing": 0, "distinct": 1}


@pytest.mark.parametrize(("cells", "known"), [(("2024_01", "2024_02"), ("2024_01", "2024_02")), (("", ""), None)])
def test_what_is_a_number_to_python_alone_is_none(
    tmp_path: Path, cells: tuple[str, str], known: tuple[str, ...] | None
):
    text = "".join(f"{number},t,1,b,{cell}\n" for number, cell in enumerate(cells))
    (spec,) = choose_specs(["tabular"], {}, {}, {}, found_in(goods(tmp_path, f"id,title,price,brand,stars\n{text}")))
    assert dict(spec.columns)["stars"] == known


def test_rows_with_equal_columns_are_not_the_same_thing_twice(tmp_path: Path, bench):
    text = "id,title,price,brand,stars\n1,sun,9.5,ACME,5\n2,rain,9.5,ACME,5\n"
    manifest = goods(tmp_path, text)
    done = bench.extract(manifest, *choose_specs(["tabular"], {}, {}, {}, found_in(manifest)))
    assert done.view.groups.tolist() == [0, 1]


def test_new_data_takes_the_columns_of_the_run(tmp_path: Path, bench):
    first = goods(tmp_path)
    (spec,) = choose_specs(["tabular"], {}, {}, {}, found_in(first))
    done = bench.extract(first, spec)
    base = {"tabular": json.loads(json.dumps(done.view.blocks["tabular"].spec))}
    new = goods(tmp_path, "id,title,price,brand,stars\n1,a,1,Other,2\n2,b,cheap,ACME,2\n3,c,1e300,ACME,2\n")
    (again,) = choose_specs(["tabular"], {}, {}, base)
    assert again == spec
    predicted = bench.extract(new, again, expected={"tabular": done.view.blocks["tabular"].encoder})
    assert bench.vectors(predicted, "tabular")[0].tolist() == [0, 0, 1, 0, 2, 0]
    reasons = [one.reason for one in predicted.failures["tabular"]]
    assert reasons == ["price is 'cheap', expected a number", "price is 1e300, too large for float32"]
    (other,) = choose_specs(["tabular"], {}, {}, {}, found_in(new))
    assert TabularEncoder(other).key.digest != TabularEncoder(spec).key.digest


def test_ids_are_no_categories(tmp_path: Path):
    rows = "\n".join(f"{number},t,1,brand {number},2" for number in range(1001))
    with pytest.raises(DataError, match=r"brand holds more than 1000 different values.*leave it out of --columns"):
        found_in(goods(tmp_path, f"id,title,price,brand,stars\n{rows}\n"))


def test_names_of_digits_with_an_underscore_are_categories():
    found = columns_in(['{"size": "2020_01", "price": "10"}', '{"size": "2020_02", "price": "1e1"}'])
    assert settled_columns([found]) == (("size", ("2020_01", "2020_02")), ("price", None))


def test_columns_have_to_be_known():
    with pytest.raises(UsageError, match="nothing says what the columns of tabular are"):
        TabularEncoder(EncoderSpec("tabular", "tabular"))


@pytest.mark.parametrize(
    ("columns", "text", "error", "message"),
    [
        (
            {"face": "sound"},
            "id,sound\n1,a.wav\n",
            DataError,
            r"line 2: sound is .* 'face', .* paths of .npy files; found",
        ),
        (
            {"audio": "sound"},
            "id,sound\n1,a.mov\n",
            DataError,
            r"line 2: sound is .* or of audio files \(.wav, .flac, ",
        ),
        ({"audio": "sound"}, "id,sound\n1,../a.wav\n", DataError, r"the audio file '../a.wav' lies outside"),
        (
            {"audio": "sound"},
            "id,sound\n1,a.wav\n2,b.npy\n3,\n4,b.npy\n",
            DataError,
            r"has 2 bad rows; .*\n  line 3: audio is an array, above it is an audio file; .*\n  line 5: audio is",
        ),
        ({"audio": "sound"}, "id,sound\n1,../a.npy\n", DataError, r"the array '../a.npy' lies outside"),
        ({"audio": "noise"}, "id,sound\n1,a.npy\n", DataError, "has no column 'noise' for audio"),
        ({"tabular": "a+c"}, "id,a,b\n1,1,2\n", DataError, "has no column 'c' for tabular; it has id, a, b"),
        ({"Audio 2": "sound"}, "id,sound\n1,a.npy\n", UsageError, "Audio 2 can be no role; use id, text, image"),
    ],
)
def test_columns_that_cannot_be_read_are_named(
    tmp_path: Path, columns: dict[str, str], text: str, error: type[Exception], message: str
):
    (tmp_path / "posts.csv").write_text(text, encoding="utf-8")
    with pytest.raises(error, match=message):
        read_manifest(tmp_path, columns=columns)


def jsonl(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "posts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def test_words_make_the_text(tmp_path: Path):
    rows = [{"words": ["a", 5, " b "], "text": "another"}, {"words": "the  day"}, {"words": None}]
    samples = read_manifest(jsonl(tmp_path, *rows), columns={"words": "words"}).samples
    assert [sample.inputs.get("text") for sample in samples] == ["a 5 b", "the day", None]
    with pytest.raises(DataError, match="line 1: the text is not its words with a space between"):
        read_manifest(tmp_path, columns={"words": "words", "text": "text"})
    jsonl(tmp_path, {"words": [["a"]]}, {"words": {}}, {"words": ["a", ""]}, {"words": ["a"], "face": [[1, 2], [3]]})
    with pytest.raises(DataError) as caught:
        read_manifest(tmp_path, columns={"words": "words", "vision": "face"})
    assert "has 4 bad rows" in str(caught.value)
    assert "line 4: face must be a list of numbers" in str(caught.value)
