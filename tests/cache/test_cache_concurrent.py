import contextlib
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from joblib import Parallel, delayed

import cache
from cache import FeatureWriter, collect, compact_store, item_key, load, merge_stores
from cache.segment import Segment

N = 12
TEXT = [None if number == 7 else f"t{number * 5 % N}" for number in range(N)]
IMAGE = [None if number % 5 == 2 else f"i{number * 7 % N}" for number in range(N)]
CONTENTS = {"text": TEXT, "image": IMAGE}

READS_FOR_EVER = """
import json, sys
import numpy as np
from pathlib import Path
from cache import load, verify_store, FeatureStore

stop, root, expected, lengths = Path(sys.argv[1]), sys.argv[2], np.load(sys.argv[3]), json.loads(sys.argv[4])
rounds, kept = 0, load(root, "posts")
print("ready", flush=True)
while not stop.exists():
    table = load(root, "posts")
    for part in (table, kept, table[::-2], table.select(["image"])[3:9]):
        columns = np.hstack([expected[:, table.blocks[name]] for name in part.modalities])
        rows = [int(name[1:]) for name in part.ids]
        assert np.array_equal(part, columns[rows]), f"wrong rows in round {rounds}"
    assert table.tokens("text").lengths.tolist() == lengths
    if rounds % 7 == 0:
        kept = table
        assert verify_store(FeatureStore(root)).findings == []
    rounds += 1
assert rounds, "not a single round"
"""
REPLACES_FOR_EVER = """
import sys
from pathlib import Path
from cache import EncoderStore, write_json
from cache.segment import merge_segments

stop, encoder = Path(sys.argv[1]), EncoderStore(Path(sys.argv[2]))
print("ready", flush=True)
while not stop.exists():
    merge_segments(encoder.segments(), {})
"""


@contextlib.contextmanager
def beside(code, stop, *arguments):
    """Runs a process beside the test until its end; nothing it says on standard error is forgiven."""
    environment = {**os.environ, "PYTHONPATH": str(Path(cache.__file__).parents[1])}
    command = [sys.executable, "-c", code, *map(str, (stop, *arguments))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=environment) as child:
        try:
            child.stdout.readline()  # it is ready
            yield
        finally:
            stop.touch()
            _, error = child.communicate(timeout=30)
        assert error == ""


@pytest.fixture
def filled(house):
    for part in (range(5), range(5, N)):
        house.add([f"t{number}" for number in part], tokens=True)
        house.add([f"i{number}" for number in part], "image")
    house.view(CONTENTS)
    return house


def merged_by_consolidate(house):
    for modality in CONTENTS:
        house.encoder(modality).consolidate([item_key(f"{modality[0]}{number}") for number in range(N)])


def merged_by_compact(house):
    compact_store(house.store)


def merged_after_a_new_segment(house):
    merged_by_compact(house)
    house.add([f"new{number}" for number in range(5)], tokens=True)
    house.add(["new"], "image")
    house.view({"text": ["new1", "t3"]}, name="first")
    compact_store(house.store)


MERGES = [merged_by_consolidate, merged_by_compact, merged_after_a_new_segment]


@pytest.mark.parametrize("merge", MERGES)
def test_a_table_pickled_before_a_merge_reads_right_after_it(filled, merge):
    table = load(filled.store.root)
    raws = [pickle.dumps(part) for part in (table, table[2:9], table.select(["image"])[::-1])]
    merge(filled)
    whole, part, image = (pickle.loads(raw) for raw in raws)  # noqa: S301
    np.testing.assert_array_equal(whole, filled.expected(CONTENTS))
    np.testing.assert_array_equal(part, filled.expected(CONTENTS)[2:9])
    np.testing.assert_array_equal(image, filled.expected({"image": IMAGE})[::-1])
    assert [len(one) for one in whole.tokens("text")] == [0 if text is None else len(text) for text in TEXT]


def test_a_pickled_table_reads_right_while_one_merge_follows_the_other(filled):
    table = pickle.loads(pickle.dumps(load(filled.store.root)))  # noqa: S301
    for merge in MERGES:
        merge(filled)
        np.testing.assert_array_equal(table, filled.expected(CONTENTS))
        table = pickle.loads(pickle.dumps(table))  # noqa: S301


