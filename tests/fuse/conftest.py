"""Tiny data sets in a store of their own, and plain numpy for what the heads should compute."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import estimator_checks_generator
from threadpoolctl import threadpool_limits

import cache
from fuse import HEADS, make_classifier, make_regressor

N = 60
OFTEN = (
    *("logreg-classifier", "ridge-classifier", "ridge-regressor", "stacking-classifier", "vote-fitted-regressor"),
    *("mlp-classifier", "mlp-regressor", "gated-attention-classifier"),
)
"""What quick tests walk, too: a linear head, a temperature, inner folds, a network, tokens; both tasks."""

MAKERS = {"classifier": make_classifier, "regressor": make_regressor}


@dataclass(frozen=True)
class Case:
    """A head of the registry as classifier or as regressor, with settings that make it quick and repeatable."""

    name: str
    kind: str

    def __str__(self):
        return f"{self.name}-{self.kind}"

    @property
    def type(self):
        return getattr(HEADS[self.name], self.kind)

    @property
    def reads_tokens(self):
        return HEADS[self.name].reads_tokens

    @property
    def always(self):
        """Whether the head holds out some of its training rows whatever its settings."""
        return self.inner == {} or self.name == "blend"

    @property
    def inner(self):
        """Settings by which the head holds out training rows; None if it never does."""
        if "early_stopping" in self.fields:
            return {"early_stopping": True}
        own = {"stacking", "ensemble", "vote-fitted"} | (
            {"ridge", "svm", "kernel", "kernel-product"} if self.kind == "classifier" else set()
        )
        return {} if self.name in own else None

    @property
    def fields(self):
        return self.type().get_params(deep=False)

    def make(self, **params):
        """A head over tables; `array=True`: over plain arrays, where a token is one column."""
        array = params.pop("array", False)
        quick = {"random_state": 0, "epochs": 3} | ({"token_dim": 1} if array else {})
        if self.name == "ensemble":
            quick["members"] = ("unimodal", "logreg" if self.kind == "classifier" else "ridge", "mlp")
        if self.name == "unimodal":
            quick["modality"] = "text"
        return MAKERS[self.kind](self.name, **{k: v for k, v in quick.items() if k in self.fields} | params)

    @staticmethod
    def output(head, X):
        """Probabilities, or values."""
        return head.predict_proba(X) if hasattr(head, "predict_proba") else head.predict(X)


def _marked(case, *values):
    marks = [] if str(case) in OFTEN else [pytest.mark.slow]
    return pytest.param(*(values or [case]), marks=marks, id="-".join(map(str, (case, *map(_check_name, values[1:])))))


def _check_name(check):
    return getattr(check, "func", check).__name__


CASES = [Case(name, kind) for name, head in HEADS.items() for kind in MAKERS if getattr(head, kind)]

CHOICES = {
    "any_case": lambda case: True,
    "classifier_case": lambda case: case.kind == "classifier",
    "regressor_case": lambda case: case.kind == "regressor",
    "vector_case": lambda case: not case.reads_tokens,
    "token_case": lambda case: case.reads_tokens,
    "holding_case": lambda case: case.inner is not None,
    "free_case": lambda case: not case.always,
}


def pytest_generate_tests(metafunc):
    """`any_case`: every head, as classifier and as regressor; `estimator`, `check`: with each of sklearn's checks."""
    for name, chosen in CHOICES.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, [_marked(case) for case in CASES if chosen(case)])
    if "check" in metafunc.fixturenames:
        # What sklearn's parametrize_with_checks does, with marks.
        heads = [(case, case.make(array=True, **_passes(case))) for case in CASES]
        checks = [
            _marked(case, *pair) for case, head in heads for pair in estimator_checks_generator(head, mark="skip")
        ]
        metafunc.parametrize(("estimator", "check"), checks)


def _passes(case):
    """Settings by which few steps are enough for sklearn's checks."""
    if "epochs" not in case.fields:
        return {}
    fast = {"epochs": 20, "learning_rate": 3e-2}
    # Of a set the order does not count, so that columns as its vectors would be mixed up.
    return fast | ({"token_dim": None} if getattr(case.type, "one_is_enough", False) else {})


@pytest.fixture
def few_steps(monkeypatch):
    """Networks are not trained for longer than their epochs say."""
    monkeypatch.setattr("fuse.training.MIN_STEPS", 1)


