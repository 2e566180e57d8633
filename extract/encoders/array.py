"""Arrays that were computed elsewhere: one vector a sample, or a sequence, or a row for each word of the text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache import KEY_SCHEMA, TOKENS, EncoderKey, Ragged, UsageError, Values
from extract.arrays import read_array
from extract.decode import DecodeError
from extract.encoders.spec import ARRAY, COMPUTE, EncoderSpec, Prepared, storage
from extract.manifest import Aligned, Content

if TYPE_CHECKING:
    from extract.encoders.text import WordPieces


class ArrayEncoder:
    """The rows of an array as they are, as float32.

    `mean` is the mean over the rows. `tokens`, where they are asked for, are the rows themselves; where
    they belong to words, a word's row is repeated over its pieces in the text encoder's tokenizer, and
    stands as zeros at its special tokens, so that token t of the array belongs to token t of the text,
    which is cut where the text is cut. The mean is over the words, cut or not.

    Inputs are `float32 (1 + T, D)`: the mean, then the tokens.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        if spec.width is None:
            raise UsageError(
                f"{spec.modality} are arrays, and nothing says how many columns they have; give EncoderSpec(width=...)"
            )
        self._width = spec.width
        self._pieces = _pieces(spec)
        self._tokens = spec.tokens
        self.truncated = 0  # the text encoder counts the texts that are cut
        self.files: tuple[Path, ...] = () if self._pieces is None else self._pieces.files
        self.key = EncoderKey(
            {
                "schema": KEY_SCHEMA,
                "modality": spec.modality,
                "architecture": ARRAY,
                "aligned": None if self._pieces is None else {**self._pieces.fields, "special": "zeros"},
                "layer": "rows as they are",
                "compute": COMPUTE["fp32"],
                # What the rows are is not known, so they are kept as exactly as their mean.
                **storage(spec, {"mean": spec.width}, "rows as they are", spec.dtype),
            },
            name=ARRAY,
        )

    def prepare(self, contents: Sequence[Content]) -> tuple[list[Any], list[int]]:
        """Contents as they are, with the word of each piece where they have words; each costs 1."""
        if self._pieces is None:
            return list(contents), [1] * len(contents)
        words = [content.words if isinstance(content, Aligned) else () for content in contents]
        pieces = self._pieces.of(words)
        return [Prepared(*both) for both in zip(contents, pieces, strict=True)], [1] * len(contents)

    def decode(self, light: Any) -> np.ndarray:
        """The mean of the rows, and below it the tokens: `float32 (1 + T, D)`.

        Raises:
            DecodeError: no such array, or one that does not fit its words.
        """
        content, pieces = (light.content, light.more) if isinstance(light, Prepared) else (light, None)
        if isinstance(content, Aligned) and pieces is None:
            raise DecodeError("it belongs to words, but the encoder was made for arrays that belong to none")
        raw = content.array if isinstance(content, Aligned) else content
        if not isinstance(raw, bytes):
            raise TypeError(f"expected the bytes of an array, found {type(raw).__name__}")
        array = read_array(raw)
        rows = np.atleast_2d(array)
        if rows.shape[1] != self._width:
            raise DecodeError(f"it has {rows.shape[1]} columns, others have {self._width}")
        mean = rows.mean(axis=0, dtype=np.float64, keepdims=True)
        if pieces is not None and array.ndim == 2:
            rows = _over_pieces(rows, content, pieces)
        return np.concatenate([mean, rows]).astype(np.float32, copy=False)

    def blank(self) -> np.ndarray:
        """One row of zeros, and their mean."""
        return np.zeros((2, self._width), dtype=np.float32)

    def encode(self, batch: Sequence[np.ndarray]) -> dict[str, Values]:
        """`mean` of each array, float32 of shape `(len(batch), D)`; `tokens` if asked for."""
        outputs: dict[str, Values] = {"mean": np.stack([one[0] for one in batch])}
        if self._tokens:
            outputs[TOKENS] = Ragged.of([one[1:] for one in batch])
        return outputs


def _pieces(spec: EncoderSpec) -> WordPieces | None:
    if spec.aligned_to is None:
        return None
    from extract.encoders.text import WordPieces  # torch, which plain arrays can do without

    return WordPieces(spec.aligned_to, spec.max_length)


def _over_pieces(rows: np.ndarray, content: Any, pieces: np.ndarray | str) -> np.ndarray:
    """The row of each piece's word, `(T, D)`; zeros where `pieces`, `int64 (T,)`, is -1."""
    if not isinstance(content, Aligned):
        raise DecodeError("the array has no words to be aligned with; name their column by --columns words=...")
    if len(rows) != len(content.words):
        raise DecodeError(f"it has {len(rows)} rows for {len(content.words)} words; each word needs one")
    if isinstance(pieces, str):
        raise DecodeError(pieces)
    return np.where(pieces[:, None] >= 0, rows[pieces], np.zeros(1, dtype=rows.dtype))
