"""All heads by name. The command line, the docs and the tests walk this one table."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cache import UsageError, listing
from fuse.estimators import FusionClassifier
from fuse.heads.linear import ConcatLogisticClassifier, UnimodalClassifier
from fuse.heads.mlp import ConcatMLPClassifier
from fuse.heads.vote import LateVotingClassifier


@dataclass(frozen=True)
class Head:
    """One head: its class, the parameters that its name implies, its formula and source."""

    name: str
    classifier: type[FusionClassifier]
    summary: str
    formula: str
    source: str
    params: Mapping[str, Any] = field(default_factory=dict)


_LOGISTIC = "Cox (1958); scikit-learn's LogisticRegression"

HEADS: dict[str, Head] = {
    head.name: head
    for head in (
        Head(
            "mlp",
            ConcatMLPClassifier,
            "concatenation, one hidden layer",
            "softmax(W2 relu(W1 [z_1; ...; z_M] + b1) + b2)",
            "early fusion; Baltrusaitis et al. (2019), section 6.1",
        ),
        Head(
            "logreg",
            ConcatLogisticClassifier,
            "concatenation, multinomial logistic regression",
            "softmax(W [z_1; ...; z_M] + b)",
            _LOGISTIC,
        ),
        Head(
            "vote",
            LateVotingClassifier,
            "late voting over one logistic regression a modality (soft, or --set voting=hard)",
            "sum_m w_m p_m",
            "Kittler et al. (1998)",
        ),
        Head(
            "text",
            UnimodalClassifier,
            "text alone, logistic regression",
            "softmax(W z_text + b)",
            _LOGISTIC,
            {"modality": "text"},
        ),
        Head(
            "image",
            UnimodalClassifier,
            "image alone, logistic regression",
            "softmax(W z_image + b)",
            _LOGISTIC,
            {"modality": "image"},
        ),
    )
}


def modalities_of(name: str, params: Mapping[str, Any], available: Sequence[str]) -> tuple[str, ...]:
    """Those of the available modalities that a head reads: one for a unimodal head, else all.

    Raises:
        UsageError: a unimodal head's modality is not available.
    """
    own = {**(HEADS[name].params if name in HEADS else {}), **params}.get("modality")
    if own is not None and own not in available:
        raise UsageError(f"the head {name!r} needs the modality {own!r}; the features hold {listing(available)}")
    return tuple(available) if own is None else (own,)


def make_classifier(name: str, **params: Any) -> FusionClassifier:
    """Builds a head by its name, with parameters that override its defaults.

    Raises:
        UsageError: no such head, or no such parameter; the message lists what there is.
    """
    if name not in HEADS:
        close = difflib.get_close_matches(name, HEADS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"there is no head {name!r}; choose one of {listing(list(HEADS))}{hint}")
    head = HEADS[name]
    known = sorted(head.classifier().get_params(deep=False))
    unknown = [key for key in params if key not in known]
    if unknown:
        raise UsageError(f"the head {name!r} has no parameter {listing(unknown)}; it has {listing(known)}")
    return head.classifier(**{**head.params, **params})
