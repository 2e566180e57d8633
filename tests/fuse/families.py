"""Small cross-fitted data sets: texts by encoders that were tuned once a fold, pictures by one that never was."""

from dataclasses import replace

import numpy as np

import cache
from fuse.leaks import TUNED_ON
from tests.fuse.conftest import _write_block

N = 60
FOLDS = 3
CLASSES = ("apple", "berry", "cherry")


def tuned_vectors(target, folds=FOLDS, seed=0):
    """Of each fold `(n, 4)`: something of the target in a space of the fold's own, and noise of its own."""
    draws = [np.random.default_rng([seed, fold]) for fold in range(folds)]
    return [
        (
            rng.normal(size=(len(target), 4)) + np.outer(target, rng.normal(size=4) * 1.5) + 3 * rng.normal(size=4)
        ).astype(np.float32)
        for rng in draws
    ]


class Family:
    """A cross-fitted data set that is written to `root`, and all that it was made of.

    Every fifth row is unlabelled. `fold` holds the fold of each row, -1 of those; `vectors` of each fold
    `{modality: (n, D)}`.

    Args:
        root: of the store.
        labels: of all rows; three classes in turn by default.
        folds: K.
        name: of the data set.
        seed: of the texts' vectors and encoders.
        tokens: of each fold, of each row, the token vectors of its text.
        extra: rows that tuned the text encoder of fold 0, too.
    """

    def __init__(self, root, labels=None, folds=FOLDS, name="posts", seed=0, tokens=None, extra=()):
        target = np.arange(N) % len(CLASSES)
        labels = np.array(CLASSES)[target] if labels is None else np.asarray(labels)
        self.root, self.name = root, name
        self.store = cache.FeatureStore(root)
        self.labels = np.where(np.arange(N) % 5 == 4, "", labels)
        self.fold = np.where(self.labels == "", -1, np.random.default_rng(7).permutation(np.arange(N)) % folds)
        texts = tuned_vectors(target, folds, seed)
        image = np.random.default_rng(1).normal(size=(N, 3)).astype(np.float32)
        image[:, 0] += target
        self.vectors = [{"text": text, "image": image} for text in texts]
        everywhere = np.ones(N, bool)
        shared = _write_block(self.store, "image", image, everywhere)
        for number, text in enumerate(texts):
            own = None if tokens is None else tokens[number]
            block = _write_block(self.store, "text", text, everywhere, own, f"tuned without {number}, {seed}")
            rows = [*np.flatnonzero((self.fold != number) & (self.fold >= 0)), *(extra if number == 0 else ())]
            about = {"data": name, "items": [block.items[row].tobytes().hex() for row in rows]}
            blocks = {"text": replace(block, spec={**block.spec, TUNED_ON: about}), "image": shared}
            split = np.where(self.fold < 0, "", np.where(self.fold == number, "test", "train"))
            self.write(cache.fold_view_name(name, number), split, blocks)

    def write(self, name, split, blocks):
        """Writes one view."""
        texts = {"ids": [f"id{row}" for row in range(N)], "labels": self.labels, "split": split}
        columns = {key: np.array(values, dtype=object) for key, values in texts.items()} | {"groups": np.arange(N)}
        cache.write_view(self.store, cache.View(name, columns, blocks))

    def load(self, modalities=None):
        """As stage two opens it."""
        return cache.load_folds(self.root, self.name, modalities)

    @property
    def labelled(self):
        """Numbers of the rows that have a label."""
        return np.flatnonzero(self.labels != "")

    def parts(self, fold):
        """Numbers of the rows that train, and of those that test a fold."""
        return np.flatnonzero((self.fold >= 0) & (self.fold != fold)), np.flatnonzero(self.fold == fold)
