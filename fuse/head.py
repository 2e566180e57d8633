"""What the registry says of a head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fuse.estimators import FusionClassifier, FusionHead, FusionRegressor
from fuse.tokens import TokenHead


@dataclass(frozen=True)
class Head:
    """One head: its classes, the parameters that its name implies, its formula and source.

    `missing` says what becomes of a modality that a row lacks; `use` when to take the head; `most_rows`
    from how many training rows on it should be taken only by those who ask for it.
    """

    name: str
    classifier: type[FusionClassifier] | None
    regressor: type[FusionRegressor] | None
    summary: str
    formula: str
    source: str
    use: str
    missing: str = "a learned vector stands in"
    params: Mapping[str, Any] = field(default_factory=dict)
    most_rows: int | None = None

    @property
    def any_class(self) -> type[FusionHead]:
        """One of the classes; their parameters differ in the loss alone."""
        found = self.classifier or self.regressor
        if found is None:
            raise TypeError(f"{self.name} has no class")
        return found

    @property
    def reads_tokens(self) -> bool:
        """Whether it needs token vectors (`extract --tokens`)."""
        return issubclass(self.any_class, TokenHead)
