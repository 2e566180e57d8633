"""All heads by name. The command line, the docs and the tests walk this one table."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from cache import UsageError, listing
from fuse.catalogue import CATALOGUE
from fuse.estimators import FusionClassifier, FusionHead, FusionRegressor
from fuse.head import Head
from fuse.tokens import TokenHead

HEADS: dict[str, Head] = {head.name: head for head in CATALOGUE}


def modalities_of(name: str, params: Mapping[str, Any], available: Sequence[str]) -> tuple[str, ...]:
    """Those of the available modalities that a head reads: one for a unimodal head, else all.

    Raises:
        UsageError: a unimodal head's modality is not available.
    """
    own = {**(HEADS[name].params if name in HEADS else {}), **params}.get("modality")
    if own is not None and own not in available:
        raise UsageError(f"the head {name!r} needs the modality {own!r}; the features hold {listing(available)}")
    return tuple(available) if own is None else (own,)


def tokens_read(name: str, params: Mapping[str, Any], available: Sequence[str]) -> tuple[str, ...]:
    """Those of the available modalities that a head reads token by token, where they have tokens.

    Raises:
        UsageError: no such head.
    """
    head = find_head(name)
    if not issubclass(head.any_class, TokenHead):
        return ()
    wanted = {**head.any_class().get_params(deep=False), **head.params, **params}["tokens"]
    return tuple(available) if wanted is None else tuple(one for one in available if one in wanted)


def make_classifier(name: str, **params: Any) -> FusionClassifier:
    """Builds a head that classifies by its name, with parameters that override its defaults.

    Raises:
        UsageError: no such head, or no such parameter; the message lists what there is.
    """
    head = find_head(name)
    if head.classifier is None:
        raise UsageError(f"the head {name!r} does not classify")
    return head.classifier(**_checked(head, head.classifier, params))


def make_regressor(name: str, **params: Any) -> FusionRegressor:
    """Builds a head that predicts a number by its name, with parameters that override its defaults.

    Raises:
        UsageError: no such head, none that predicts numbers, or no such parameter.
    """
    head = find_head(name)
    if head.regressor is None:
        able = [one.name for one in HEADS.values() if one.regressor]
        raise UsageError(f"the head {name!r} predicts classes only; those that predict numbers: {listing(able, 99)}")
    return head.regressor(**_checked(head, head.regressor, params))


def find_head(name: str) -> Head:
    """The head of this name.

    Raises:
        UsageError: there is none; the message lists all, and the closest.
    """
    if name not in HEADS:
        close = difflib.get_close_matches(name, HEADS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"there is no head {name!r}; choose one of {listing(list(HEADS), 99)}{hint}")
    return HEADS[name]


def _checked(head: Head, kind: type[FusionHead], params: Mapping[str, Any]) -> dict[str, Any]:
    known = sorted(kind().get_params(deep=False))
    unknown = [key for key in params if key not in known]
    if unknown:
        raise UsageError(f"the head {head.name!r} has no parameter {listing(unknown)}; it has {listing(known, 99)}")
    return {**head.params, **params}
