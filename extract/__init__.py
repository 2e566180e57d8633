"""Stage one: data sets, encoders, and the loop that fills the store."""

from typing import TYPE_CHECKING, Any

from extract.datasets import LAYOUTS, read_manifest
from extract.datasets.demo import write_demo
from extract.deep import verify_by_encoding
from extract.encoders.spec import EncoderSpec, choose_specs
from extract.found import found_in
from extract.manifest import Manifest, Sample, default_name, label_counts
from extract.measure import bench, bench_lines
from extract.originals import Original, Originals, originals
from extract.stage import Extraction, Settings, extract
from extract.summary import extraction_lines, extraction_result, failure_lines

if TYPE_CHECKING:
    from extract.extractor import FeatureExtractor

__all__ = [
    "LAYOUTS",
    "EncoderSpec",
    "Extraction",
    "FeatureExtractor",
    "Manifest",
    "Original",
    "Originals",
    "Sample",
    "Settings",
    "bench",
    "bench_lines",
    "choose_specs",
    "default_name",
    "extract",
    "extraction_lines",
    "extraction_result",
    "failure_lines",
    "found_in",
    "label_counts",
    "originals",
    "read_manifest",
    "verify_by_encoding",
    "write_demo",
]


def __getattr__(name: str) -> Any:
    """Loads `FeatureExtractor` when it is asked for: importing sklearn takes longer than an unchanged `extract`."""
    if name == "FeatureExtractor":
        from extract.extractor import FeatureExtractor

        return FeatureExtractor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
