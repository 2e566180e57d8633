"""How the library tells a caller how far it is. It never prints itself."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the steps done so far, and the steps in all."""


def silent(what: str, done: int, total: int) -> None:
    """A `Progress` that tells nobody."""
