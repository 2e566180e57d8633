"""Raw samples to features through sklearn's interface."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags

from cache import DataError, FeatureStore, FeatureTable, ModelError, PipelineError, UsageError, item_key, load
from extract import FeatureExtractor, Settings, extract, read_manifest
from tests.conftest import ROOT

TEXTS = ["love my day", "hate the rain", "great sun", "awful home", "love coffee", "hate the city"]
Make = Callable[..., FeatureExtractor]
Encoded = list[tuple[str, int]]


@pytest.fixture
def make(tmp_path: Path, bert: Path) -> Make:
    """Extractors with tiny encoders and a store in the test's own folder."""

    def made(**params: object) -> FeatureExtractor:
        tiny = {"text_model": bert, "image_model": "squeezenet1_1", "random_init": {"image": 0}}
        how = {"root": tmp_path, "device": "cpu", "precision": "fp32"}  # no measurement, which would be counted
        return FeatureExtractor(**{"store": tmp_path / "features", **tiny, **how, **params})

    return made


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, object]]:
    """Six different texts, and pictures that show six different colours."""
    for number in range(6):
        Image.new("RGB", (40, 30), (40 * number, 250 - 40 * number, 90)).save(tmp_path / f"{number}.png")
    return [{"text": text, "image": f"{number}.png", "y": number % 2} for number, text in enumerate(TEXTS)]


@pytest.fixture
def texts() -> list[str]:
    return [f"{text} {more}" for text in TEXTS for more in ("street", "a day")]


def counted(encoded: Encoded) -> dict[str, int]:
    """How many items of each modality were encoded since the last call."""
    found: dict[str, int] = {}
    for modality, size in encoded:
        found[modality] = found.get(modality, 0) + size
    encoded.clear()
    return found


def test_rows_keep_their_order_and_are_what_extract_gives(make: Make, rows, bert: Path, tmp_path: Path) -> None:
    table = make().fit_transform(rows)
    assert isinstance(table, FeatureTable)
    assert (table.shape, table.blocks) == ((6, 544), {"text": slice(0, 32), "image": slice(32, 544)})
    pd.DataFrame(rows).to_csv(tmp_path / "posts.csv", index=False)
    specs = make()._specs(("text", "image"))
    settings = Settings(tmp_path / "features", "posts", specs, device="cpu")
    done = extract(read_manifest(tmp_path / "posts.csv"), settings)
    assert (done.encoded, done.reused) == (0, 12)
    np.testing.assert_array_equal(table.to_numpy(), load(tmp_path / "features", "posts").to_numpy())
    assert len({row.tobytes() for row in np.asarray(table)}) == 6


def test_what_is_stored_is_not_encoded_again(make: Make, rows, encoded: Encoded, no_models) -> None:
    extractor = make()
    first = extractor.fit_transform([*rows, rows[2]])
    assert counted(encoded) == {"text": 6, "image": 6}  # equal content once
    no_models()
    shuffled = [rows[number] for number in (5, 2, 0)]
    np.testing.assert_array_equal(extractor.transform(shuffled), first.to_numpy()[[5, 2, 0]])
    np.testing.assert_array_equal(clone(extractor).fit(rows).transform(rows), first.to_numpy()[:6])
    assert counted(encoded) == {}


def test_fit_encodes_nothing_and_knows_the_columns(make: Make, rows, encoded: Encoded) -> None:
    extractor = make().fit(rows)
    assert counted(encoded) == {}
    assert (extractor.modalities_, extractor.n_features_out_) == (("text", "image"), 544)
    names = extractor.get_feature_names_out()
    assert (names[0], names[31], names[32], names[-1]) == ("text_0", "text_31", "image_0", "image_511")
    together = make().fit_transform(rows)
    assert extractor.transform(rows).blocks == together.blocks == extractor.blocks_
    assert extractor.encoders_ == make().fit(rows).encoders_


def test_vectors_do_not_depend_on_the_rows_beside_them(make: Make, rows, tmp_path: Path) -> None:
    together = make().fit_transform(rows).to_numpy()
    alone = make(store=tmp_path / "other").fit(rows)
    for number, row in enumerate(rows[:3]):
        np.testing.assert_allclose(alone.transform([row])[0], together[number], rtol=0, atol=1e-5)


