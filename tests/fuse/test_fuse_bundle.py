import json
import pickle

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from cache import PipelineError, UsageError
from fuse import ConcatMLPClassifier, load, make_classifier, save

TENSORS, STATE = "model.safetensors", "model.json"


@pytest.fixture
def saved(posts, tmp_path):
    """The folder of a saved logistic head."""
    save(make_classifier("logreg").fit(posts, posts.y), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("gap", ["some rows", "a class", "all that are fitted"])
def test_saved_head_predicts_bit_for_bit(case, data, gap, tmp_path):
    place = np.arange(60)
    lost = {"some rows": place % 5 == 0, "a class": place % 3 == 1, "all that are fitted": place < 40}[gap]
    table, y = data(present={"text" if case.name == "image" else "image": ~lost})
    head = case.make().fit(table[:40], y[:40])
    save(head, tmp_path)
    loaded = load(tmp_path)
    assert type(loaded) is type(head)
    np.testing.assert_array_equal(loaded.predict(table), head.predict(table))
    np.testing.assert_array_equal(case.output(loaded, table), case.output(head, table))


def test_saved_head_over_arrays_comes_back_with_its_blocks_and_names(case, data, tmp_path):
    table, y = data()
    X = pd.DataFrame(table.to_numpy(), columns=list("abcdefghij"))
    head = case.make(array=True, blocks=table.blocks).fit(X, y)
    save(head, tmp_path)
    loaded = load(tmp_path)
    assert loaded.blocks_ == head.blocks_
    assert list(loaded.feature_names_in_) == list("abcdefghij")
    np.testing.assert_array_equal(case.output(loaded, X), case.output(head, X))


def test_all_learned_state_comes_back(case, data, tmp_path):
    table, y = data()
    head = case.make().fit(table, y)
    save(head, tmp_path)
    assert {name for name in vars(head) if name.endswith("_")} <= set(vars(load(tmp_path)))
    assert load(tmp_path).get_params().keys() == head.get_params().keys()


@pytest.mark.parametrize("integer", [int, np.int64])
def test_parameters_come_back(posts, tmp_path, integer):
    blocks = {"text": slice(integer(0), integer(4)), "image": slice(integer(4), integer(10))}
    head = make_classifier("vote", voting="hard", weights={"text": 2.0}, C=3, blocks=blocks)
    save(head.fit(posts.to_numpy(), posts.y), tmp_path)
    assert load(tmp_path).get_params() == head.get_params()


def test_no_pickle_is_written_or_read(saved, posts, monkeypatch):
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    assert load(saved).predict_proba(posts).shape == (60, 3)
    assert {path.name for path in saved.iterdir()} == {TENSORS, STATE}
    assert all(b"sklearn" not in path.read_bytes() for path in saved.iterdir())  # pickles name what they import


def _flipped(raw):
    return raw[:-3] + bytes([raw[-3] ^ 0x40]) + raw[-2:]


@pytest.mark.parametrize("name", [TENSORS, STATE])
@pytest.mark.parametrize("damage", [None, lambda raw: b"", lambda raw: raw[: len(raw) // 2], _flipped])
def test_missing_or_damaged_file_is_refused_by_path(saved, name, damage):
    raw = (saved / name).read_bytes()
    (saved / name).unlink()
    if damage:
        (saved / name).write_bytes(damage(raw))
    with pytest.raises(PipelineError, match=str(saved)):
        load(saved)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda tensors: tensors.pop("coef_"), "none"),
        (lambda tensors: tensors.update(coef_=np.zeros((10, 3))), r"float64 \[10, 3\]"),
        (lambda tensors: tensors.update(coef_=np.zeros((3, 10), np.float32)), r"float32 \[3, 10\]"),
    ],
    ids=["gone", "shape", "dtype"],
)
def test_tensor_other_than_saved_is_refused_by_name(saved, change, found):
    tensors = load_file(saved / TENSORS)
    change(tensors)
    save_file(tensors, saved / TENSORS)
    with pytest.raises(PipelineError, match=rf"tensor coef_ was saved as float64 \[3, 10\], found {found}"):
        load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["estimator"].update({"class": "Popen"}), "'Popen'"),
        (lambda state: state.update(schema=99), "schema 99"),
        (lambda state: state.pop("tensors"), "model"),
        (lambda state: state["estimator"].pop("state"), "model"),
        (lambda state: state["estimator"]["state"]["coef_"].update(tensor="other"), "model"),
    ],
    ids=["class", "schema", "no tensors", "no state", "unknown tensor"],
)
def test_state_other_than_saved_is_refused(saved, change, message):
    state = json.loads((saved / STATE).read_text())
    change(state)
    del state["crc32"]  # as an earlier version wrote it; else its checksum alone would tell
    (saved / STATE).write_text(json.dumps(state))
    with pytest.raises(PipelineError, match=message):
        load(saved)


def test_a_label_that_was_changed_on_disk_is_not_predicted(saved, posts):
    raw, label = (saved / STATE).read_bytes(), json.dumps(posts.classes[0]).encode()
    assert label in raw
    (saved / STATE).write_bytes(raw.replace(label, label[:-2] + b'?"'))
    with pytest.raises(PipelineError, match="its checksum does not fit"):
        load(saved)


def test_what_cannot_be_saved_is_named(posts, tmp_path):
    seeded = ConcatMLPClassifier((4,), random_state=np.random.RandomState(0)).fit(posts, posts.y)
    with pytest.raises(UsageError, match=r"random_state.*RandomState"):
        save(seeded, tmp_path)
