"""Stage one: data sets, encoders, and the loop that fills the store."""

import importlib
from typing import TYPE_CHECKING, Any

from extract.datasets import LAYOUTS, read_manifest
from extract.datasets.demo import write_demo
from extract.datasets.layout import Layout
from extract.deep import verify_by_encoding
from extract.encoders.spec import EncoderSpec, choose_specs
from extract.found import found_in
from extract.manifest import (
    Manifest,
    Piece,
    Sample,
    at_address,
    checked_manifest,
    default_name,
    inside,
    is_remote,
    label_counts,
)
from extract.measure import bench, bench_lines
from extract.originals import Original, Originals, originals
from extract.stage import Extraction, Settings, extract
from extract.summary import data_lines, extraction_lines, extraction_result, failed_samples

if TYPE_CHECKING:
    from extract.check.lines import check_lines
    from extract.check.page import write_check
    from extract.check.run import Checked, CheckSettings, check_data
    from extract.datasets.shards import Shard, first_rows, parted, shards_of
    from extract.downloads.manners import Manners
    from extract.downloads.result import Downloads
    from extract.downloads.run import download
    from extract.engines import Engine, Local
    from extract.extractor import FeatureExtractor
    from extract.finetune.processes import Processes
    from extract.finetune.settings import Tuning
    from extract.finetune.tune import Lesson, Tuned, tune
    from extract.ray_engine import RayEngine, RayOptions
    from extract.sharded import Sharded, extract_shards

_LATE = {
    "Engine": "extract.engines",
    "Local": "extract.engines",
    "RayEngine": "extract.ray_engine",
    "RayOptions": "extract.ray_engine",
    "Shard": "extract.datasets.shards",
    "Sharded": "extract.sharded",
    "extract_shards": "extract.sharded",
    "first_rows": "extract.datasets.shards",
    "parted": "extract.datasets.shards",
    "shards_of": "extract.datasets.shards",
    "CheckSettings": "extract.check.run",
    "Checked": "extract.check.run",
    "FeatureExtractor": "extract.extractor",
    "Downloads": "extract.downloads.result",
    "Lesson": "extract.finetune.tune",
    "Manners": "extract.downloads.manners",
    "Tuned": "extract.finetune.tune",
    "Tuning": "extract.finetune.settings",
    "Processes": "extract.finetune.processes",
    "check_data": "extract.check.run",
    "check_lines": "extract.check.lines",
    "download": "extract.downloads.run",
    "tune": "extract.finetune.tune",
    "write_check": "extract.check.page",
}
"""Names that are loaded when they are asked for: sklearn and torch take longer than an unchanged `extract`."""

__all__ = [
    "LAYOUTS",
    "CheckSettings",
    "Checked",
    "Downloads",
    "EncoderSpec",
    "Engine",
    "Extraction",
    "FeatureExtractor",
    "Layout",
    "Lesson",
    "Local",
    "Manifest",
    "Manners",
    "Original",
    "Originals",
    "Piece",
    "Processes",
    "RayEngine",
    "RayOptions",
    "Sample",
    "Settings",
    "Shard",
    "Sharded",
    "Tuned",
    "Tuning",
    "at_address",
    "bench",
    "bench_lines",
    "check_data",
    "check_lines",
    "checked_manifest",
    "choose_specs",
    "data_lines",
    "default_name",
    "download",
    "extract",
    "extract_shards",
    "extraction_lines",
    "extraction_result",
    "failed_samples",
    "first_rows",
    "found_in",
    "inside",
    "is_remote",
    "label_counts",
    "originals",
    "parted",
    "read_manifest",
    "shards_of",
    "tune",
    "verify_by_encoding",
    "write_check",
    "write_demo",
]


def __getattr__(name: str) -> Any:
    """Loads what `_LATE` names."""
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
