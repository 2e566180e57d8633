import shutil
from pathlib import Path

import pytest

from cache import CacheIncomplete, EncoderKey, Failure, StoreDamaged, StoreError, describe_store, item_key

A, B, C = (item_key(text).hex() for text in "abc")


def names_of(segment):
    return [row.tobytes() for row in segment.items]


def test_the_key_of_a_folder_reads_back(house):
    encoder = house.encoder(version=7)
    assert encoder.key().fields == {"modality": "text", "weights": 7}
    assert encoder.key().digest == encoder.digest == encoder.folder.name
    assert [found.digest for found in house.store.encoders()] == [encoder.digest]


def test_a_folder_takes_no_other_key(house):
    with pytest.raises(StoreError, match="no place"):
        house.encoder().create(EncoderKey({"modality": "image"}))


@pytest.mark.parametrize("content", ["", "{", "null"])
def test_a_damaged_key_is_named_and_written_anew(house, content):
    encoder = house.encoder()
    (encoder.folder / "key.json").write_text(content)
    with pytest.raises(StoreDamaged, match=r"key\.json"):
        encoder.key()
    house.encoder()
    assert encoder.key().fields == {"modality": "text", "weights": 1}


def test_the_key_of_another_folder_is_refused(house):
    one, other = house.encoder(version=1), house.encoder(version=2)
    shutil.copy(other.folder / "key.json", one.folder)
    with pytest.raises(StoreDamaged, match=rf"holds the key {other.digest}"):
        one.key()


def test_a_store_that_cannot_be_made_is_named(house):
    house.store.root.write_text("a file, no folder")
    with pytest.raises(StoreError, match=r"cannot make .*features"):
        house.encoder()


def test_a_damaged_segment_is_set_aside_and_only_its_items_are_missing(house, flip):
    house.add(["a", "b"])
    house.add(["c"])
    encoder = house.encoder()
    damaged = next(segment.path for segment in encoder.segments() if len(segment) == 1)
    flip(damaged, item_key("c"))
    with pytest.raises(StoreDamaged, match=damaged.name):
        encoder.items()
    moved = encoder.set_aside_damaged()
    assert [path.stem for path in moved] == [damaged.stem]
    assert moved[0].exists()
    assert encoder.items() == {item_key("a"), item_key("b")}


def test_temporary_files_of_a_killed_writer_are_no_segments(house):
    house.add(["a"])
    (house.encoder().folder / ".tmp-0123.h5").write_bytes(b"half")
    assert house.encoder().items() == {item_key("a")}
    assert house.encoder().set_aside_damaged() == []


def test_consolidate_leaves_one_segment_in_the_order_of_the_data(house):
    for contents in (["d", "a"], ["c"], ["b", "e"]):
        house.add(contents)
    encoder = house.encoder()
    encoder.consolidate([item_key(text) for text in "abacda"])
    (segment,) = encoder.segments()
    assert names_of(segment) == [item_key(text) for text in "abcde"]
    assert [row.tolist() for row in segment.map("mean")] == [house.vector("text", text).tolist() for text in "abcde"]


def test_consolidate_leaves_large_segments_alone(house):
    for contents in (["a", "b", "c"], ["d"], ["e"]):
        house.add(contents)
    large = house.encoder().segment_paths()[0]
    house.encoder().consolidate([], small=30)
    assert large.exists()
    assert sorted(len(segment) for segment in house.encoder().segments()) == [2, 3]


def test_a_merge_that_was_killed_before_it_removed_anything_is_harmless(house):
    for text in "abc":
        house.add([text])
    encoder = house.encoder()
    old = {path: path.read_bytes() for path in encoder.segment_paths()}
    encoder.consolidate([])
    for path, raw in old.items():
        path.write_bytes(raw)
    assert encoder.items() == {item_key(text) for text in "abc"}
    encoder.consolidate([])
    (segment,) = encoder.segments()
    assert sorted(names_of(segment)) == sorted(item_key(text) for text in "abc")


def test_failures_are_added_kept_and_resolved(house):
    encoder = house.encoder()
    assert encoder.failures() == []
    first, second = Failure("s1", "truncated", A, "pillow 1"), Failure("s2", "no image: naïve ½", B, "pillow 1")
    encoder.record_failures([first, second])
    assert encoder.failures() == [first, second]
    encoder.record_failures([Failure("s3", "a bomb", C)], resolved=[bytes.fromhex(A)])
    assert encoder.failures() == [second, Failure("s3", "a bomb", C)]
    encoder.record_failures([])
    assert len(encoder.failures()) == 2


def test_one_item_fails_once_however_many_samples_have_it(house):
    house.encoder().record_failures([Failure("s1", "truncated", A), Failure("s2", "truncated", A)])
    house.encoder().record_failures([Failure("s3", "truncated", A)])
    assert house.encoder().failures() == [Failure("s1", "truncated", A)]


