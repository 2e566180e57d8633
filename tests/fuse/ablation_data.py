"""Small ablations: tables whose labels can be learned, settings that are quick, and files read back."""

import csv

import numpy as np
import pytest
import sklearn

from cache import silent
from fuse import Settings
from fuse.ablation.engine import read_data, run_ablation
from tests.fuse.conftest import _write_table

CLASSES = ("apple", "berry", "cherry")
N = 60


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Nothing is waited for: no disk, no worker processes but where a test asks for them, few steps of networks."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.fsync", lambda _: None)
        patched.setattr("joblib.cpu_count", lambda *_, **__: 1)
        patched.setattr("fuse.training.MIN_STEPS", 1)
        patched.setattr("gc.collect", lambda *_: 0)  # statsmodels collects at every correction
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            yield


def vectors(target, modalities=("text", "image"), seed=0):
    """For each modality `(n, 4 + its number)` columns; the first of them knows something of the target."""
    rng, found = np.random.default_rng(seed), {}
    for number, name in enumerate(modalities):
        found[name] = rng.normal(size=(len(target), 4 + number)).astype(np.float32)
        found[name][:, 0] += (1.0 + 0.5 * number) * target
    return found


def gaps(modalities=("text", "image"), rows=N):
    """Some rows lack a modality, row 5 and 6 all."""
    present = {name: np.ones(rows, bool) for name in modalities}
    for number, mask in enumerate(present.values()):
        mask[[5, 6, *range(10 + 4 * number, 14 + 4 * number)]] = False
    return present


def make_posts(root, classes=CLASSES, modalities=("text", "image"), rows=N, seed=0, **options):
    """A table of classes at `root`."""
    target = np.arange(rows) % len(classes)
    return _write_table(root, vectors(target, modalities, seed), np.array(classes, dtype=object)[target], **options)


def make_numbers(root, modalities=("text", "image"), rows=N, **options):
    """A table of numbers at `root`."""
    y = np.random.default_rng(9).normal(size=rows).round(3)
    return _write_table(root, vectors(y, modalities), [str(one) for one in y], **options)


def settings(**given):
    """Two repeats of three folds without controls, unless it is said otherwise."""
    return Settings(**{"heads": ("logreg",), "seeds": (0, 1), "folds": 3, "controls": (), **given})


def fitted(table, folder, progress=silent, jobs=1, **given):
    """The fits of an ablation in `folder`."""
    chosen = settings(**given)
    return run_ablation(read_data(table, chosen.task), chosen, folder, jobs, progress)


def csv_rows(path):
    """Lines of a CSV as dictionaries."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def column_of(done, head, modalities=("text", "image"), control="", spoilt=""):
    """The predictions of one configuration."""
    wanted = (head, tuple(modalities), control, spoilt)
    results = done.results()
    return next(
        one
        for one in results.columns
        if (one.cell.head, one.cell.modalities, one.cell.control, one.cell.spoilt) == wanted
    )
