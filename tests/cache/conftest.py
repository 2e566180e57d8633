"""A store with tiny vectors that are a pure function of modality and content: the reference needs no code of ours."""

import zlib

import numpy as np
import pytest

from cache import (
    FAILED,
    MISSING,
    NO_ITEM,
    PRESENT,
    TOKENS,
    Block,
    EncoderKey,
    FeatureStore,
    FeatureWriter,
    Ragged,
    View,
    item_key,
    pack_items,
    placed,
    write_view,
)

KINDS = {"text": (3, "<f4"), "image": (2, "<f4"), "audio": (256, "<f2")}


def texts(values):
    return np.array(values, dtype=object)


class House:
    """Fills a store; a sample's content is a string, None where missing, `broken...` where decoding failed."""

    def __init__(self, root):
        self.store = FeatureStore(root)

    @staticmethod
    def vector(modality, content):
        dim, dtype = KINDS[modality]
        seed = zlib.crc32(f"{modality}/{content}".encode())
        return np.random.default_rng(seed).normal(size=dim).astype(dtype)

    @staticmethod
    def tokens(content):
        """One vector a letter."""
        seed = zlib.crc32(f"tokens/{content}".encode())
        return np.random.default_rng(seed).normal(size=(len(content), 4)).astype("<f2")

    @classmethod
    def expected(cls, contents, missing=0.0):
        """The plain array of `{modality: [content, ...]}`."""
        columns = []
        for modality, column in contents.items():
            dim, dtype = KINDS[modality]
            gap = np.full(dim, missing, dtype=dtype)
            lacks = [content is None or content.startswith("broken") for content in column]
            columns.append([gap if gone else cls.vector(modality, c) for gone, c in zip(lacks, column, strict=True)])
        return np.hstack([np.array(column) for column in columns])

    def encoder(self, modality="text", version=1):
        key = EncoderKey({"modality": modality, "weights": version})
        encoder = self.store.encoder(key.digest)
        encoder.create(key)
        return encoder

    def add(self, contents, modality="text", tokens=False):
        """Writes one segment."""
        outputs = {"mean": np.array([self.vector(modality, content) for content in contents])}
        if tokens:
            outputs[TOKENS] = Ragged.of([self.tokens(content) for content in contents])
        writer = FeatureWriter(self.encoder(modality), list(outputs), {"torch": "0"})
        writer.write([item_key(content) for content in contents], outputs)

    def block(self, modality, column):
        encoder = self.encoder(modality)
        items = pack_items([NO_ITEM if content is None else item_key(content) for content in column])
        state = [MISSING if c is None else FAILED if c.startswith("broken") else PRESENT for c in column]
        state = np.array(state, dtype=np.uint8)
        arrays = {"items": items, "state": state, "row": np.full(len(items), -1)}
        block = Block(modality, encoder.digest, "mean", KINDS[modality][0], arrays, spec={"model": "tiny"})
        return placed(encoder, block)[0]

    def view(self, contents, name="posts", labels=None, groups=None):
        """Writes a data set whose vectors are stored already; samples are named s0, s1, ..."""
        n = len(next(iter(contents.values())))
        view = View(
            name=name,
            columns={
                "ids": texts([f"s{number}" for number in range(n)]),
                "labels": texts(labels or ["ab"[number % 2] for number in range(n)]),
                "split": texts([["train", "test"][number % 2] for number in range(n)]),
                "groups": np.arange(n) if groups is None else np.array(groups),
            },
            blocks={modality: self.block(modality, column) for modality, column in contents.items()},
            source={"data": "posts.csv"},
        )
        write_view(self.store, view)
        return view


@pytest.fixture(scope="session")
def house_at():
    """`house_at(folder)`, for hypothesis, which wants a new folder for every example."""
    return House


@pytest.fixture
def house(tmp_path):
    return House(tmp_path / "features")


@pytest.fixture(scope="session")
def flip():
    """`flip(path, part)` changes the last byte of the last place where the file holds `part`."""

    def change(path, part):
        raw = bytearray(path.read_bytes())
        place = raw.rfind(part)
        assert place >= 0, f"{path} does not hold {part!r}"
        raw[place + len(part) - 1] ^= 0x10
        path.write_bytes(raw)

    return change


@pytest.fixture(scope="session")
def files_of():
    """`files_of(folder)`: what every file below it holds."""

    def read(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read
