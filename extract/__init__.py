"""Stage one: data sets, encoders, and the loop that fills the store."""

from extract.datasets import LAYOUTS, read_manifest
from extract.datasets.demo import write_demo
from extract.encoders import DEFAULT_MODELS, OUTPUTS
from extract.encoders.spec import EncoderSpec
from extract.manifest import Manifest, Sample, label_counts
from extract.stage import Extraction, Settings, extract

__all__ = [
    "DEFAULT_MODELS",
    "LAYOUTS",
    "OUTPUTS",
    "EncoderSpec",
    "Extraction",
    "Manifest",
    "Sample",
    "Settings",
    "extract",
    "label_counts",
    "read_manifest",
    "write_demo",
]
