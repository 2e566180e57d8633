"""The feature store: vectors in HDF5, keyed by what made them and by what they were made from."""

from cache.batches import Batch, standing_batches, write_batches
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
from cache.ragged import Ragged, Values, take_items
from cache.schema import FAILED, KEY_FILE, KEY_SCHEMA, MISSING, PRESENT, TOKENS
from cache.store import EncoderStore, Failure, FeatureStore
from cache.table import FeatureTable, load, table_of
from cache.view import Block, View, placed, read_view, write_view
from cache.writer import FeatureWriter

__all__ = [
    "FAILED",
    "KEY_FILE",
    "KEY_SCHEMA",
    "MISSING",
    "NO_ITEM",
    "PRESENT",
    "TOKENS",
    "Batch",
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
    "Ragged",
    "StoreDamaged",
    "StoreError",
    "UsageError",
    "Values",
    "View",
    "canonical_json",
    "describe_store",
    "digest",
    "item_key",
    "joined_groups",
    "listing",
    "load",
    "pack_items",
    "placed",
    "plan_extraction",
    "read_view",
    "replacing",
    "silent",
    "standing_batches",
    "store_lines",
    "table_of",
    "take_items",
    "unpack_items",
    "write_batches",
    "write_json",
    "write_view",
]
