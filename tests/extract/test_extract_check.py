"""What a check says of a data set, against what was put into it."""

import csv
import io
import json
import re
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image

from cache import DataError, ModelError, StoreError, UsageError
from extract import CheckSettings, Manifest, Sample, check_data, check_lines, read_manifest, write_check
from extract.check import measure
from extract.decode import DecodeError, decode_image
from extract.manifest import Piece
from tests.extract.audio_data import RATE, tone, wav
from tests.extract.check_data import photograph, write_bad_posts, write_json_lines


def found_in(path, columns=None, **settings):
    return check_data(read_manifest(path, columns=columns), CheckSettings(**settings))


def keys(checked):
    return {one["key"]: one["level"] for one in checked.summary["findings"]}


def text_of(checked, key):
    [one] = [one["text"] for one in checked.summary["findings"] if one["key"] == key]
    return one


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    return found_in(write_bad_posts(tmp_path_factory.mktemp("bad") / "posts"))


def test_rows_classes_and_splits_are_counted(bad):
    summary = bad.summary
    assert (summary["rows"], summary["labelled"], summary["task"]) == (60, 59, "classification")
    assert summary["labels"]["classes"] == {"good": 39, "bad": 20}
    assert summary["labels"]["majority"] == {"label": "good", "share": round(39 / 59, 4)}
    of = summary["splits"]["of"]
    assert {name: (one["rows"], one["labelled"]) for name, one in of.items()} == {"train": (45, 45), "test": (15, 14)}
    assert keys(bad)["labels-missing"] == "note"


def test_what_is_missing_and_broken_is_named(bad):
    image = bad.summary["modalities"]["image"]
    assert (image["present"], image["missing"], image["failed"]) == (57, 1, 2)
    assert bad.summary["failed"] == 2
    assert {one["id"]: one["modality"] for one in bad.summary["failures"]} == {"p8": "image", "p10": "image"}
    reasons = {one["id"]: one["reason"] for one in bad.summary["failures"]}
    assert "it is a web page" in reasons["p10"]
    assert reasons["p8"]
    assert bad.summary["modalities"]["text"]["missing"] == 1
    assert keys(bad)["image-broken"] == "warning"
    assert keys(bad)["image-missing"] == keys(bad)["text-missing"] == "note"


def reason_of(raw):
    try:
        decode_image(raw)
    except DecodeError as error:
        return str(error)
    return None


def test_a_picture_is_broken_where_an_extraction_would_find_it_so(bad):
    files = {sample.id: sample.inputs["image"] for sample in bad.manifest.samples}
    expected = {name: reason_of(path.read_bytes()) for name, path in files.items() if path.exists()}
    broken = {failure.id: failure.reason for failure in bad.failures["image"]}
    assert broken == {name: reason for name, reason in expected.items() if reason is not None}


def test_sizes_and_oddities_of_pictures(bad):
    image = bad.summary["modalities"]["image"]
    assert image["width"]["min"] == 60
    assert image["width"]["max"] == 200
    assert image["height"]["max"] == 200, "the one that EXIF turns is 100 x 200"
    assert image["formats"] == {"JPEG": 56, "GIF": 1}
    assert {name: image[name] for name in ("rotated", "animated", "one_colour", "tiny", "long")} == {
        "rotated": 1,
        "animated": 1,
        "one_colour": 2,
        "tiny": 2,
        "long": 1,
    }
    assert {key for key in keys(bad) if re.fullmatch("image-(rotated|animated|one_colour|tiny|long)", key)}


def test_equal_contents_are_found_with_their_labels_and_splits(bad):
    text = bad.summary["duplicates"]["equal"]["text"]
    assert (text["groups"], text["rows"], text["largest"]) == (2, 6, 4)
    # p0 and p3 are bad, p1 and p2 good; p17 good, p18 bad.
    assert text["conflicts"] == {"groups": 2, "rows": 6, "wrong": 3}
    # p0 is of test and stands in train; p17 and p18 are both of train.
    assert text["across"] == {"groups": 1, "rows": {"test": 1}}
    image = bad.summary["duplicates"]["equal"]["image"]
    assert (image["groups"], image["rows"], image["conflicts"]["groups"]) == (1, 2, 0)
    assert image["across"]["rows"] == {"test": 1}
    assert [row["id"] for row in image["examples"][0]["rows"]] == ["p4", "p5"]
    assert keys(bad)["text-equal-conflicts"] == keys(bad)["text-equal-across"] == "warning"
    assert "94.9 %" in text_of(bad, "text-equal-conflicts")
    assert "1 of test" in text_of(bad, "image-equal-across")
    assert bad.summary["duplicates"]["sample"]["groups"] == 0


