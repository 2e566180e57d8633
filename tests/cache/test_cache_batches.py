import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import StoreDamaged, item_key, standing_batches, write_batches
from cache.batches import plan_paths, read_batches

A, B, C, D, E = (item_key(text) for text in "abcde")
some_items = st.sets(st.sampled_from([A, B, C, D, E]))
some_batches = st.lists(
    st.lists(st.sampled_from([A, B, C, D, E]), unique=True, min_size=1, max_size=3), min_size=1, max_size=3
)


@pytest.fixture
def folder(house):
    return house.encoder().folder


def test_batches_read_as_they_were_written(folder):
    batches = [[C, A], [B], [E, D]]
    assert write_batches(folder, batches)
    (path,) = plan_paths(folder)
    assert read_batches(path) == batches


def test_an_equal_plan_is_written_once(folder):
    assert write_batches(folder, [[A, B], [C]])
    before = [path.stat().st_mtime_ns for path in plan_paths(folder)]
    assert not write_batches(folder, [[A, B], [C]])
    assert [path.stat().st_mtime_ns for path in plan_paths(folder)] == before


@pytest.mark.parametrize("other", [[[A], [B, C]], [[B, A], [C]], [[C], [A, B]], [[A, B, C]]])
def test_other_batches_of_the_same_items_are_another_plan(folder, other):
    assert write_batches(folder, [[A, B], [C]])
    assert write_batches(folder, other)
    assert len(plan_paths(folder)) == 2


def test_batches_of_which_nothing_is_stored_stand(folder):
    write_batches(folder, [[A, B], [C, D], [E]])
    assert standing_batches(folder, {A, B, C, D, E}) == [[A, B], [C, D], [E]]


def test_a_batch_with_one_stored_item_does_not_stand(folder):
    write_batches(folder, [[A, B], [C, D]])
    assert standing_batches(folder, {A, B, C}) == [[A, B]]


def test_a_refused_item_keeps_its_place_in_a_batch(folder):
    write_batches(folder, [[A, B, C]])
    assert standing_batches(folder, {A, C}) == []
    assert standing_batches(folder, {A, C}, refused={B}) == [[A, B, C]]


def test_a_batch_of_refused_items_only_is_not_wanted(folder):
    write_batches(folder, [[A, B], [C]])
    assert standing_batches(folder, {C}, refused={A, B}) == [[C]]


def test_no_plan_and_no_folder_give_no_batch(folder, tmp_path):
    assert standing_batches(folder, {A}) == []
    assert standing_batches(tmp_path / "gone", {A}) == []


@given(st.lists(some_batches, min_size=1, max_size=4), some_items, some_items)
@settings(deadline=None, derandomize=True, database=None, max_examples=40)
def test_no_item_stands_in_two_batches(tmp_path_factory, plans, missing, refused):
    folder = tmp_path_factory.mktemp("plans")
    for batches in plans:
        write_batches(folder, batches)
    planned = [batch for batches in plans for batch in batches]
    found = standing_batches(folder, missing, refused)
    items = [item for batch in found for item in batch]
    assert len(items) == len(set(items))
    assert all(batch in planned for batch in found)
    assert all(missing.intersection(batch) and (missing | refused).issuperset(batch) for batch in found)
    # Nothing that could stand besides these was left out.
    free = (missing | refused).difference(items)
    assert not any(free.issuperset(batch) and missing.intersection(batch) for batch in planned)


@pytest.mark.parametrize("change", ["header", "items", "short", "empty"])
def test_a_damaged_plan_is_named_and_set_aside(house, folder, flip, change):
    write_batches(folder, [[A, B], [C]])
    (path,) = plan_paths(folder)
    raw = path.read_bytes()
    if change in ("header", "items"):
        flip(path, b"encode-once\0" if change == "header" else A + B + C)
    else:
        path.write_bytes(raw[:-1] if change == "short" else b"")
    with pytest.raises(StoreDamaged, match=path.name):
        standing_batches(folder, {A, B, C})
    assert house.encoder().set_aside_damaged() == [path.with_suffix(".damaged")]
    assert standing_batches(folder, {A, B, C}) == []
    assert write_batches(folder, [[A, B], [C]])  # and can be written again


def test_a_good_plan_is_not_set_aside(house, folder):
    write_batches(folder, [[A]])
    assert house.encoder().set_aside_damaged() == []
    assert standing_batches(folder, {A}) == [[A]]


def test_temporary_files_and_segments_are_no_plans(house, folder):
    house.add(["a"])
    (folder / ".tmp-0123.plan").write_bytes(b"half")
    assert plan_paths(folder) == []
    assert standing_batches(folder, {A}) == []


def test_of_several_that_plan_the_same_at_once_one_is_the_planner(house):
    folder = house.encoder().folder
    batches = [[item_key(str(number))] for number in range(50)]
    for _ in range(10):
        barrier = threading.Barrier(4)

        def plan(barrier=barrier):
            barrier.wait()
            return write_batches(folder, batches)

        with ThreadPoolExecutor(4) as pool:
            assert sorted(future.result() for future in [pool.submit(plan) for _ in range(4)]) == [False] * 3 + [True]
        for path in plan_paths(folder):
            assert read_batches(path) == batches
            path.unlink()
    assert [path.name for path in folder.iterdir()] == ["key.json"]


def test_on_a_file_system_without_links_plans_are_written_all_the_same(house, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    assert write_batches(house.encoder().folder, [[item_key("a")]])
    assert len(plan_paths(house.encoder().folder)) == 1