@pytest.fixture
def case(any_case, few_steps):
    """Each head in turn, quickly trained."""
    return any_case


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny matrices gain nothing from threads, and lose much on a busy machine."""
    with threadpool_limits(1):
        yield


def _write_block(store, modality, vectors, present, tokens=None, architecture="random"):
    key = cache.EncoderKey({"modality": modality, "architecture": architecture, "schema": cache.KEY_SCHEMA})
    encoder = store.encoder(key.digest)
    encoder.create(key)
    keys = [cache.item_key(f"{modality} {row}") if there else cache.NO_ITEM for row, there in enumerate(present)]
    for rows in filter(len, np.array_split(np.flatnonzero(present), 2)):  # two segments: rows are found across files
        outputs = {"mean": vectors[rows]}
        if tokens is not None:
            outputs[cache.TOKENS] = cache.Ragged.of([tokens[row] for row in rows])
        cache.FeatureWriter(encoder, list(outputs), {}).write([keys[row] for row in rows], outputs)
    items, state = cache.pack_items(keys), np.where(present, cache.PRESENT, cache.MISSING).astype(np.uint8)
    arrays = {"items": items, "state": state, "row": np.full(len(items), -1)}
    block = cache.Block(modality, key.digest, "mean", vectors.shape[1], arrays, spec={"model": "random"})
    return cache.placed(encoder, block)[0]


def _write_table(root, vectors, labels, present=None, groups=None, split=None, tokens=None):
    n, store, masks, tokens = len(labels), cache.FeatureStore(root), present or {}, tokens or {}
    texts = {"ids": [f"id{row}" for row in range(n)], "labels": labels, "split": [""] * n if split is None else split}
    blocks = {
        name: _write_block(store, name, x, masks.get(name, np.ones(n, bool)), tokens.get(name))
        for name, x in vectors.items()
    }
    groups = np.arange(n) if groups is None else np.asarray(groups, dtype=np.int64)
    columns = {name: np.array(values, dtype=object) for name, values in texts.items()} | {"groups": groups}
    cache.write_view(store, cache.View("posts", columns, blocks))
    return cache.load(root, "posts")


@pytest.fixture
def make_table(tmp_path):
    """Builds a table from `{modality: (n, D)}`, `n` labels and, if wanted, masks, groups, splits and token vectors."""
    numbers = itertools.count()

    def make(*args, **options):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("os.fsync", lambda _: None)  # takes most of the time, and no test here pulls the plug
            return _write_table(tmp_path / f"features-{next(numbers)}", *args, **options)

    return make


@pytest.fixture
def make_labelled(make_table):
    """Builds a table where only labels, splits and groups matter."""
    return lambda labels, **options: make_table({"text": np.ones((len(labels), 2))}, labels, **options)


@pytest.fixture
def signal():
    """Makes `(vectors, y)`: 60 rows with something to learn about 2 or 3 classes in both modalities."""

    def make(n_classes=3):
        rng, target = np.random.default_rng(0), np.arange(N) % n_classes
        text = rng.normal(size=(N, 4)) * [1, 5, 0.1, 2] + [0, 3, -1, 10]
        image = rng.normal(size=(N, 6)) * 3
        text[:, 0] += target
        image[:, 1] -= 3 * target
        return {"text": text, "image": image}, np.array(["apple", "berry", "cherry"])[target]

    return make


@pytest.fixture
def posts(make_table, signal):
    """60 rows of 3 classes with every modality."""
    return make_table(*signal())


@pytest.fixture
def gappy(make_table, signal):
    """60 rows of 3 classes; rows 0-9 lack the image, rows 10-14 the text, rows 15 and 16 both."""
    return make_table(*signal(), present=_gaps())


def _gaps():
    has = {"text": np.ones(N, bool), "image": np.ones(N, bool)}
    has["image"][[*range(10), 15, 16]] = has["text"][10:17] = False
    return has


def _tokens(vectors):
    """Row r has 1 + r % 4 tokens in each modality, as many as in the others: the start of its vector, and noise."""
    rng = np.random.default_rng(5)
    return {
        name: [
            np.hstack([np.tile(row[:2], (1 + r % 4, 1)), rng.normal(size=(1 + r % 4, 1))]) for r, row in enumerate(x)
        ]
        for name, x in vectors.items()
    }


@pytest.fixture
def aligned_tokens():
    """Makes `{modality: [(T_r, 3), ...]}` of vectors, the same number of tokens in each modality."""
    return _tokens


@pytest.fixture
def data_of(make_table, signal):
    """Builds `(table, y)` with what a case reads: tokens or none, labels or numbers; `gaps=True`: as in `gappy`."""

    def make(case, gaps=False, **options):
        vectors, y = signal()
        if case.reads_tokens:
            options = {"tokens": _tokens(vectors)} | options
        table = make_table(vectors, y, **({"present": _gaps()} if gaps else {}) | options)
        numbers = 10.0 * (np.arange(N) % 3) + np.random.default_rng(3).normal(size=N)
        return table, y if case.kind == "classifier" else numbers

    return make


@pytest.fixture
def data(any_case, data_of):
    """`data_of` of each head in turn."""
    return lambda **options: data_of(any_case, **options)


@pytest.fixture
def split_posts(make_table, signal):
    """Train 30 rows, apple the most frequent class; validation 12; test 18: 6 apples, 7 berries, 5 cherries."""
    vectors, y = signal()
    y[1], y[59] = "apple", "berry"
    return make_table(vectors, y, split=np.repeat(["train", "val", "test"], [30, 12, 18]))


def _zscore(vectors, rows=slice(None)):
    parts = [(x - x[rows].mean(axis=0)) / (x[rows].std(axis=0) * np.sqrt(x.shape[1])) for x in vectors.values()]
    return np.hstack(parts)


@pytest.fixture
def zscore():
    """`z = (x - mean) / (std * sqrt(D))` of each modality, mean and std those of the chosen rows."""
    return _zscore


@pytest.fixture
def logistic():
    """Probabilities of every row by sklearn's logistic regression on the `z` of the chosen rows."""

    def proba(vectors, y, rows=slice(None), **params):
        z = _zscore(vectors, rows)
        return LogisticRegression(max_iter=10_000, tol=1e-9, **params).fit(z[rows], y[rows]).predict_proba(z)

    return proba
