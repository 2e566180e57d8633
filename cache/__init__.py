"""The feature store: vectors in HDF5, keyed by what made them and by what they were made from."""

from cache.batches import Batch, standing_batches, write_batches
from cache.block import Block, placed
from cache.copies import cache_folder
from cache.describe import describe_store, status_lines, status_of, store_lines
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
from cache.export import export_table
from cache.files import (
    TEMPORARY_PREFIX,
    check_seal,
    make_folder,
    remove,
    replacing,
    with_seal,
    write_json,
)
from cache.find import KeyIndex
from cache.folders import new_folder, spare
from cache.folds import CrossFitted, DataSet, load_data_set, load_folds, tables_of
from cache.groups import joined_groups, key_links, linked_groups
from cache.key import NO_ITEM, EncoderKey, canonical_json, digest, from_json, item_key, pack_items, unpack_items
from cache.labels import CLASSIFICATION, REGRESSION, SPLITS, TASKS, label_numbers, task_of
from cache.merge import merge_stores
from cache.names import fold_view_name
from cache.parts import Part
from cache.plan import Plan, action_for, plan_extraction
from cache.progress import Progress, silent
from cache.ragged import Ragged, Values, join_items, take_items
from cache.remote import RemotePath, each, elsewhere, place
from cache.schema import FAILED, FAILURES_FILE, KEY_SCHEMA, MISSING, PRESENT, TOKENS
from cache.store import EncoderStore, Failure, FeatureStore
from cache.table import FeatureTable, load, table_of
from cache.upkeep import collect, collected_lines, compact_store, compacted_lines
from cache.verify import finding_lines, verify_store
from cache.view import View, is_written, read_part, read_view, write_part, write_view
from cache.writer import FeatureWriter, SegmentWriter

__all__ = [
    "CLASSIFICATION",
    "FAILED",
    "FAILURES_FILE",
    "KEY_SCHEMA",
    "MISSING",
    "NO_ITEM",
    "PRESENT",
    "REGRESSION",
    "SPLITS",
    "TASKS",
    "TEMPORARY_PREFIX",
    "TOKENS",
    "Batch",
    "Block",
    "CacheIncomplete",
    "CrossFitted",
    "DataError",
    "DataSet",
    "DeviceError",
    "EncoderKey",
    "EncoderStore",
    "Failure",
    "FeatureStore",
    "FeatureTable",
    "FeatureWriter",
    "KeyIndex",
    "ModelError",
    "Part",
    "PipelineError",
    "Plan",
    "Progress",
    "Ragged",
    "RemotePath",
    "SegmentWriter",
    "StoreDamaged",
    "StoreError",
    "UsageError",
    "Values",
    "View",
    "action_for",
    "cache_folder",
    "canonical_json",
    "check_seal",
    "collect",
    "collected_lines",
    "compact_store",
    "compacted_lines",
    "describe_store",
    "digest",
    "each",
    "elsewhere",
    "export_table",
    "finding_lines",
    "fold_view_name",
    "from_json",
    "is_written",
    "item_key",
    "join_items",
    "joined_groups",
    "key_links",
    "label_numbers",
    "linked_groups",
    "listing",
    "load",
    "load_data_set",
    "load_folds",
    "make_folder",
    "merge_stores",
    "new_folder",
    "pack_items",
    "place",
    "placed",
    "plan_extraction",
    "read_part",
    "read_view",
    "remove",
    "replacing",
    "silent",
    "spare",
    "standing_batches",
    "status_lines",
    "status_of",
    "store_lines",
    "table_of",
    "tables_of",
    "take_items",
    "task_of",
    "unpack_items",
    "verify_store",
    "with_seal",
    "write_batches",
    "write_json",
    "write_part",
    "write_view",
]