NOTHING = [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, "", "  "]


def test_nothing_in_any_form_is_missing(make: Make, rows) -> None:
    empty = [{"text": one, "image": one} for one in NOTHING]
    for X in ([*rows, *empty], pd.DataFrame([*rows, *empty])):
        table = make().fit_transform(X)
        assert table.masks["text"].tolist() == table.masks["image"].tolist() == [True] * 6 + [False] * len(NOTHING)


def test_what_is_missing_is_masked_and_keeps_its_row(make: Make, rows) -> None:
    full = make().fit(rows).transform(rows)
    holed = [dict(row) for row in rows]
    holed[1]["text"] = holed[3]["image"] = None
    del holed[4]["text"]
    holed[5]["image"] = "gone.png"
    for X in (holed, pd.DataFrame(holed)):
        table = make().fit_transform(X)
        np.testing.assert_array_equal(table.masks["text"], [True, False, True, True, False, True])
        np.testing.assert_array_equal(table.masks["image"], [True, True, True, False, True, False])
        for name, part in full.blocks.items():
            expected = np.where(table.masks[name][:, None], full.to_numpy()[:, part], 0)
            np.testing.assert_array_equal(table.to_numpy()[:, part], expected)


def test_a_row_may_lack_what_the_others_had(make: Make, rows) -> None:
    extractor = make().fit(rows)
    for one in ([{"text": "love my day"}], ["love my day"], [{"text": "love my day", "image": None, "y": 1}]):
        table = extractor.transform(one)
        assert (table.shape, table.masks["image"].tolist(), table.masks["text"].tolist()) == ((1, 544), [False], [True])
    nothing = extractor.transform([{"text": None, "image": None}])
    np.testing.assert_array_equal(nothing, np.zeros((1, 544)))


def test_a_modality_that_is_named_may_be_missing_everywhere(make: Make, rows) -> None:
    holed = [{**row, "image": None} for row in rows]
    assert make().fit(holed).modalities_ == ("text",)
    extractor = make(modalities=("image", "text"))
    for fitted in (extractor.fit_transform(holed), clone(extractor).fit(holed).transform(holed)):
        assert list(fitted.blocks) == ["image", "text"]
        assert not fitted.masks["image"].any()
    assert extractor.transform(rows).masks["image"].all()


def test_bytes_are_the_file_that_holds_them(make: Make, rows, tmp_path: Path, encoded: Encoded) -> None:
    extractor = make(modalities=["image"])
    by_path = extractor.fit_transform(rows)
    counted(encoded)
    raw = [(tmp_path / str(row["image"])).read_bytes() for row in rows]
    for kind in (bytes, bytearray, memoryview):
        by_bytes = extractor.transform([{"image": kind(one)} for one in raw])
        np.testing.assert_array_equal(by_bytes, by_path)
        np.testing.assert_array_equal(by_bytes.view.blocks["image"].items, by_path.view.blocks["image"].items)
    assert by_bytes.view.blocks["image"].items[0].tobytes() == item_key(raw[0])
    assert counted(encoded) == {}
    fresh = make(store=tmp_path / "other", modalities=["image"], tokens=True)
    table = fresh.fit_transform(pd.DataFrame({"image": [raw[0], None, tmp_path / "1.png", str(tmp_path / "2.png")]}))
    np.testing.assert_allclose(np.asarray(table)[[0, 2, 3]], np.asarray(by_path)[:3], atol=1e-5)
    assert table.tokens("image").lengths.tolist() == [169, 0, 169, 169]
    assert extractor.set_params(root=None).transform([{"image": tmp_path / "0.png"}]).masks["image"].all()


def test_frames_series_and_lists_of_texts(make: Make, rows) -> None:
    frame = pd.DataFrame(rows, index=[7, 7, 1, 2, 3, 4]).rename(columns={"text": "title", "image": 0})
    table = make(columns={"text": "title", "image": 0}).fit_transform(frame)
    np.testing.assert_array_equal(table, make().fit_transform(rows))
    expected = table.select(["text"]).to_numpy()
    extractor = make(columns={"text": "title"})
    series = frame["title"].astype("string")
    for X in (TEXTS, tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, dtype=object), series, frame[["title"]]):
        np.testing.assert_array_equal(clone(extractor).fit_transform(X), expected)
    np.testing.assert_array_equal(extractor.fit(TEXTS).transform(frame), expected)
    assert extractor.transform([TEXTS[0], None]).masks["text"].tolist() == [True, False]


