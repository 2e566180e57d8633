"""How long texts are: in tokens of the text model where its tokenizer can be had, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cache import ModelError
from extract.check.measure import spread
from extract.encoders.spec import DEFAULT_MODELS

COUNTED = 100_000
"""Characters of a text that are counted in tokens: enough to be longer than what any model takes."""


def counter_for(model: str | None, max_length: int | None) -> tuple[Any, str]:
    """The tokenizer of the text model, or None, and in words which it is or why there is none.

    Where no model is named it is the default one, if it lies here: a report on data downloads nothing by itself.

    Raises:
        ModelError: the model that was named cannot be found.
    """
    from extract.encoders.text import TokenCounter  # torch

    if model is not None:
        return TokenCounter(model, max_length), model
    default = DEFAULT_MODELS["text"]
    try:
        return TokenCounter(default, max_length, local=True), default
    except ModelError:
        return None, (
            f"{default} is not in the local hub cache, so texts are counted in words; "
            "--text-model FOLDER or NAME counts its tokens"
        )


def text_facts(texts: Mapping[bytes, str], counts: Any) -> tuple[dict[bytes, int], np.ndarray]:
    """By item key the row of each text; characters, words and tokens of each, `int64 (n, 3)`.

    Args:
        texts: by item key.
        counts: a `TokenCounter`, or None: then no text has tokens.
    """
    rows = {item: row for row, item in enumerate(texts)}
    facts = np.zeros((len(rows), 3), dtype=np.int64)
    facts[:, 0] = [len(text) for text in texts.values()]
    facts[:, 1] = [len(text.split()) for text in texts.values()]
    if counts is not None:
        facts[:, 2] = counts.count([text[:COUNTED] for text in texts.values()])
    return rows, facts


def lengths(facts: np.ndarray, counts: Any) -> dict[str, Any]:
    """What the lengths of `n` texts come to.

    Args:
        facts: `int64 (n, 3)`, of the rows that have a text.
        counts: as above.
    """
    found: dict[str, Any] = {"characters": spread(facts[:, 0]), "words": spread(facts[:, 1])}
    if counts is not None:
        found |= {"tokens": spread(facts[:, 2]), "longest": counts.longest}
        found["truncated"] = int((facts[:, 2] > counts.longest).sum())
        found["counted_in_part"] = int((facts[:, 0] > COUNTED).sum())
    return found
