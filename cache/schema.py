"""Names and versions of what the store's files hold."""

from __future__ import annotations

import re

KEY_SCHEMA = 1
"""Version of what a stored vector means. It is a field of every encoder key."""

SCHEMA = 2
"""Version of the files: 2 brought ragged outputs, and views that open without HDF5."""

READABLE = (1, 2)
"""Versions of files that are read. What is written is always of version `SCHEMA`."""

SEGMENT_SUFFIX = ".h5"
PLAN_SUFFIX = ".plan"
DAMAGED_SUFFIX = ".damaged"
VIEW_SUFFIX = ".view.h5"
PENDING_SUFFIX = ".pending.h5"
PARTS_SUFFIX = ".parts"
KEY_FILE = "key.json"
FAILURES_FILE = "failures.jsonl"

PRESENT, MISSING, FAILED = 1, 0, 2
"""States of one modality of one sample in a view."""

TOKENS = "tokens"
"""Name of the ragged output that `--tokens` keeps."""

KEY_DIGEST = re.compile("[0-9a-f]{32}")
"""What names an encoder's folder."""
PART_NAME = re.compile(r"[0-9]+-[0-9a-f]+\.view\.h5")
"""What a view may call a file of some of its rows."""
SEGMENT_NAME = re.compile(r"[0-9A-Za-z_-]+\.h5")
"""What a view may call a segment: a file of the encoder's own folder."""