def test_broken_pictures_are_masked_and_told_of(make: Make, rows, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"no picture")
    rows[2]["image"] = b""
    rows[3]["image"] = tmp_path  # a folder
    extractor = make()
    with pytest.warns(
        UserWarning, match=r"3 of 6 rows have a broken image.*row 1: no picture.*failures\.jsonl"
    ) as told:
        table = extractor.fit_transform(rows)
    assert told[0].filename == __file__
    assert str(told[0].message).count("row ") == 3
    assert Path(str(told[0].message).split()[-1]).is_file()
    np.testing.assert_array_equal(table.masks["image"], [True, False, False, False, True, True])
    with pytest.warns(UserWarning, match="2 of 2 rows") as told:
        extractor.transform(rows[1:3])
    assert told[0].filename == __file__
    with pytest.raises(DataError, match="samples failed, 0 are allowed"):
        make(on_error="fail").fit_transform(rows)


def test_a_wrong_root_does_not_go_unseen(make: Make, rows) -> None:
    with pytest.warns(UserWarning, match=r"none of the 6 image paths exists \(first: .*elsewhere.0\.png\).*root"):
        table = make(root="elsewhere").fit_transform(rows)
    assert not table.masks["image"].any()


WRONG: list[tuple[object, dict[str, object], type[PipelineError], str]] = [
    ("love my day", {}, UsageError, "X is a list of dicts.*found str"),
    (b"love my day", {}, UsageError, "found bytes"),
    ({"text": ["love"]}, {}, UsageError, "found dict"),
    (7, {}, UsageError, "found int"),
    (None, {}, UsageError, "found NoneType"),
    (iter(["love"]), {}, UsageError, "found list_iterator"),
    (np.zeros((2, 3)), {}, UsageError, r"found ndarray of shape \(2, 3\)"),
    ([], {}, DataError, "holds no rows"),
    (pd.DataFrame({"text": []}), {}, DataError, "holds no rows"),
    ([{"text": "love"}, "love"], {}, DataError, "row 1 of 2 is str"),
    (["love", 3], {}, DataError, "row 1 of 2 is int"),
    ([["love"]], {}, DataError, "row 0 of 1 is list"),
    (
        [{"text": "love"}, {"text": 3}, {"text": ["a"]}],
        {},
        DataError,
        r"2 values.*\n.*row 1, 'text'.*int\n.*row 2.*list",
    ),
    ([{"image": 3}], {}, DataError, "expected the path of a picture or its bytes, found int"),
    ([{"image": "a\0b"}], {}, DataError, "NUL"),
    ([{"image": "\ud800"}], {}, DataError, "row 0, 'image'.*surrogates"),
    ([{"title": "love"}], {}, DataError, "under 'text', 'image'.*its columns are 'title'.*columns="),
    ([{"text": ""}], {}, DataError, "no row of X has anything"),
    ([{"text": "love"}], {"columns": {"image": "img"}}, DataError, "no column 'img' for image; it has 'text'"),
    ([{"text": "love"}], {"modalities": ["text", "image"]}, DataError, "no column 'image' for image"),
    (pd.DataFrame([["a", "b"]], columns=["text", "text"]), {}, DataError, "several columns of one name: text"),
    (["love"], {"columns": {"label": "y"}}, UsageError, "columns={'label': 'y'}"),
    (["love"], {"modalities": "text"}, UsageError, "modalities='text'"),
    (["love"], {"modalities": []}, UsageError, r"modalities=\[\]"),
    (["love"], {"modalities": ["text", "text"]}, UsageError, "at most once"),
    (["love"], {"modalities": ["audio"]}, UsageError, "audio"),
    (["love"], {"pooling": "max"}, UsageError, "pooling is one of mean, cls, not 'max'"),
    (["love"], {"on_error": "skip"}, UsageError, "on_error is one of"),
    (["love"], {"random_init": {"sound": 1}}, UsageError, "random_init"),
    (["love"], {"random_init": -1}, UsageError, "random_init"),
    (["love"], {"max_length": "8"}, UsageError, "max_length"),
    (["love"], {"max_length": 0}, PipelineError, "0"),
    (["love"], {"precision": "fp8"}, UsageError, "fp8"),
    (["love"], {"text_model": "no-such-model"}, ModelError, "no-such-model"),
    (["love"], {"device": "gpu"}, PipelineError, "no device 'gpu'"),
]


