import shutil

import numpy as np
import pytest

from cache import FeatureWriter, StoreError, item_key

ITEMS = [item_key(text) for text in "ab"]
GOOD = np.ones((2, 3), dtype=np.float32)


def with_value(value):
    values = GOOD.copy()
    values[1, 2] = value
    return values


@pytest.fixture
def encoder(house):
    return house.encoder()


@pytest.fixture
def writer(encoder):
    return FeatureWriter(encoder, ["mean", "cls"], {"torch": "2"})


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"mean": GOOD, "cls": with_value(np.nan)}, "cls.*NaN"),
        ({"mean": with_value(np.inf), "cls": GOOD}, "mean.*infinite"),
        ({"mean": with_value(-np.inf), "cls": GOOD}, "mean.*infinite"),
        ({"mean": GOOD[:1], "cls": GOOD}, r"mean.*2 rows.*\(1, 3\)"),
        ({"mean": GOOD, "cls": GOOD[0, :2]}, r"cls.*2 rows.*\(2,\)"),
        ({"mean": GOOD}, "cls"),
        ({"mean": GOOD, "cls": GOOD, "max": GOOD}, "max"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_nothing_is_written(writer, encoder, outputs, message):
    with pytest.raises(StoreError, match=message):
        writer.write(ITEMS, outputs)
    assert encoder.segment_paths() == []


def test_what_was_written_is_there_at_once(writer, encoder):
    writer.write(ITEMS, {"mean": GOOD, "cls": -GOOD})
    (segment,) = encoder.segments()
    assert encoder.items() == set(ITEMS)
    np.testing.assert_array_equal(segment.map("cls"), -GOOD)
    assert segment.written_by == {"torch": "2"}


def test_an_empty_batch_writes_nothing(writer, encoder):
    writer.write([], {"mean": GOOD[:0], "cls": GOOD[:0]})
    assert encoder.segment_paths() == []


def test_a_store_that_vanished_is_named(writer, encoder):
    shutil.rmtree(encoder.folder)
    with pytest.raises(StoreError, match=f"cannot write .*{encoder.digest}"):
        writer.write(ITEMS, {"mean": GOOD, "cls": GOOD})