def test_a_pickled_table_gives_features_before_a_merge_and_tokens_after_it(filled):
    table = pickle.loads(pickle.dumps(load(filled.store.root)))  # noqa: S301
    np.testing.assert_array_equal(table, filled.expected(CONTENTS))
    merged_by_compact(filled)
    for found, text in zip(table.tokens("text"), TEXT, strict=True):
        np.testing.assert_array_equal(found, filled.tokens(text or ""))
    np.testing.assert_array_equal(table, filled.expected(CONTENTS))


def test_rows_that_follow_each_other_no_more_after_a_merge_are_found_anew(filled):
    contents = {"text": ["t1", "t2", "t3"]}
    filled.view(contents, name="short")
    raw = pickle.dumps(load(filled.store.root, "short"))
    filled.encoder().consolidate([item_key(text) for text in ("t1", "t9", "t3", "t2")])
    np.testing.assert_array_equal(pickle.loads(raw), filled.expected(contents))  # noqa: S301


def test_a_merge_between_the_maps_of_two_outputs_gives_the_rows_of_one_of_both(filled, monkeypatch):
    real = Segment.map

    def merged_before_tokens(segment, output):
        if output == "tokens":
            monkeypatch.setattr(Segment, "map", real)
            filled.encoder().consolidate([item_key(f"t{number}") for number in reversed(range(N))])
        return real(segment, output)

    monkeypatch.setattr(Segment, "map", merged_before_tokens)
    table = load(filled.store.root)
    np.testing.assert_array_equal(table, filled.expected(CONTENTS))
    for found, text in zip(table.tokens("text"), TEXT, strict=True):
        np.testing.assert_array_equal(found, filled.tokens(text or ""))


@pytest.mark.parametrize("merge", MERGES)
def test_workers_read_right_after_a_merge(filled, merge):
    table = load(filled.store.root)
    merge(filled)
    parts = [slice(0, 6), [7, 3, 3], slice(None)]
    found = Parallel(n_jobs=2)(delayed(np.asarray)(table[part]) for part in parts)
    for array, part in zip(found, parts, strict=True):
        np.testing.assert_array_equal(array, filled.expected(CONTENTS)[part])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("merge", MERGES)