def test_nearly_equal_contents_are_found(bad):
    text = bad.summary["duplicates"]["near"]["text"]
    assert (text["groups"], text["rows"], text["contents"], text["same_but_form"]) == (1, 5, 2, 1)
    assert [row["id"] for row in text["examples"][0]["rows"]] == ["p0", "p1", "p2", "p9"], "p9 is the one that differs"
    image = bad.summary["duplicates"]["near"]["image"]
    assert (image["groups"], image["rows"], image["contents"]) == (1, 3, 2)
    assert [bad.manifest.samples[row].id for row in bad.groups["near", "image"][0]] == ["p4", "p5", "p6"]
    assert image["complete"]
    assert keys(bad)["image-near"] == "note", "with splits there are no folds that part them"
    assert keys(bad)["image-near-across"] == "warning"


def test_the_column_that_gives_the_label_away_is_found(bad):
    leaks = [one["name"] for one in bad.summary["leaks"]["columns"] if one["level"] != "none"]
    assert leaks == ["mark"]
    looked_at = {one["name"] for one in bad.summary["leaks"]["columns"]}
    assert looked_at >= {"noise", "place in the data", "image: bytes", "image: format", "text: words", "text: is there"}
    assert not looked_at & {"label", "split", "text", "image"}
    assert "'mark' alone gives the label away: 1.00" in text_of(bad, "leak")


def test_without_splits_folds_keep_equal_contents_together_and_part_near_ones(tmp_path, bench):
    checked = found_in(write_bad_posts(tmp_path / "posts", splits=False))
    assert checked.summary["splits"]["of"] == {}
    assert not [key for key in keys(checked) if key.endswith("-across")]
    assert keys(checked)["image-near"] == "warning"
    assert checked.summary["kept_together"] == 3 + 1 + 1
    groups = bench.extract(checked.manifest).view.groups
    assert len(groups) - len(np.unique(groups)) == checked.summary["kept_together"], "as fuse will have it"


def test_texts_are_counted_in_tokens_of_the_model(bad, bert):
    plain = bad.summary["modalities"]["text"]
    assert "tokens" not in plain
    assert plain["words"]["median"] == 12
    assert keys(bad)["tokens-uncounted"] == "note"
    assert "bert-base-uncased is not in the local hub cache" in bad.summary["text_model"]
    from transformers import BertTokenizerFast

    tokenizer = BertTokenizerFast.from_pretrained(bert)
    texts = [str(sample.inputs["text"]) for sample in bad.manifest.samples if "text" in sample.inputs]
    expected = [len(tokenizer(text)["input_ids"]) for text in texts]
    counted = check_data(bad.manifest, CheckSettings(("text",), str(bert))).summary["modalities"]["text"]
    assert counted["tokens"]["max"] == max(expected)
    assert counted["tokens"]["median"] == np.median(expected)
    assert counted["longest"] == 24
    assert counted["truncated"] == sum(one > 24 for one in expected) > 0
    short = check_data(bad.manifest, CheckSettings(("text",), str(bert), max_length=5)).summary["modalities"]["text"]
    assert short["truncated"] == sum(one > 5 for one in expected)
    assert {"text-cut"} <= {
        one["key"] for one in check_data(bad.manifest, CheckSettings(("text",), str(bert))).summary["findings"]
    }


def test_a_text_model_that_is_named_must_be_there(bad, tmp_path):
    with pytest.raises(ModelError, match="--text-model FOLDER"):
        check_data(bad.manifest, CheckSettings(("text",), str(tmp_path / "none")))
    with pytest.raises(DataError, match="has no sound; it has text, image"):
        check_data(bad.manifest, CheckSettings(("sound",)))
    with pytest.raises(UsageError, match="no task"):
        check_data(bad.manifest, CheckSettings(task="ranking"))


