"""Tiny data sets in a store of their own, and plain numpy for what the heads should compute."""

import itertools

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

import cache

N = 60


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny matrices gain nothing from threads, and lose much on a busy machine."""
    with threadpool_limits(1):
        yield


def _write_block(store, modality, vectors, present):
    key = cache.EncoderKey({"modality": modality, "architecture": "random", "schema": cache.KEY_SCHEMA})
    encoder = store.encoder(key.digest)
    encoder.create(key)
    keys = [cache.item_key(f"{modality} {row}") if there else cache.NO_ITEM for row, there in enumerate(present)]
    for rows in np.array_split(np.flatnonzero(present), 2):  # two segments: rows are found across files
        cache.FeatureWriter(encoder, ["mean"], {}).write([keys[row] for row in rows], {"mean": vectors[rows]})
    items, state = cache.pack_items(keys), np.where(present, cache.PRESENT, cache.MISSING).astype(np.uint8)
    arrays = {"items": items, "state": state, "row": np.full(len(items), -1)}
    block = cache.Block(modality, key.digest, "mean", vectors.shape[1], arrays, spec={"model": "random"})
    return cache.placed(encoder, block)[0]


def _write_table(root, vectors, labels, present=None, groups=None, split=None):
    n, store, masks = len(labels), cache.FeatureStore(root), present or {}
    texts = {"ids": [f"id{row}" for row in range(n)], "labels": labels, "split": [""] * n if split is None else split}
    blocks = {name: _write_block(store, name, x, masks.get(name, np.ones(n, bool))) for name, x in vectors.items()}
    groups = np.arange(n) if groups is None else np.asarray(groups, dtype=np.int64)
    columns = {name: np.array(values, dtype=object) for name, values in texts.items()} | {"groups": groups}
    cache.write_view(store, cache.View("posts", columns, blocks))
    return cache.load(root, "posts")


@pytest.fixture
def make_table(tmp_path):
    """Builds a table from `{modality: (n, D)}`, `n` labels and, if wanted, masks, groups and splits."""
    numbers = itertools.count()
    return lambda *args, **options: _write_table(tmp_path / f"features-{next(numbers)}", *args, **options)


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
    has = {"text": np.ones(N, bool), "image": np.ones(N, bool)}
    has["image"][[*range(10), 15, 16]] = has["text"][10:17] = False
    return make_table(*signal(), present=has)


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
        return LogisticRegression(max_iter=1000, **params).fit(z[rows], y[rows]).predict_proba(z)

    return proba
