"""How long texts are: in tokens of the text model where its tokenizer can be had, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from extract.check.measure import spread
from extract.encoders.spec import DEFAULT_MODELS

COUNTED = 100_000
"""Characters of a text that are counted in tokens: enough to be longer than what any model takes."""


def counter_for(model: str | None, max_length: int | None) -> tuple[Any, str]:
    """The tokenizer of the text model, or None, and in words which it is or why there is none.

    Where no model is named it is the default one, if it lies here: a report on data downloads nothing by itself.

    Raises:
        ModelError: the model that was named cannot be found, or what lies here of the default one is not whole.
    """
    if model is None and not _lies_here(DEFAULT_MODELS["text"]):
        return None, (
            f"{DEFAULT_MODELS['text']} is not in the local hub cache, so texts are counted in words; "
            "--text-model FOLDER or NAME counts its tokens"
        )
    from extract.encoders.text import TokenCounter  # torch

    chosen = model or DEFAULT_MODELS["text"]
    return TokenCounter(chosen, max_length, local=model is None), chosen


def _lies_here(model: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return Path(model).is_dir() or isinstance(try_to_load_from_cache(model, "config.json"), str)


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