def samples(labels, splits=None, texts=None, group=""):
    splits, texts = splits or [""] * len(labels), texts or [f"text number {n} of many" for n in range(len(labels))]
    return [
        Sample(str(number), {"text": text}, label, split, group)
        for number, (label, split, text) in enumerate(zip(labels, splits, texts, strict=True))
    ]


def of(tmp_path, *args, **options):
    return check_data(Manifest(tmp_path, "table", tuple(samples(*args, **options))))


@pytest.mark.parametrize(
    ("labels", "splits", "key", "level"),
    [
        (["a"] * 8, None, "labels-one", "error"),
        (["", ""], None, "labels-none", "note"),
        (["a"] * 9 + ["b"] * 4, None, "classes-few", "error"),
        (["a", "b"] * 9 + ["A"] * 5, None, "labels-alike", "warning"),
        (["1", "0"] * 9 + ["1.0"] * 5, None, "labels-alike", "warning"),
        (["1", "0"] * 9 + ["?"] * 5, None, "labels-mixed", "warning"),
        (["1", "0"] * 9 + ["1.0"] * 5, None, "labels-refused", "error"),
        (["1.5", "0.25"] * 9 + ["good"] * 5, None, "labels-refused", "error"),
        (["a"] * 30 + ["b"] * 10, None, "imbalance", "warning"),
        (["a", "b"] * 6, ["train", "half"] * 6, "splits-unknown", "error"),
        (["a", "b"] * 6, ["train", "test", "", ""] * 3, "splits-missing", "error"),
        (["a", "b", "c"] * 4, ["Training"] * 8 + ["TEST"] * 4, None, ""),
        (["a", "b"] * 4 + ["c"], ["train"] * 6 + ["test"] * 3, "labels-unseen", "error"),
    ],
)
def test_labels_and_splits_that_later_commands_refuse_or_misread(tmp_path, labels, splits, key, level):
    found = keys(of(tmp_path, labels, splits))
    if key is None:
        assert not [one for one in found if one.startswith(("labels", "splits", "classes"))]
    else:
        assert found[key] == level


def test_numbers_are_a_regression(tmp_path):
    texts = ["just the same words", "just the same words", *(f"text {number} {number}" for number in range(58))]
    labels = ["1.5", "-2.5", *(f"{number / 7:.2f}" for number in range(58))]
    checked = of(tmp_path, labels, None, texts)
    assert checked.summary["task"] == "regression"
    assert checked.summary["labels"]["numbers"]["min"] == -2.5
    assert checked.summary["duplicates"]["equal"]["text"]["conflicts"]["largest_difference"] == 4.0
    assert "differ by up to 4." in text_of(checked, "text-equal-conflicts")
    assert {one["name"]: one["level"] for one in checked.summary["leaks"]["columns"]}["id"] == "warning", "sorted"
    mixed = check_data(
        Manifest(tmp_path, "table", tuple(samples(["1.5", "good", "2.5"]))), CheckSettings(task="regression")
    )
    assert keys(mixed)["labels-mixed"] == "error"
    assert any("numbers from -2.5" in line for line in check_lines(checked.summary))


def test_rows_with_nothing_in_them(tmp_path):
    none = Manifest(tmp_path, "table", (Sample("a", {}, "x"), Sample("b", {"text": "one"}, "y")), declared=("image",))
    checked = check_data(none)
    assert checked.summary["empty_rows"] == 1
    assert keys(checked)["rows-empty"] == "warning"
    assert keys(checked)["image-none"] == "error"


@dataclass(frozen=True)
class InATar(Piece):
    """A picture in a larger file; one of them cannot be read."""

    number: int

    @property
    def name(self):
        return f"{self.number}.png"

    def read(self):
        if self.number == 3:
            raise OSError(5, "Input/output error")
        file = io.BytesIO()
        photograph(self.number % 3).save(file, "PNG")
        return file.getvalue()


