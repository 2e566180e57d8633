"""The feature store: vectors in HDF5, keyed by what made them and by what they were made from."""

from cache.describe import describe_store, store_lines
from cache.errors import (
    CacheIncomplete,
    DataError,
    DeviceError,
    ModelError,
    PipelineError,
    StoreDamaged,
    StoreError,
    UsageError,
    listing,
)
from cache.files import replacing, write_json
from cache.groups import joined_groups
from cache.key import NO_ITEM, EncoderKey, canonical_json, digest, item_key, pack_items, unpack_items
from cache.plan import Plan, plan_extraction
from cache.progress import Progress, silent
from cache.schema import FAILED, MISSING, PRESENT, SCHEMA
from cache.store import EncoderStore, Failure, FeatureStore
from cache.table import FeatureTable, load, table_of
from cache.view import Block, View, locate, write_view
from cache.writer import FeatureWriter

__all__ = [
    "FAILED",
    "MISSING",
    "NO_ITEM",
    "PRESENT",
    "SCHEMA",
    "Block",
    "CacheIncomplete",
    "DataError",
    "DeviceError",
    "EncoderKey",
    "EncoderStore",
    "Failure",
    "FeatureStore",
    "FeatureTable",
    "FeatureWriter",
    "ModelError",
    "PipelineError",
    "Plan",
    "Progress",
    "StoreDamaged",
    "StoreError",
    "UsageError",
    "View",
    "canonical_json",
    "describe_store",
    "digest",
    "item_key",
    "joined_groups",
    "listing",
    "load",
    "locate",
    "pack_items",
    "plan_extraction",
    "replacing",
    "silent",
    "store_lines",
    "table_of",
    "unpack_items",
    "write_json",
    "write_view",
]
