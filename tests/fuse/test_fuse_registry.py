import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fuse
from cache import UsageError
from fuse import HEADS, make_classifier, make_regressor
from fuse.registry import modalities_of


def test_importing_fuse_imports_neither_torch_nor_stage_one():
    code = "import sys, fuse; print(sorted({'torch', 'extract', 'click'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(Path(fuse.__file__).parents[1])}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def _documented(kind):
    """Names that the docstrings of a class and its bases list under Args."""
    parts = [inspect.cleandoc(base.__doc__ or "").partition("Args:")[2] for base in kind.__mro__]
    listed = [re.findall(r"^    ([A-Za-z_][\w, ]*):", part, flags=re.MULTILINE) for part in parts]
    return {name.strip() for part in listed for names in part for name in names.split(",")}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_built_by_its_name_and_documented(name):
    entry = HEADS[name]
    assert entry.name == name
    assert all([entry.summary, entry.formula, entry.source, entry.use, entry.missing])
    for kind, make in ((entry.classifier, make_classifier), (entry.regressor, make_regressor)):
        if kind is None:
            continue
        head = make(name)
        assert type(head) is kind
        assert {key: head.get_params()[key] for key in entry.params} == entry.params
        assert set(head.get_params()) - _documented(kind) == set()
        assert kind.__doc__.partition("\n")[0].endswith((".", "`"))


@pytest.mark.parametrize("name", HEADS)
def test_every_class_is_exported(name):
    for kind in (HEADS[name].classifier, HEADS[name].regressor):
        assert kind is None or getattr(fuse, kind.__name__) is kind


def test_no_two_heads_are_the_same():
    made = [(head.any_class, tuple(sorted(head.params.items()))) for head in HEADS.values()]
    assert len(set(map(repr, made))) == len(HEADS)
    assert len({head.summary for head in HEADS.values()}) == len(HEADS)


def test_parameters_override_what_the_name_implies():
    assert make_classifier("image").modality == "image"
    assert make_classifier("image", modality="sound").modality == "sound"
    assert make_regressor("logit-mean").merge == "mean"


@pytest.mark.parametrize("make", [make_classifier, make_regressor])
@pytest.mark.parametrize(("wrong", "meant"), [("logrg", "logreg"), ("vot", "vote"), ("mpl", "mlp")])
def test_unknown_head_lists_all_and_suggests_the_close_name(make, wrong, meant):
    with pytest.raises(UsageError, match=rf"{', '.join(HEADS)}; did you mean '{meant}'"):
        make(wrong)


@pytest.mark.parametrize("make", [make_classifier, make_regressor])
def test_unknown_parameter_lists_the_known_ones(make):
    with pytest.raises(UsageError, match=r"'mlp' has no parameter depth.*dropout.*hidden_sizes.*weight_decay"):
        make("mlp", depth=3)


@pytest.mark.parametrize("name", [name for name, head in HEADS.items() if head.regressor is None])
def test_head_for_classes_alone_names_those_that_predict_numbers(name):
    able = ", ".join(name for name, head in HEADS.items() if head.regressor)
    with pytest.raises(UsageError, match=rf"'{name}' predicts classes only; those that predict numbers: {able}$"):
        make_regressor(name)


def test_which_modalities_a_head_reads():
    assert modalities_of("mlp", {}, ["text", "image"]) == ("text", "image")
    assert modalities_of("image", {}, ["text", "image"]) == ("image",)
    assert modalities_of("unimodal", {"modality": "text"}, ["text", "image"]) == ("text",)
    with pytest.raises(UsageError, match="needs the modality 'image'; the features hold text"):
        modalities_of("image", {}, ["text"])


def test_which_heads_read_tokens():
    found = {name for name, head in HEADS.items() if head.reads_tokens}
    assert {"tokens-mlp", "cross-attention", "cmbert", "ef-lstm", "mult", "set-mean", "gated-attention"} <= found
    assert not found & {"mlp", "logreg", "tensor", "ensemble"}


BAD = {
    **{
        name: [-1.0, 0, "a", np.nan, True] for name in ("C", "tol", "gamma", "second_c", "learning_rate", "fusion_rate")
    },
    **{name: [-1.0, 0, "a", np.nan] for name in ("alpha", "final_alpha", "clip_norm")},
    **{
        name: [-1, 0, 1.5, "a", None, True]
        for name in ("hidden", "heads", "layers", "rank", "factors", "sketch", "width")
    },
    **{name: [-1, 0, 1.5, "a", None] for name in ("epochs", "batch_size", "patience", "max_iter", "rounds", "parts")},
    **{name: [-0.1, 1, "a", None, np.nan] for name in ("dropout", "modality_dropout", "label_smoothing")},
    **{name: [-0.1, "a", None, np.inf] for name in ("weight_decay", "focal_gamma", "logit_adjustment", "auxiliary")},
    **{
        name: ["other", None, 3]
        for name in ("schedule", "loss", "merge", "pooling", "voting", "combine", "kernel", "scale")
    },
    **{name: [{"text": -1.0}, {"sound": 1.0}, {"text": "a"}, {}, {"text": np.nan}] for name in ("weights", "beta")},
    "epsilon": [-0.1, "a", None],
    "validation_fraction": [-0.1, 1, "a", None],
    "hidden_sizes": [[0], [3.5], 8, "8", [True], None],
    "device": ["abacus", "cuda:99", 3.5, None],
    "modality": ["sound", 3],
    "members": [[], "mlp", ["ensemble"], ["nobody"], ["set-mean"]],
    "token_dim": [0, -1, 3, 1.5, "a", {"text": 3}, {"sound": 1}],
    "blocks": [{}, {"a": slice(0, 99)}, {"a": slice(0, 3), "b": slice(2, 4)}, {"a": [0]}, 3],
    "class_weight": ["other", {"apple": -1.0}, {"apple": np.nan}, 3],
    "random_state": ["a", -1],
}
"""Values that make no sense, by parameter."""

SAID = {"random_state": "[Ss]eed", "blocks": "block", "members": "members|there is no head 'nobody'"}
"""What the message names where it is not the parameter."""

FREE = {"early_stopping", "tokens"}
"""A flag, and names that only a table has; see test_fuse_tokens.py."""


def test_bad_parameters_of_every_head_are_refused_by_name(case, data):
    table, y = data()
    assert set(case.fields) <= {*BAD, *FREE}
    arrays = {"array": True, "blocks": table.blocks}
    unused = {"beta"} if case.name == "kernel-product" else set()
    for name in set(case.fields) - FREE - unused:
        for value in BAD[name]:
            error = ValueError if name in ("random_state", "class_weight", "blocks") else UsageError
            with pytest.raises(error, match=SAID.get(name, rf"\b{name}\b")):
                case.make(**arrays | {name: value}).fit(table.to_numpy(), y)