def test_contents_may_be_pieces_and_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "AT_ONCE", 2)
    pieces = [Sample(str(number), {"image": InATar(number)}, "ab"[number % 2]) for number in range(5)]
    checked = check_data(Manifest(tmp_path, "tar", (*pieces, Sample("5", {"image": b"GIF89a"}, "a"))))
    image = checked.summary["modalities"]["image"]
    assert (image["present"], image["failed"], image["distinct"]) == (4, 2, 3)
    assert {one["id"]: one["reason"] for one in checked.summary["failures"]}[
        "3"
    ] == "cannot be read: Input/output error"
    assert checked.summary["duplicates"]["equal"]["image"]["groups"] == 1
    assert "all that the layout tar may have beside its inputs" in text_of(checked, "leaks-partly")


def test_arrays_columns_and_sound(tmp_path):
    rows = []
    for number in range(60):
        np.save(
            tmp_path / f"{number}.npy", np.full((3 + number % 3, 6 if number != 5 else 7), number, dtype=np.float32)
        )
        (tmp_path / f"{number}.wav").write_bytes(wav(tone(0.1 + number / 100, RATE)))
        rows.append(
            {"id": number, "face": f"{number}.npy", "audio": f"{number}.wav", "price": number, "kind": "xy"[number % 2]}
        )
        rows[-1] |= {"label": "uv"[number % 2], "text": f"text {number} {number * 7}", "list": [1, 2]}
    (tmp_path / "7.npy").write_bytes(b"no array")
    (tmp_path / "8.wav").write_bytes(b"RIFF\x10\x00\x00\x00WAVE")
    rows[9]["price"] = None
    path = write_json_lines(tmp_path / "rows.jsonl", rows)
    checked = found_in(path, {"face": "face", "audio": "audio", "tabular": "price+kind"})
    face, audio = checked.summary["modalities"]["face"], checked.summary["modalities"]["audio"]
    assert (face["present"], face["failed"], face["widths"]) == (59, 1, {"6": 58, "7": 1})
    assert face["lengths"]["max"] == 5
    assert (audio["present"], audio["failed"]) == (59, 1)
    assert 0.6 < audio["seconds"]["max"] < 0.8
    assert checked.summary["modalities"]["tabular"]["columns"] == {
        "kind": {"kind": "categories", "missing": 0, "distinct": 2},
        "price": {"kind": "numbers", "missing": 1, "distinct": 59},
    }
    assert keys(checked)["face-widths"] == "warning"
    assert keys(checked)["leaks-partly"] == "note"
    [leak] = [one for one in checked.summary["leaks"]["columns"] if one["level"] != "none"]
    assert (leak["name"], leak["is_input"]) == ("tabular: kind", True)
    assert "tabular" not in checked.summary["duplicates"]["equal"]
    assert any("columns: kind (categories, 0 missing)" in line for line in check_lines(checked.summary))


def test_arrays_must_fit_their_words(tmp_path):
    rows = []
    for number in range(4):
        np.save(tmp_path / f"{number}.npy", np.ones((2 + (number == 3), 5), dtype=np.float32) * number)
        rows.append({"words": ["one", f"two{number}"], "sound": f"{number}.npy", "label": "a"})
    checked = found_in(write_json_lines(tmp_path / "rows.jsonl", rows), {"sound": "sound", "words": "words"})
    assert [one["reason"] for one in checked.summary["failures"]] == ["it has 3 rows for 2 words; each word needs one"]