@pytest.mark.parametrize(("X", "params", "error", "text"), WRONG, ids=[text for *_, text in WRONG])
def test_what_is_wrong_is_said(make: Make, tmp_path: Path, X, params, error, text: str) -> None:
    for call in ("fit", "fit_transform"):
        with pytest.raises(error, match=f"(?s){text}"):
            getattr(make(**params), call)(X)
    assert not list(tmp_path.glob("features/*/*.h5"))


def test_columns_that_vanish_after_fit(make: Make, rows) -> None:
    with pytest.raises(NotFittedError):
        make().transform(rows)
    extractor = make().fit(rows)
    for X, text in (
        ([{"text": "love", "img": "1.png"}], "no column 'image' for image; it has 'text', 'img'"),
        (pd.DataFrame(rows)[["text"]], "no column 'image' for image; it has 'text'"),
        ([{"title": "love"}], "no column 'text', 'image' for text, image; it has 'title'"),
    ):
        with pytest.raises(DataError, match=text):
            extractor.transform(X)
    with pytest.raises(DataError, match="holds no rows"):
        extractor.transform([])


def test_another_encoder_is_refused_after_fit(make: Make, tmp_path: Path, bert: Path, texts, encoded: Encoded) -> None:
    mine = tmp_path / "model"
    shutil.copytree(bert, mine)
    extractor = make(text_model=mine).fit(texts)
    with pytest.raises(UsageError, match=r"changed since fit: pooling='cls' \(was 'mean'\).*fit again"):
        clone(extractor).fit(texts).set_params(pooling="cls").transform(texts)
    vocabulary = (mine / "vocab.txt").read_text()
    (mine / "vocab.txt").write_text(vocabulary.replace("love\nhate", "hate\nlove"))
    with pytest.raises(ModelError, match=extractor.encoders_["text"]["encoder"]):
        extractor.transform(texts)
    assert counted(encoded) == {}
    assert extractor.fit(texts).transform(texts).shape == (12, 32)


def test_the_precision_of_fit_is_kept(make: Make, texts, tmp_path: Path) -> None:
    half = make(precision="bf16").fit(texts)
    half.transform(texts)
    settled = make(precision="auto").fit(texts)  # as the store has it
    assert settled.encoders_ == half.encoders_
    make(precision="fp32").fit_transform(texts)
    key = settled.encoders_["text"]["encoder"]
    assert settled.transform(texts).view.blocks["text"].encoder == key
    moved = settled.set_params(store=tmp_path / "other").transform(texts)
    assert moved.view.blocks["text"].encoder == key


