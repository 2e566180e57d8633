import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fuse
from cache import UsageError
from fuse import HEADS, make_classifier


def test_importing_fuse_imports_neither_torch_nor_stage_one():
    code = "import sys, fuse; print(sorted({'torch', 'extract', 'click'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(Path(fuse.__file__).parents[1])}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_built_by_its_name_and_documented(name):
    entry, head = HEADS[name], make_classifier(name, class_weight="balanced")
    assert entry.name == name
    assert type(head) is entry.classifier
    assert head.get_params()["class_weight"] == "balanced"
    assert all([entry.summary, entry.formula, entry.source])
    documented = inspect.getdoc(entry.classifier).partition("Args:")[2]
    assert [key for key in head.get_params() if key not in documented] == []


def test_parameters_override_what_the_name_implies():
    assert make_classifier("image").modality == "image"
    assert make_classifier("image", modality="sound").modality == "sound"


@pytest.mark.parametrize(("wrong", "meant"), [("logrg", "logreg"), ("vot", "vote"), ("mpl", "mlp")])
def test_unknown_head_lists_all_and_suggests_the_close_name(wrong, meant):
    with pytest.raises(UsageError, match=rf"{', '.join(HEADS)}; did you mean '{meant}'"):
        make_classifier(wrong)


def test_unknown_parameter_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"'mlp' has no parameter depth.*dropout.*hidden_sizes.*weight_decay"):
        make_classifier("mlp", depth=3)