def test_files_of_a_check(bad, tmp_path):
    folder = write_check(bad, tmp_path / "deep" / "out")
    assert json.loads((folder / "check.json").read_text()) == json.loads(json.dumps(bad.summary))
    with (folder / "rows.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    near = [row["id"] for row in rows if (row["what"], row["modality"]) == ("near", "image")]
    assert near == ["p4", "p5", "p6"]
    assert len({row["group"] for row in rows if row["what"] == "equal"}) == 3
    assert {row["id"] for row in rows if row["what"] == "broken"} == {"p8", "p10"}
    assert [(row["id"], row["modality"]) for row in rows if row["what"] == "missing"] == [
        ("p15", "text"),
        ("p7", "image"),
    ]
    write_check(bad, folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose another --out"):
        write_check(bad, tmp_path / "file" / "out")


def test_columns_of_several_tables_belong_to_their_rows(tmp_path):
    for split, start in (("train", 0), ("test", 80)):
        lines = ["text,label,secret"]
        lines += [f"text number {n},{'ab'[n % 2]},{'uv'[n % 2]}" for n in range(start, start + 80)]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    checked = found_in(tmp_path)
    assert {one["name"]: one["score"] for one in checked.summary["leaks"]["columns"]}["secret"] == 1.0


@pytest.mark.parametrize("several", [False, True])
def test_columns_of_parquet_belong_to_their_rows(tmp_path, several):
    import pyarrow
    from pyarrow import parquet

    for split in ("train", "test") if several else ("train",):
        columns = {"text": [f"{split} {n}" for n in range(160)], "label": list("ab") * 80, "secret": list("uv") * 80}
        parquet.write_table(pyarrow.table(columns), tmp_path / f"{split}.parquet")
    checked = found_in(tmp_path)
    assert {one["name"]: one["score"] for one in checked.summary["leaks"]["columns"]}["secret"] == 1.0


def test_a_table_in_another_encoding_is_read_again_as_it_was(tmp_path):
    lines = ["text,label,secret", *(f"na\u00efve number {n},{'ab'[n % 2]},{'uv'[n % 2]}" for n in range(80))]
    (tmp_path / "posts.csv").write_bytes("\n".join(lines).encode("cp1252"))
    checked = check_data(read_manifest(tmp_path, encoding="cp1252"))
    assert {one["name"]: one["score"] for one in checked.summary["leaks"]["columns"]}["secret"] == 1.0
    assert "cp1252" in text_of(checked, "read")


def test_a_column_that_is_a_group_is_judged_as_one(tmp_path):
    rows = samples(["ab"[n // 5 % 2] for n in range(100)])
    grouped = [replace(one, group=f"g{n // 5}") for n, one in enumerate(rows)]
    checked = check_data(Manifest(tmp_path, "table", tuple(grouped)))
    [group] = [one for one in checked.summary["leaks"]["columns"] if one["is_group"]]
    assert (group["name"], group["level"]) == ("group", "warning")
    assert checked.summary["groups"] == 20
    assert checked.summary["kept_together"] == 80


def test_the_text_of_a_check_has_no_surprises(bad):
    lines = check_lines(bad.summary)
    assert lines[0].endswith("60 rows, layout table (id=id, text=text, image=image, label=label, split=split)")
    assert "  labels: good 39, bad 20; 1 row without" in lines
    assert lines[-1].startswith("0 errors, ")
    levels = [line.partition(":")[0] for line in lines if re.match("(error|warning|note): ", line)]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)
    assert not [line for line in lines if "None" in line or "nan" in line.split()]


def test_pictures_are_taken_as_they_are_decoded(tmp_path):
    Image.new("I;16", (80, 90), 40000).save(tmp_path / "deep.png")
    Image.new("CMYK", (80, 90), (0, 200, 10, 0)).save(tmp_path / "print.jpg")
    checked = check_data(
        Manifest(tmp_path, "table", tuple(Sample(n, {"image": tmp_path / n}, "a") for n in ("deep.png", "print.jpg")))
    )
    assert checked.summary["modalities"]["image"]["modes"] == {"I;16": 1, "CMYK": 1}


def test_the_default_model_is_taken_where_it_lies_here(bad, bert, tmp_path, monkeypatch):
    shutil.copytree(bert, tmp_path / "bert-base-uncased")
    monkeypatch.chdir(tmp_path)
    checked = check_data(bad.manifest, CheckSettings(("text",)))
    assert checked.summary["text_model"] == "bert-base-uncased"
    assert checked.summary["modalities"]["text"]["tokens"]["max"] > 10
    (tmp_path / "bert-base-uncased" / "vocab.txt").unlink()
    with pytest.raises(ModelError, match="vocabulary"):
        check_data(bad.manifest, CheckSettings(("text",)))
