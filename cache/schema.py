"""Names and versions of what the store's files hold."""

from __future__ import annotations

SCHEMA = 1
"""Version of segments, views and keys. It is a field of every encoder key."""

SEGMENT_SUFFIX = ".h5"
VIEW_SUFFIX = ".view.h5"
KEY_FILE = "key.json"
FAILURES_FILE = "failures.jsonl"

PRESENT, MISSING, FAILED = 1, 0, 2
"""States of one modality of one sample in a view."""
