"""Remembers encoder keys, so that a run with nothing to encode need not load a model.

A key is taken from memory only if every file that the encoder was read from has the size and
the times that it had then (of modification, and of change, which no copying tool can set), and
the libraries are the same versions. The memory is `encoders.json` in the store; it may be
deleted at any time.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache import KEY_SCHEMA, EncoderKey, StoreError, canonical_json, digest, from_json, write_json
from extract.encoders.spec import ARRAY, TABULAR, EncoderSpec

MEMO_FILE = "encoders.json"


def recall(root: Path, spec: EncoderSpec) -> EncoderKey | None:
    """The key of the encoder that `spec` names, if it can be known without loading it."""
    entry = _read(root).get(_name(spec))
    from_nothing = spec.random_init is not None or spec.kind in (ARRAY, TABULAR)  # the spec alone makes the key
    if entry is None or not (entry["files"] or from_nothing):
        return None
    if any(_state(Path(path)) != state for path, state in entry["files"].items()):
        return None
    return EncoderKey(entry["key"], entry["name"])


def remember(root: Path, spec: EncoderSpec, key: EncoderKey, files: Sequence[Path]) -> None:
    """Writes down the key of an encoder that was read from these files."""
    entries = _read(root)
    states = {str(path): _state(path) for path in files}
    entries[_name(spec)] = {"files": states, "key": dict(key.fields), "name": key.name}
    write_json(root / MEMO_FILE, {"entries": entries, "digest": digest(canonical_json(entries))})


def _name(spec: EncoderSpec) -> str:
    fields = {**spec.as_json(), "output": None}  # the key covers all outputs
    fields.pop("tuned_on", None)  # and does not depend on what is known of the weights
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "transformers")}
    return digest(canonical_json({"spec": fields, "versions": versions, "schema": KEY_SCHEMA}))


def _state(path: Path) -> list[int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _read(root: Path) -> dict[str, Any]:
    """The entries; none where the file is absent or damaged: then keys are computed anew."""
    try:
        content = from_json((root / MEMO_FILE).read_text(encoding="utf-8"))
        entries: dict[str, Any] = content["entries"]
        return entries if content["digest"] == digest(canonical_json(entries)) else {}
    except StoreError:  # a store that lies elsewhere cannot be asked
        raise
    except (OSError, ValueError, KeyError, TypeError):
        return {}
