import json
import sys

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cache import UsageError
from fuse import HEADS, ConcatMLPClassifier, make_classifier, make_regressor
from fuse.gradient import GradientHead
from fuse.networks.model import Network
from fuse.onnx import export_onnx

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

WIDTHS, STEPS, N = {"text": 3, "image": 4}, 5, 60
BLOCKS = {"text": slice(0, 15), "image": slice(15, 35)}
GRADIENT = [name for name, head in HEADS.items() if issubclass(head.any_class, GradientHead)]
QUICK = ("mlp",)


def _run(path, values, present):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert {one.name for one in session.get_inputs()} == {*values, *(f"{name}_present" for name in values)}
    feed = {f"{name}_present": there for name, there in present.items()}
    return session.run(None, feed | {name: x.astype(np.float32) for name, x in values.items()})[0]


def _export(head, tmp_path):
    export_onnx(head, tmp_path / "head.onnx")
    return str(tmp_path / "head.onnx")


@pytest.fixture
def tokens():
    """60 rows of up to 5 tokens; rows 0-3 lack text and image, unless aligned 4-7 the image, too."""

    def make(aligned):
        rng = np.random.default_rng(0)
        lengths = rng.integers(1, STEPS + 1, N)
        lengths[:4], lengths[-1] = 0, STEPS
        other = lengths if aligned else np.where(np.arange(N) < 8, 0, rng.permuted(lengths))
        there = {"text": np.arange(STEPS) < lengths[:, None], "image": np.arange(STEPS) < other[:, None]}
        y = np.arange(N) % 3
        values = {name: rng.normal(3, 2, (N, STEPS, width)) + y[:, None, None] for name, width in WIDTHS.items()}
        values = {name: np.float32(np.where(there[name][..., None], x, 0)) for name, x in values.items()}
        return values, there, np.array(["apple", "berry", "cherry"])[y]

    return make


def _flat(values):
    return np.hstack([x.reshape(len(x), -1) for x in values.values()])


def _agree(head, make, path, output):
    """Head and file over all rows, alone, and with fewer tokens and rubbish where nothing is."""
    values, there, _ = make
    for rows, steps in ((slice(None), STEPS), (slice(7, 8), STEPS), (slice(0, 9), 2)):
        shown = {name: x[rows, :steps] if x.ndim == 3 else x[rows] for name, x in values.items()}
        present = {name: x[rows, :steps] if x.ndim == 2 else x[rows] for name, x in there.items()}
        cut = [(0, 0), (0, STEPS - steps), (0, 0)]
        padded = {name: np.pad(x, cut) if x.ndim == 3 else x for name, x in shown.items()}
        expected = output(_flat(padded))
        rubbish = {name: np.where(present[name][..., None], x, np.nan) for name, x in shown.items()}
        np.testing.assert_allclose(_run(path, rubbish, present), expected, atol=1e-4)


def _tokenised(name, make, tokens, **params):
    head = HEADS[name]
    values, there, y = tokens(getattr(head.any_class, "aligned", False))
    widths = dict(WIDTHS)
    if name == "tokens-mlp":  # its image is one vector
        del widths["image"]
        values["image"], there["image"] = values["image"][:, 0], np.ones(N, dtype=bool)
    blocks = {"text": BLOCKS["text"], "image": slice(15, 15 + values["image"][0].size)}
    head = make(name, blocks=blocks, token_dim=widths, epochs=1, random_state=0, **params)
    return head, (values, there, y)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in GRADIENT]
)
def test_file_predicts_as_the_head(name, gappy, tokens, tmp_path):
    if HEADS[name].reads_tokens:
        head, made = _tokenised(name, make_classifier, tokens)
        head.fit(_flat(made[0]), made[2])
        _agree(head, made, _export(head, tmp_path), head.predict_proba)
        return
    head = make_classifier(name, epochs=5, random_state=0).fit(gappy, gappy.y)
    path, values = _export(head, tmp_path), {name: gappy.block(name, np.nan) for name in gappy.modalities}
    for rows in (
        slice(None),
        slice(15, 16),
        slice(8, 20),
    ):  # other numbers of rows than were traced; row 15 has nothing
        shown, there = ({name: x[rows] for name, x in one.items()} for one in (values, gappy.masks))
        np.testing.assert_allclose(_run(path, shown, there), head.predict_proba(gappy[rows]), atol=1e-4)


