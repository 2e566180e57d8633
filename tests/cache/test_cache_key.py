import hashlib
import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cache import EncoderKey, canonical_json, digest, item_key, pack_items, unpack_items

scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4) | st.sampled_from([0.5, -1e-9])
values = scalars | st.lists(scalars, max_size=3)
fields = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), values, min_size=1, max_size=5)


def test_key_order_does_not_matter():
    assert canonical_json({"b": {"y": 1, "x": 2}, "a": 3}) == canonical_json({"a": 3, "b": {"x": 2, "y": 1}})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_without_json_is_refused(value):
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"scale": value})


def test_texts_with_lone_surrogates_have_canonical_json_of_their_own():
    assert len({canonical_json([text]) for text in ("\ud800", "\ud801", "?", "\ufffd")}) == 4


@pytest.mark.parametrize("parts", [(b"abc",), (b"a", b"bc"), (b"ab", b"c", b""), (b"", b"abc"), ()])
def test_parts_are_not_confused_when_bytes_move_between_them(parts):
    assert digest(*parts) != digest(b"ab", b"c")


def test_an_item_key_is_the_blake2b_of_the_content():
    wanted = hashlib.blake2b("Zürich 🐟".encode(), digest_size=16).digest()
    assert item_key("Zürich 🐟") == item_key("Zürich 🐟".encode()) == wanted


def test_lone_surrogates_have_item_keys_of_their_own():
    assert len({item_key(text) for text in ("\ud800", "\ud801", "?", "\ufffd", "")}) == 5


def test_packed_items_are_one_row_of_bytes_each():
    items = [bytes(range(16)), bytes(16), b"\xff" * 16]
    packed = pack_items(items)
    np.testing.assert_array_equal(packed, [list(range(16)), [0] * 16, [255] * 16])
    assert unpack_items(packed) == items
    assert unpack_items(packed[::2]) == items[::2]
    assert pack_items([]).shape == (0, 16)


@given(fields, st.data())
@settings(deadline=None, derandomize=True, database=None)
def test_a_changed_added_or_removed_field_changes_the_encoder_key(content, data):
    name = data.draw(st.sampled_from(sorted(content)))
    value = data.draw(values)
    assume(json.dumps(value) != json.dumps(content[name]))
    before = EncoderKey(content).digest
    assert EncoderKey({**content, name: value}).digest != before
    assert EncoderKey({**content, "new": value}).digest != before
    assert EncoderKey({key: content[key] for key in content if key != name}).digest != before


@given(fields)
@settings(deadline=None, derandomize=True, database=None)
def test_an_encoder_key_outlives_its_file(content):
    backwards = dict(reversed(list(content.items())))
    assert EncoderKey(json.loads(json.dumps(backwards))).digest == EncoderKey(content).digest


def test_the_name_people_use_is_no_part_of_an_encoder_key():
    assert EncoderKey({"modality": "text"}, "one").digest == EncoderKey({"modality": "text"}, "two").digest
