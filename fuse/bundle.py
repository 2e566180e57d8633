"""Saves and loads a fitted head as safetensors and JSON: no pickle, nothing executed on loading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialize
from sklearn.base import BaseEstimator

from cache import (
    PipelineError,
    UsageError,
    check_seal,
    digest,
    from_json,
    make_folder,
    replacing,
    with_seal,
    write_json,
)
from fuse.estimators import FusionHead
from fuse.inputs import BlockScaler
from fuse.registry import HEADS

RUN_SCHEMA = 1
"""Version of a run's files."""

TENSORS, STATE = "model.safetensors", "model.json"
_HEADS = {kind for head in HEADS.values() for kind in (head.classifier, head.regressor) if kind is not None}
SAVED: dict[str, type[BaseEstimator]] = {kind.__name__: kind for kind in (BlockScaler, *_HEADS)}
"""The only classes that a bundle may name."""


class BundleError(PipelineError, ValueError):
    """A saved head is not what was saved."""


def save(estimator: FusionHead, folder: str | Path) -> None:
    """Writes a fitted head to `folder`, which is made if need be.

    Raises:
        UsageError: the estimator holds something that is neither numbers, text nor a head.
    """
    folder = Path(folder)
    make_folder(folder)
    tensors: dict[str, np.ndarray] = {}
    state = _pack(estimator, "", tensors)
    content = serialize(tensors)
    with replacing(folder / TENSORS) as temporary:
        temporary.write_bytes(content)
    shapes = {name: [list(array.shape), array.dtype.name] for name, array in tensors.items()}
    about = {"schema": RUN_SCHEMA, "estimator": state, "tensors": shapes, "digest": digest(content)}
    write_json(folder / STATE, with_seal(about))


def load(folder: str | Path) -> FusionHead:
    """Reads a head that `save` wrote, with its parameters and learned state.

    Raises:
        BundleError: a file is missing or damaged, or tensors differ in name, shape or type from
            what was saved.
    """
    folder = Path(folder)
    try:
        content = from_json((folder / STATE).read_text(encoding="utf-8"))
        raw = (folder / TENSORS).read_bytes()
        tensors = parse(raw)
        if content["schema"] != RUN_SCHEMA:
            raise BundleError(f"{folder} has schema {content['schema']!r}, this version reads {RUN_SCHEMA}")
        check_seal(content, {"schema", "estimator", "tensors", "digest"})
        _check_tensors(folder, content["tensors"], tensors)
        if digest(raw) != content["digest"]:
            raise BundleError(f"{folder / TENSORS} is not what was saved (its digest does not fit); run fuse again")
        return _unpack(content["estimator"], tensors)
    except BundleError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise BundleError(f"{folder} holds no readable model ({error!r}); run fuse again to make one") from error


def _check_tensors(folder: Path, expected: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    for name, (shape, dtype) in expected.items():
        found = tensors.get(name)
        if found is None or list(found.shape) != shape or found.dtype.name != dtype:
            raise BundleError(
                f"{folder}: tensor {name} was saved as {dtype} {shape}, found "
                + ("none" if found is None else f"{found.dtype.name} {list(found.shape)}")
            )


def _pack(value: Any, path: str, tensors: dict[str, np.ndarray]) -> Any:
    """JSON for `value`; arrays of numbers go to `tensors` under their path."""
    if isinstance(value, BaseEstimator):
        state = {
            **value.get_params(deep=False),
            **{key: part for key, part in vars(value).items() if key.endswith("_")},
        }
        return {"class": type(value).__name__, "state": _pack_each(state, path, tensors)}
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        tensors[path] = np.ascontiguousarray(value)
        return {"tensor": path}
    if isinstance(value, np.ndarray):
        return {"strings": [str(part) for part in value.tolist()]}
    if isinstance(value, slice):
        return {"slice": [None if bound is None else int(bound) for bound in (value.start, value.stop)]}
    if isinstance(value, Mapping):
        # Pairs, for JSON objects are written with their keys sorted, and the order of blocks counts.
        return {"mapping": [list(pair) for pair in _pack_each(value, path, tensors).items()]}
    if isinstance(value, list | tuple):
        return {"list": [_pack(part, f"{path}.{number}", tensors) for number, part in enumerate(value)]}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise UsageError(f"cannot save {path or 'the head'}: {type(value).__name__} is neither numbers, text nor a head")


def _pack_each(values: Mapping[Any, Any], path: str, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    lost = [key for key in values if not isinstance(key, str)]
    if lost:
        raise UsageError(f"cannot save {path or 'the head'}: keys must be text, got {lost}")
    return {key: _pack(part, f"{path}.{key}".lstrip("."), tensors) for key, part in values.items()}


def _unpack(packed: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Any:
    if "class" in packed:
        if packed["class"] not in SAVED:
            raise BundleError(f"the bundle names the class {packed['class']!r}, which is no head of this version")
        estimator = SAVED[packed["class"]]()
        for key, part in packed["state"].items():
            setattr(estimator, key, _unpack(part, tensors))
        return estimator
    kind, content = next(iter(packed.items()))
    if kind == "tensor":
        return tensors[content]
    if kind == "strings":
        return np.array(content, dtype=str)
    if kind == "slice":
        return slice(*content)
    if kind == "mapping":
        return {key: _unpack(part, tensors) for key, part in content}
    if kind == "list":
        return [_unpack(part, tensors) for part in content]
    return content
