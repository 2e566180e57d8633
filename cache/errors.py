"""The errors that a user can meet.

Each message says what was expected, what was found, and the way out. `pipeline.py` prints
them as one clear line and exits with 1; anything else that is raised is a bug of ours.
"""

from __future__ import annotations

from collections.abc import Sequence


class PipelineError(Exception):
    """Base of every error that the user's input or environment causes."""


class DataError(PipelineError, ValueError):
    """The data set cannot be used as it stands."""


class ModelError(PipelineError, OSError):
    """A model, its weights or its tokenizer cannot be found or do not fit together."""


class DeviceError(PipelineError, RuntimeError):
    """The device that was asked for cannot be used."""


class StoreError(PipelineError, OSError):
    """The feature store cannot be read or written."""


class StoreDamaged(StoreError):
    """A file of the store is not what was written there."""


class CacheIncomplete(PipelineError, FileNotFoundError):
    """Features that were asked for are not in the store."""


class UsageError(PipelineError, ValueError):
    """An option, a parameter or a combination of them does not fit."""


def listing(items: Sequence[object], limit: int = 20) -> str:
    """The first `limit` items separated by commas, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:limit])
    more = len(items) - limit
    return f"{shown} and {more} more" if more > 0 else shown