def test_views_are_kept_only_by_name(make: Make, texts, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features")
    make().fit(texts).transform(texts)
    assert (store.names(), store.pending()) == ([], [])
    extractor = make(name="mine")
    extractor.fit_transform(texts)
    expected = extractor.transform(texts[:3])
    assert (store.names(), store.pending()) == (["mine"], [])
    np.testing.assert_array_equal(load(store.root, "mine"), expected)
    extract_as(tmp_path, extractor, "mine")
    with pytest.warns(UserWarning, match="the data set mine was"):
        extractor.transform(texts)


def extract_as(folder: Path, extractor: FeatureExtractor, name: str) -> None:
    """A data set that lies where the extractor's paths start."""
    (folder / "t.csv").write_text("text,label\nlove,a\nhate,b\n")
    specs = extractor._specs(("text",))
    (folder / "features" / f"{name}.view.h5").unlink()
    extract(read_manifest(folder), Settings(folder / "features", name, specs, device="cpu"))


def test_clone_forgets_and_pickle_keeps_every_bit(make: Make, rows, tmp_path: Path) -> None:
    extractor = make(columns={"text": "text"}, max_length=np.int64(8), tokens=np.bool_(True))
    table = extractor.fit_transform(rows)
    copy = clone(extractor)
    assert repr(copy.get_params()) == repr(extractor.get_params())
    with pytest.raises(NotFittedError):
        copy.get_feature_names_out()
    joblib.dump(extractor, tmp_path / "extractor.joblib")
    for again in (pickle.loads(pickle.dumps(extractor)), joblib.load(tmp_path / "extractor.joblib")):  # noqa: S301
        found = again.transform(rows)
        np.testing.assert_array_equal(found, table)
        np.testing.assert_array_equal(found.tokens("text").values, table.tokens("text").values)


def test_pandas_output_and_tags(make: Make, rows) -> None:
    rows[1]["image"] = None
    frame = pd.DataFrame(rows, index=list("abcdef"))
    extractor = make().set_output(transform="pandas")
    plain = make().fit_transform(rows).to_numpy()
    for out in (extractor.fit_transform(frame), extractor.transform(frame)):
        assert (list(out.index), list(out.columns)) == (list("abcdef"), extractor.get_feature_names_out().tolist())
        np.testing.assert_array_equal(out.to_numpy(), plain)
    assert (out.loc["b", "image_0":] == 0).all()
    tags = get_tags(extractor)
    found = (tags.input_tags.two_d_array, tags.input_tags.string, tags.input_tags.dict, tags.requires_fit)
    assert found == (False, True, True, True)


def test_a_pipeline_from_raw_data_to_labels(make: Make, rows, encoded: Encoded) -> None:
    y = [row["y"] for row in rows]
    pipeline = make_pipeline(make(), LogisticRegression(C=1e4, max_iter=5000)).fit(rows, y)
    assert pipeline.predict(rows).tolist() == y
    np.testing.assert_array_equal(pipeline.predict_proba(pd.DataFrame(rows)), pipeline.predict_proba(rows))
    assert pipeline.predict(["love my day"]).shape == (1,)
    assert counted(encoded) == {"text": 6, "image": 6}


def test_a_head_after_it_gets_blocks_and_masks(make: Make, rows) -> None:
    from fuse import ConcatMLPClassifier

    y = [row["y"] for row in rows]
    rows[1]["image"] = rows[2]["text"] = None
    pipeline = make_pipeline(make(), ConcatMLPClassifier(random_state=0)).fit(rows, y)
    assert pipeline[-1].blocks_ == {"text": slice(0, 32), "image": slice(32, 544)}
    by_hand = ConcatMLPClassifier(random_state=0).fit(table := make().fit_transform(rows), y)
    np.testing.assert_array_equal(pipeline.predict_proba(rows), by_hand.predict_proba(table))
    assert pipeline.predict(["love my day"]).shape == (1,)


def test_folds_and_grids_over_raw_data_encode_once(make: Make, texts, encoded: Encoded) -> None:
    y = [number // 2 % 2 for number in range(len(texts))]
    pipeline = make_pipeline(make(), LogisticRegression())
    assert cross_val_score(pipeline, texts, y, cv=3, error_score="raise").shape == (3,)
    grid = {"featureextractor__pooling": ["mean", "cls"], "featureextractor__max_length": np.array([8, 24])}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(pd.DataFrame({"text": texts}), y)
    assert counted(encoded) == {"text": 24}  # for each of two lengths
    assert search.predict(texts).shape == (12,)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(make: Make, texts) -> None:
    y = [number // 2 % 2 for number in range(len(texts))]
    pipeline = make_pipeline(make(), LogisticRegression())
    two, one = (cross_val_score(pipeline, texts, y, cv=2, n_jobs=jobs, error_score="raise") for jobs in (2, 1))
    np.testing.assert_array_equal(one, two)


def test_importing_the_package_does_not_load_sklearn() -> None:
    code = "import sys, extract; print('sklearn' in sys.modules)"  # which an unchanged `extract` would wait for
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"


def test_it_prints_nothing(make: Make, rows, capfd: pytest.CaptureFixture[str]) -> None:
    make().fit(rows).transform(rows)
    assert capfd.readouterr() == ("", "")
