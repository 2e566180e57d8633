"""What a stored vector is a function of: encoder keys and item keys.

An encoder key is a digest of everything about an encoder that could change a vector. An item
key is a digest of content, never of a path or of a time. Both are BLAKE2b with 16 bytes, so
that a collision among a billion items has a chance of about 1e-21.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ITEM_BYTES = 16
NO_ITEM = bytes(ITEM_BYTES)
"""Stands in a view where a sample lacks the modality."""


def canonical_json(value: Any) -> bytes:
    """JSON that is the same for equal values: sorted keys, no spaces, no NaN, ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def from_json(text: str) -> Any:
    """What JSON of a file says. Raises ValueError for what is none, also where it nests too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("lists or objects within each other, too deep to be read") from error


def digest(*parts: bytes) -> str:
    """Hex digest of the parts, each preceded by its length so that no two lists collide."""
    state = hashlib.blake2b(digest_size=ITEM_BYTES)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()


def item_key(content: bytes | str) -> bytes:
    """The key of one item: the digest of an image's bytes or of a text's UTF-8.

    A lone surrogate (from JSON) has no UTF-8; it is kept apart by `surrogatepass`.
    """
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return hashlib.blake2b(raw, digest_size=ITEM_BYTES).digest()


def pack_items(items: Iterable[bytes]) -> np.ndarray:
    """Item keys as `uint8` of shape `(n, 16)`, the form in which files hold them."""
    return np.frombuffer(b"".join(items), dtype=np.uint8).reshape(-1, ITEM_BYTES)


def unpack_items(packed: np.ndarray) -> list[bytes]:
    """The inverse of `pack_items`."""
    raw = np.ascontiguousarray(packed, dtype=np.uint8).tobytes()
    return [raw[start : start + ITEM_BYTES] for start in range(0, len(raw), ITEM_BYTES)]


@dataclass(frozen=True)
class EncoderKey:
    """Everything that could change a vector of one encoder, and nothing else.

    `fields` is JSON-able. It names the modality, the architecture, the weights' digest, the
    preprocessing, the outputs kept (such as `mean` and `cls`), and the dtypes. `name` is what
    people call the encoder; it is no part of the digest.
    """

    fields: Mapping[str, Any]
    name: str = field(default="", compare=False)

    @property
    def digest(self) -> str:
        """32 hex digits; the name of the encoder's folder in the store."""
        return digest(canonical_json(dict(self.fields)))

    @property
    def modality(self) -> str:
        """The modality that the encoder reads, such as `text`."""
        return str(self.fields["modality"])

    @property
    def schema(self) -> int:
        """Version of what the vectors mean."""
        return int(self.fields.get("schema", 1))