def test_a_forked_process_reads_right_after_a_merge(filled, merge):
    table, expected = load(filled.store.root), filled.expected(CONTENTS)
    raw = pickle.dumps(table)
    merge(filled)
    child = os.fork()
    if child == 0:  # whatever happens, this process must not go on with the tests
        try:
            copies = (table, pickle.loads(raw))  # noqa: S301
            os._exit(0 if all(np.array_equal(one, expected) for one in copies) else 3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def step(house, turn):
    """One of the things that go on in a store; none changes the data set `posts`."""
    random = np.random.default_rng(turn)
    house.add([f"n{turn}", f"t{turn % N}"], tokens=True)
    house.add([f"n{turn}"], "image")
    if turn % 3 == 0:
        house.view(CONTENTS)
    if turn % 4 == 1:
        house.view({"text": [f"n{turn}", "t1"], "image": ["i1", f"n{turn}"]}, name="another")
    if turn % 5 == 2:
        collect(house.store)
    if turn % 2:
        house.encoder().consolidate([item_key(f"t{number}") for number in random.permutation(N)])
        house.encoder("image").consolidate([])
    if turn % 6 == 4:
        compact_store(house.store)


def test_a_reader_meets_no_wrong_row_and_no_error_while_the_store_changes(filled, tmp_path):
    expected, lengths = tmp_path / "expected.npy", [len(text or "") for text in TEXT]
    np.save(expected, filled.expected(CONTENTS))
    with beside(READS_FOR_EVER, tmp_path / "stop", filled.store.root, expected, lengths):
        for turn in range(30):
            step(filled, turn)


def test_a_listing_never_lacks_both_an_old_segment_and_its_successor(filled, tmp_path):
    encoder = filled.encoder()
    encoder.consolidate([])
    wanted, seen, end = encoder.items(), set(), time.monotonic() + 20
    with beside(REPLACES_FOR_EVER, tmp_path / "stop", encoder.folder):
        while len(seen) < 50 and time.monotonic() < end:
            paths = encoder.segment_paths()
            assert paths
            seen.update(paths)
            assert encoder.items() == wanted
    assert len(seen) > 1


def test_a_listing_during_which_files_changed_is_made_anew(house, monkeypatch):
    for text in "ab":
        house.add([text])
    encoder = house.encoder()
    old, iterdir, calls = encoder.segment_paths(), Path.iterdir, []

    def lists_while_a_merge_ends(folder):
        calls.append(folder)
        if len(calls) == 1:  # the new name was not there yet when its place was read, the old ones are gone by now
            encoder.consolidate([])
            return iter([])
        return iterdir(folder)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", lists_while_a_merge_ends)
        found = encoder.segment_paths()
    assert len(found) == 1
    assert found[0] not in old
    assert encoder.items() == {item_key("a"), item_key("b")}


def test_a_table_keeps_the_ids_and_labels_of_the_view_that_it_opened(filled):
    labels = [f"old{number}" for number in range(N)]
    filled.view(CONTENTS, labels=labels, groups=[5] * N)
    before = load(filled.store.root)
    filled.view({"text": ["t1", "t0"]}, labels=["new", "new"])
    raw = pickle.dumps(before)
    filled.store.view_path("posts").unlink()
    for table in (before, pickle.loads(raw)):  # noqa: S301
        assert table.ids.tolist() == [f"s{number}" for number in range(N)]
        assert table.y.tolist() == labels
        assert table.groups.tolist() == [5] * N
        np.testing.assert_array_equal(table, filled.expected(CONTENTS))


def lacking_in_time(writer, items, wanted):
    """What the writer says once it looks again; it does so now and then."""
    end = time.monotonic() + 10
    while (found := writer.lacking(items)) != wanted and time.monotonic() < end:
        time.sleep(0.005)
    return found


def test_a_writer_sees_what_another_one_stored(house):
    house.add(["a"])
    one, two = (FeatureWriter(house.encoder(), ["mean"], {}) for _ in range(2))
    items = [item_key(text) for text in "abcd"]
    assert one.lacking(items) == items  # a was there before: the plan knew it
    two.write(items[1:2], {"mean": np.ones((1, 3), dtype="<f4")})
    assert lacking_in_time(one, items, items[:1] + items[2:]) == items[:1] + items[2:]
    two.write(items[3:], {"mean": np.ones((1, 3), dtype="<f4")})
    assert lacking_in_time(one, items, items[:3:2]) == items[:3:2]


def test_a_writer_does_not_count_its_own_items_as_those_of_another(house):
    writer = FeatureWriter(house.encoder(), ["mean"], {})
    items = [item_key(text) for text in "ab"]
    writer.write(items[:1], {"mean": np.ones((1, 3), dtype="<f4")})
    assert writer.lacking(items) == items


def test_a_store_is_merged_into_while_tables_of_it_are_open(filled, house_at, tmp_path):
    other = house_at(tmp_path / "other")
    other.add(["m1", "m2"], tokens=True)
    other.view({"text": ["m2", "m1"]}, name="theirs")
    table = load(filled.store.root)
    merge_stores(filled.store, other.store)
    compact_store(filled.store)
    np.testing.assert_array_equal(table, filled.expected(CONTENTS))
    np.testing.assert_array_equal(load(filled.store.root, "theirs"), other.expected({"text": ["m2", "m1"]}))


def test_gc_and_merge_stores_go_on_beside_a_process_that_replaces_every_file(filled, tmp_path):
    collect(filled.store)  # from here on the view reaches all there is
    wanted = filled.encoder().items()
    with beside(REPLACES_FOR_EVER, tmp_path / "stop", filled.encoder().folder):
        for number in range(60):
            assert collect(filled.store)["items"] == 0
            if number % 20 == 0:
                other = cache.FeatureStore(tmp_path / f"other-{number}")
                merge_stores(other, filled.store)
                assert other.encoder(filled.encoder().digest).items() == wanted
    assert filled.encoder().items() == wanted