def test_a_failure_under_a_newer_decoder_takes_the_place_of_the_old_one(house):
    house.encoder().record_failures([Failure("s1", "truncated", A, "pillow 1")])
    house.encoder().record_failures([Failure("s1", "bad header", A, "pillow 2")])
    assert house.encoder().failures() == [Failure("s1", "bad header", A, "pillow 2")]


def test_failures_without_an_item_are_those_of_the_latest_run(house):
    house.encoder().record_failures([Failure("s1", "permission denied", None)])
    house.encoder().record_failures([Failure("s2", "permission denied", None)])
    assert [failure.id for failure in house.encoder().failures()] == ["s2"]


@pytest.mark.parametrize("name", ["line\u2028separator", "next\x85line", "new\nline", "caf\udce9.jpg"])
def test_a_failure_with_an_odd_name_reads_back(house, name):
    failure = Failure(name, f"cannot decode {name}", A)
    house.encoder().record_failures([failure])
    assert house.encoder().failures() == [failure]


@pytest.mark.parametrize("content", ["{", "[]", '{"id": "s1"}', "\xff"])
def test_a_damaged_list_of_failures_is_named(house, content):
    (house.encoder().folder / "failures.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(StoreDamaged, match=r"failures\.jsonl"):
        house.encoder().failures()


def test_the_only_data_set_need_not_be_named(house):
    house.add(["a"])
    house.view({"text": ["a"]}, name="posts")
    assert house.store.choose(None) == house.store.choose("posts") == "posts"


def test_several_data_sets_are_listed_for_a_choice(house):
    house.add(["a"])
    for name in ("reviews", "posts"):
        house.view({"text": ["a"]}, name=name)
    assert house.store.choose("reviews") == "reviews"
    with pytest.raises(CacheIncomplete, match=r"several.*--name: posts, reviews"):
        house.store.choose(None)
    with pytest.raises(CacheIncomplete, match=r"'post'.*holds posts, reviews.*extract"):
        house.store.choose("post")


@pytest.mark.parametrize("name", [None, "posts"])
def test_an_empty_store_says_where_it_looked(house, name):
    with pytest.raises(CacheIncomplete, match=rf"{house.store.root}, which holds none; run extract"):
        house.store.choose(name)


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a\\b", "a\0b", "a:b", "a\nb", "caf\udce9"])
def test_a_name_that_could_leave_the_store_is_refused(house, name):
    with pytest.raises(StoreError, match="cannot name a data set"):
        house.store.view_path(name)


def test_encoders_do_not_touch_each_other(house):
    house.add(["a", "b"])
    house.add(["c"])
    before = {path: path.read_bytes() for path in house.encoder("text").folder.iterdir()}
    house.add(["a"], "image")
    house.add(["b"], "image")
    house.encoder("image").record_failures([Failure("s1", "truncated", A)])
    house.encoder("image").consolidate([])
    assert {path: path.read_bytes() for path in house.encoder("text").folder.iterdir()} == before
    assert house.encoder("image").items() == {item_key("a"), item_key("b")}
    shutil.rmtree(house.encoder("image").folder)
    assert house.encoder("text").items() == {item_key(text) for text in "abc"}


def test_a_store_is_described_by_what_was_put_in(house):
    house.add(["a", "b"])
    house.view({"text": ["a", "b", "a"]}, labels=["x", "", "y"])
    found = describe_store(house.store)
    (data,), (encoder,) = found["data_sets"], found["encoders"]
    assert (data["name"], data["rows"], data["labelled"], data["modalities"]) == ("posts", 3, 2, ["text"])
    assert (encoder["key"], encoder["rows"], encoder["failures"]) == (house.encoder().digest, 2, 0)


def test_a_link_that_leads_nowhere_is_no_segment(house):
    house.add(["a"])
    (house.encoder().folder / "0.h5").symlink_to(house.store.root / "gone.h5")
    assert house.encoder().items() == {item_key("a")}


def test_what_another_process_sets_aside_at_the_same_time_is_no_error(house, flip, monkeypatch):
    house.add(["c"])
    encoder = house.encoder()
    (path,) = encoder.segment_paths()
    flip(path, item_key("c"))
    inner = Path.rename

    def twice(self, target):
        inner(self, target)
        return inner(self, target)

    monkeypatch.setattr(Path, "rename", twice)
    assert encoder.set_aside_damaged() == [path.with_suffix(".damaged")]
    assert encoder.items() == set()


def test_failures_that_cannot_be_read_are_not_called_damaged(house):
    house.encoder().failures_path.mkdir()
    with pytest.raises(StoreError, match=r"failures\.jsonl cannot be read: Is a directory") as caught:
        house.encoder().failures()
    assert not isinstance(caught.value, StoreDamaged)
