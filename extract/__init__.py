"""Stage one: data sets, encoders, and the loop that fills the store."""

from extract.datasets import LAYOUTS, read_manifest
from extract.datasets.demo import write_demo
from extract.deep import verify_by_encoding
from extract.encoders.spec import EncoderSpec, choose_specs
from extract.manifest import Manifest, Sample, default_name, label_counts
from extract.measure import bench, bench_lines
from extract.stage import Extraction, Settings, extract
from extract.summary import extraction_lines, extraction_result, failure_lines

__all__ = [
    "LAYOUTS",
    "EncoderSpec",
    "Extraction",
    "Manifest",
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
    "label_counts",
    "read_manifest",
    "verify_by_encoding",
    "write_demo",
]