@pytest.mark.parametrize(
    "name", ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("logit-max", "tensor", "mcb"))]
)
def test_file_of_a_regressor_gives_the_labels_unit(name, gappy, tmp_path):
    y = 1000 + 50 * gappy.to_numpy()[:, 0]
    head = make_regressor(name, epochs=5, random_state=0).fit(gappy, y)
    values = {name: gappy.block(name) for name in gappy.modalities}
    found = _run(_export(head, tmp_path), values, gappy.masks)
    assert found.shape == (60,)
    np.testing.assert_allclose(found, head.predict(gappy), rtol=1e-5)
    assert found[15] == pytest.approx(head.target_mean_)  # has neither text nor image


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cross-attention", "ef-lstm"])
def test_file_of_a_regressor_over_tokens(name, tokens, tmp_path):
    head, made = _tokenised(name, make_regressor, tokens)
    head.fit(_flat(made[0]), np.arange(N) % 7 * 1.0)
    _agree(head, made, _export(head, tmp_path), head.predict)


def test_file_says_what_it_holds_and_names_may_be_those_of_operations(posts, tmp_path):
    blocks = dict(zip(("cat", "linear"), posts.blocks.values(), strict=True))
    head = ConcatMLPClassifier((4,), blocks=blocks, epochs=1, random_state=0).fit(posts.to_numpy(), posts.y)
    path = _export(head, tmp_path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert {key: json.loads(about[key]) for key in ("classes", "modalities", "head")} == {
        "classes": ["apple", "berry", "cherry"],
        "modalities": ["cat", "linear"],
        "head": "ConcatMLPClassifier",
    }
    shapes = {one.name: one.shape for one in [*session.get_inputs(), *session.get_outputs()]}
    assert shapes["cat"] == ["batch", 4]
    assert shapes["linear_present"] == ["batch"]
    assert shapes["probabilities"] == ["batch", 3]


@pytest.mark.slow
def test_longer_texts_than_in_training_are_cut_as_the_head_cuts_them(tokens, tmp_path):
    values, there, y = tokens(False)
    short = {name: x[:, :3] for name, x in values.items()}
    blocks = {"text": slice(0, 9), "image": slice(9, 21)}
    head = make_classifier("set-mean", blocks=blocks, token_dim=WIDTHS, epochs=1, random_state=0).fit(_flat(short), y)
    present = {name: x & (np.arange(STEPS) < 3) for name, x in there.items()}
    found = _run(_export(head, tmp_path), values, there)
    np.testing.assert_allclose(found, _run(str(tmp_path / "head.onnx"), values, present), atol=1e-6)
    np.testing.assert_allclose(found, head.predict_proba(_flat(short)), atol=1e-4)


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_missing_package_is_named_with_the_way_to_get_it(package, posts, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    head = ConcatMLPClassifier((4,), epochs=1).fit(posts, posts.y)
    with pytest.raises(UsageError, match=f"needs the package {package}: pip install onnx"):
        export_onnx(head, tmp_path / "head.onnx")
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize(
    "head",
    [make_classifier("logreg"), make_classifier("stacking"), make_pipeline(StandardScaler(), ConcatMLPClassifier())],
    ids=lambda head: type(head).__name__,
)
def test_what_is_not_trained_by_gradient_is_refused(head, posts, tmp_path):
    with pytest.raises(UsageError, match=rf"cannot export {type(head).__name__}.*can be exported: .*mlp"):
        export_onnx(head.fit(posts, posts.y), tmp_path / "head.onnx")


def test_unfitted_head_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"not fitted.*can be exported: .*mlp"):
        export_onnx(ConcatMLPClassifier(), tmp_path / "head.onnx")


@pytest.mark.parametrize("names", [("text", "text_present"), ("probabilities", "text")])
def test_names_that_clash_are_refused(names, posts, tmp_path):
    blocks = dict(zip(names, posts.blocks.values(), strict=True))
    head = ConcatMLPClassifier((4,), blocks=blocks, epochs=1).fit(posts.to_numpy(), posts.y)
    with pytest.raises(UsageError, match=r"found (text_present|probabilities) twice"):
        export_onnx(head, tmp_path / "head.onnx")


def test_formula_that_onnx_cannot_hold_is_refused_with_the_reason(posts, tmp_path):
    class Odd(Network):
        def __init__(self):
            super().__init__()
            self.out = torch.nn.Linear(4, 3)

        def forward(self, values, present):
            return self.out(torch.linalg.eigvals(values[0][:, :, None] * values[0][:, None]).real)

    class OddHead(ConcatMLPClassifier):
        def _network(self, parts):
            return Odd()

    head = OddHead(epochs=1).fit(posts, posts.y)
    with pytest.raises(UsageError, match=r"no form for the formula of OddHead: .*linalg_eig"):
        export_onnx(head, tmp_path / "head.onnx")
    assert not list(tmp_path.glob("*.onnx"))
