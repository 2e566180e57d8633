"""Extraction in shards: the same store, view and vectors as of the whole, whatever is asked twice, breaks or stops."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cache import (
    CacheIncomplete,
    DataError,
    FeatureStore,
    ModelError,
    UsageError,
    collect,
    load,
    read_view,
    status_of,
    verify_store,
)
from extract import EncoderSpec, Settings, choose_specs, found_in, read_manifest
from extract.batching import Budget
from extract.datasets.shards import parted
from extract.engines import Local
from extract.found import columns_in, settled_columns
from extract.manifest import Manifest
from extract.sharded import Sharded, _Stage, extract_shards


@pytest.fixture
def rows(posts) -> Manifest:
    """26 posts: what the fixture has, twice (other ids), and 6 of other texts; some lack something, one is broken."""
    first = [dict(row) for row in posts.rows]
    again = [{**row, "id": f"again-{row['id']}"} for row in first]
    more = [{**row, "id": f"more-{row['id']}", "text": f"city {row['text']}", "image": ""} for row in first[:6]]
    first[3]["image"], again[2]["text"] = "", ""
    more[4]["group"] = first[0]["group"] = "ann"
    posts.rows = [*first, *again, *more]
    (posts.folder / "7.png").write_bytes((posts.folder / "7.png").read_bytes()[:-30])
    return posts.read()


def in_shards(bench, manifest: Manifest, size: int, name: str = "posts", **options: object) -> Sharded:
    specs = options.pop("specs", (bench.text, bench.image))
    settings = Settings(bench.store, name, specs, device="cpu", **options)
    return extract_shards(parted(manifest, size), settings)


def table_of(bench, name: str) -> dict[str, np.ndarray]:
    table = load(bench.store, name)
    found = {modality: np.array(table.block(modality, missing=np.nan)) for modality in table.modalities}
    return {**found, "ids": table.ids, "labels": table.labels, "split": table.split, "groups": table.groups}


def same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    return one.keys() == two.keys() and all(
        np.array_equal(one[key], two[key], equal_nan=one[key].dtype.kind == "f") for key in one
    )


@pytest.fixture
def whole(bench, rows) -> dict[str, np.ndarray]:
    """What the local engine makes of all rows at once; its store is put away."""
    bench.extract(rows)
    found = table_of(bench, "posts")
    shutil.move(bench.store, bench.store.with_name("whole"))
    return found


def test_a_damaged_vector_is_mended_once_it_was_found(bench, rows):
    in_shards(bench, rows, 9)
    before, store = table_of(bench, "posts"), FeatureStore(bench.store)
    path = store.encoders()[0].segment_paths()[0]
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 1
    path.write_bytes(raw)
    assert in_shards(bench, rows, 9).done.encoded == 0  # vectors are not read
    assert [file for file, _ in verify_store(store).findings] == [path]
    done = in_shards(bench, rows, 9).done
    assert done.encoded > 0
    assert any(f"{path.with_suffix('.damaged')} was damaged and set aside" in one for one in done.warnings)
    assert verify_store(store).findings == []
    assert same(table_of(bench, "posts"), before)
    assert in_shards(bench, rows, 9).done.encoded == 0


def test_memory_is_given_back_after_each_shard(bench, rows, monkeypatch: pytest.MonkeyPatch):
    given: list[int] = []
    monkeypatch.setattr("extract.runtime.Runtime.give_back", lambda runtime: given.append(len(encoded())))
    store = FeatureStore(bench.store)

    def encoded() -> set[bytes]:
        return {item for one in store.encoders() for item in one.items()}

    in_shards(bench, rows, 10)
    assert len(given) == 3
    assert 0 < given[0] < given[1] < given[2] == len(encoded())


def test_one_shard_gives_the_very_store_of_the_whole(bench, rows, whole):
    sharded = in_shards(bench, rows, 1000)
    assert same(table_of(bench, "posts"), whole)
    before = load(bench.store.with_name("whole"), "posts").view
    for name, block in sharded.done.view.blocks.items():
        assert block.encoder == before.blocks[name].encoder
        np.testing.assert_array_equal(block.state, before.blocks[name].state)
        np.testing.assert_array_equal(block.items, before.blocks[name].items)
    assert sharded.done.view.source == before.source
    assert verify_store(FeatureStore(bench.store)).findings == []


@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(9, marks=pytest.mark.slow)])
def test_shards_give_the_rows_of_the_whole_and_encode_nothing_twice(bench, rows, whole, encoded, size: int):
    done = in_shards(bench, rows, size).done
    found = table_of(bench, "posts")
    for name in ("ids", "labels", "split", "groups"):
        np.testing.assert_array_equal(found[name], whole[name])
    for name in ("text", "image"):  # batches differ, and with them the last bits
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-4, atol=1e-5, equal_nan=True)
        stored = FeatureStore(bench.store).encoder(done.view.blocks[name].encoder).contents()[1]
        assert len(np.unique(stored, axis=0)) == len(stored)
    assert sum(count for _, count in encoded) == 16 + 10  # texts, and pictures with the broken one
    assert (done.samples, done.encoded, done.reused) == (26, 25, 0)
    assert done.missing == {"text": 1, "image": 7}
    assert [failure.id for failure in done.failures["image"]] == ["p7", "again-p7"]


def test_a_second_run_encodes_nothing_and_tells_the_same(bench, rows, encoded, no_models, monkeypatch):
    first = in_shards(bench, rows, 7).done
    before = table_of(bench, "posts")
    files = sorted(path for path in bench.store.rglob("*.view.h5"))
    encoded.clear()
    no_models()
    with monkeypatch.context() as patched:
        patched.setattr("extract.runtime.choose_runtime", None)  # not even a device is looked for
        again = in_shards(bench, rows, 7).done
    assert (encoded, again.encoded, again.reused) == ([], 0, first.encoded)
    assert again.failures == first.failures
    assert first.reasons == {"text": "none of the 16 items was stored", "image": "none of the 10 items was stored"}
    assert again.reasons == {"text": "all 16 items were stored already", "image": "all 9 items were stored already"}
    assert same(table_of(bench, "posts"), before)
    assert sorted(path for path in bench.store.rglob("*.view.h5")) == files


class Killed(BaseException):
    """What a test stops an extraction by."""


def stop_after(batches: int, patched: pytest.MonkeyPatch) -> None:
    """The next extraction ends once so many batches are durable."""
    given, inner = iter(range(batches)), Local.encode

    def encode(self, *args):
        with contextlib.closing(inner(self, *args)) as outcomes:
            for outcome in outcomes:
                if outcome.encoded and next(given, None) is None:
                    raise Killed
                yield outcome

    patched.setattr(Local, "encode", encode)


def test_what_a_stopped_run_has_encoded_stays_and_the_next_gets_the_same_bits(bench, rows, monkeypatch):
    monkeypatch.setattr("extract.runtime.CPU_TEXT", Budget(cost=16, items=2))
    monkeypatch.setattr("extract.runtime.CPU_IMAGE", Budget(cost=2, items=2))
    in_shards(bench, rows, 7)
    expected = table_of(bench, "posts")
    shutil.rmtree(bench.store)
    store = FeatureStore(bench.store)
    for batches in (3, 2):
        with monkeypatch.context() as patched:
            stop_after(batches, patched)
            with pytest.raises(Killed):
                in_shards(bench, rows, 7)
        assert store.names() == []
        collect(store)  # nothing of what was encoded may go
    (found,) = status_of(store, "posts")["data_sets"]
    assert not found["finished"]
    assert 0 < sum(one["stored"] for one in found["modalities"].values()) < 40
    done = in_shards(bench, rows, 7).done
    assert (done.reused > 4, done.encoded + done.reused) == (True, 25)
    assert same(table_of(bench, "posts"), expected)


@pytest.mark.parametrize("rows_of_other", [26, 12])
@pytest.mark.parametrize("step", ["_key", "_demand", "_encode", "_publish", "_write_parts"])
def test_another_extraction_of_the_same_name_may_end_at_any_moment(bench, rows, monkeypatch, step, rows_of_other):
    inner = getattr(_Stage, step)
    other = Manifest(rows.path, rows.layout, rows.samples[:rows_of_other], rows.notes)

    def meanwhile(self, *args):
        monkeypatch.setattr(_Stage, step, inner)
        found = inner(self, *args) if step == "_write_parts" else None
        in_shards(bench, other, 7, specs=(bench.text,))
        return found or inner(self, *args)

    monkeypatch.setattr(_Stage, step, meanwhile)
    in_shards(bench, rows, 7, specs=(bench.text,))
    table, store = load(bench.store, "posts"), FeatureStore(bench.store)
    assert table.ids.tolist() == [sample.id for sample in rows.samples]
    assert (verify_store(store).findings, store.pending()) == ([], [])
    collect(store)
    assert len(list(store.parts_path("posts").iterdir())) == 4
    np.testing.assert_array_equal(load(bench.store, "posts").to_numpy(), table.to_numpy())


def test_rows_whose_file_another_process_removed_are_an_error(bench, rows, monkeypatch):
    inner = _Stage._encode

    def meanwhile(self, *args):
        for path in FeatureStore(bench.store).parts_path("posts").iterdir():
            path.unlink()
        inner(self, *args)

    monkeypatch.setattr(_Stage, "_encode", meanwhile)
    with pytest.raises(CacheIncomplete, match=r"posts.parts/.* is gone: .* run extract again"):
        in_shards(bench, rows, 7, specs=(bench.text,))


def test_rows_that_share_an_id_are_named_wherever_they_stand(bench, posts):
    posts.rows.append({**posts.rows[1], "text": "another"})
    manifest = Manifest(posts.folder, "table", ())
    with pytest.raises(DataError, match="stands 2 times"):
        posts.read()
    first, second = (read_half(posts, half) for half in (slice(0, 6), slice(6, 11)))
    settings = Settings(bench.store, "posts", (bench.text,), device="cpu")
    with pytest.raises(DataError, match=r"1 rows whose id stands before: p1"):
        extract_shards([*parted(first, 50), *parted(second, 50)], settings)
    assert manifest.samples == ()


def read_half(posts, half: slice) -> Manifest:
    kept, posts.rows = posts.rows, posts.rows[half]
    try:
        return posts.read()
    finally:
        posts.rows = kept


def test_data_that_is_refused_leaves_no_files_of_rows(bench, rows):
    in_shards(bench, rows, 7, specs=(bench.text,))
    folder = FeatureStore(bench.store).parts_path("posts")
    before = sorted(folder.iterdir())
    twice = Manifest(rows.path, rows.layout, (*rows.samples, rows.samples[0]), rows.notes)
    with pytest.raises(DataError, match="whose id stands before"):
        in_shards(bench, twice, 7, specs=(bench.text,))
    assert sorted(folder.iterdir()) == before
    assert load(bench.store, "posts").ids.tolist() == [sample.id for sample in rows.samples]


def test_failures_stop_it_where_they_are_not_allowed(bench, rows):
    with pytest.raises(DataError, match=r"2 samples failed, 0 are allowed \(p7"):
        in_shards(bench, rows, 4, fail_fast=True)
    assert in_shards(bench, rows, 4, max_failures=2).done.failed_ids == ["again-p7", "p7"]


def test_failed_items_are_tried_again_only_when_asked(bench, rows, encoded, posts):
    in_shards(bench, rows, 4)
    encoded.clear()
    assert in_shards(bench, rows, 4).done.failed_ids == ["again-p7", "p7"]
    assert encoded == []
    assert len(bench.failures(in_shards(bench, rows, 4).done, "image")) == 1
    in_shards(bench, rows, 4, retry_failed=True)
    assert [name for name, _ in encoded] == ["image"]


def test_a_file_that_was_mended_is_no_failure_any_more(bench, rows, posts):
    in_shards(bench, rows, 4)
    shutil.copy(posts.folder / "8.png", posts.folder / "7.png")
    done = in_shards(bench, rows, 4).done
    assert (done.failed_ids, done.encoded) == ([], 0)


def test_texts_that_change_between_the_two_readings_are_refused(bench, rows, monkeypatch):
    shards = parted(rows, 1000)
    changed = parted(Manifest(rows.path, rows.layout, (*rows.samples[:4], *rows.samples[:22])), 1000)
    inner = Local.encode

    def encode(self, jobs, *args):
        for job in jobs:
            object.__setattr__(job, "shard", changed[0])
        yield from inner(self, jobs, *args)

    monkeypatch.setattr(Local, "encode", encode)
    with pytest.raises(DataError, match=r"the rows of shard 0 .* changed while they were encoded"):
        extract_shards(shards, Settings(bench.store, "posts", (bench.text,), device="cpu"))


def test_an_encoder_that_is_not_the_expected_one_is_refused(bench, rows):
    with pytest.raises(ModelError, match="was trained on"):
        in_shards(bench, rows, 4, expected={"text": "0" * 32})


def test_several_devices_are_refused():
    with pytest.raises(UsageError, match="by one device a machine, not by cuda:0,cuda:1"):
        Local("cuda:0,cuda:1", False)


GOODS = """id,title,price,brand,stars
1,sun,9.5,ACME,5
2,rain,,Zed,4
3,day,9.5,ACME,5
4,home,,,
5,sun,few,Acorn,7
6,rain,9.5,ACME,5
"""


@pytest.mark.parametrize("size", [1, 4])
def test_columns_of_a_table_are_settled_by_all_rows(bench, tmp_path: Path, size: int):
    (tmp_path / "goods.csv").write_text(GOODS, encoding="utf-8")
    goods = read_manifest(tmp_path / "goods.csv", columns={"text": "title", "tabular": "price+brand+stars"})
    bench.extract(goods, *choose_specs(["tabular"], {}, {}, {}, found_in(goods)))
    whole, view = table_of(bench, "posts"), load(bench.store, "posts").view
    assert whole["groups"].tolist() == [0, 1, 2, 3, 4, 5]  # equal numbers do not make equal rows
    done = in_shards(bench, goods, size, specs=(EncoderSpec("tabular", "tabular"),)).done
    assert dict(EncoderSpec.from_json(done.view.blocks["tabular"].spec).columns) == {
        "price": ("9.5", "few"),
        "brand": ("ACME", "Acorn", "Zed"),
        "stars": None,
    }
    assert done.view.blocks["tabular"].encoder == view.blocks["tabular"].encoder
    assert (done.encoded, done.missing) == (0, {"tabular": 1})  # the encoder of the whole
    assert same(table_of(bench, "posts"), whole)


def test_columns_that_are_no_categories_in_all_shards_together_are_refused(bench, tmp_path: Path):
    rows = "".join(f"{number},t,brand {number}\n" for number in range(1001))
    (tmp_path / "goods.csv").write_text(f"id,title,brand\n{rows}", encoding="utf-8")
    goods = read_manifest(tmp_path / "goods.csv", columns={"text": "title", "tabular": "brand"})
    with pytest.raises(DataError, match="the column brand holds more than 1000 different values"):
        in_shards(bench, goods, 600, specs=(EncoderSpec("tabular", "tabular"),))
    with pytest.raises(DataError, match="no row has anything in prices"):
        in_shards(bench, goods, 600, specs=(EncoderSpec("prices", "tabular"),))


def test_numbers_are_numbers_however_many_there_are():
    column = settled_columns([columns_in([json.dumps({"a": str(number)}) for number in range(2000)])] * 2)
    assert column == (("a", None),)
    many = columns_in([json.dumps({"a": str(number)}) for number in [*range(2000), "cheap"]])
    with pytest.raises(DataError, match="more than 1000"):  # the word came when no more cells were kept
        settled_columns([many])


def test_a_modality_that_no_row_has_is_named(bench, rows):
    with pytest.raises(DataError, match=r"has no audio; it has text and image|has no audio; it has text, image"):
        in_shards(bench, rows, 4, specs=(EncoderSpec("audio", "array", width=3),))


def test_what_is_left_out_is_said(bench, rows):
    done = in_shards(bench, rows, 9, specs=(bench.text,)).done
    assert any("the data also has image" in warning for warning in done.warnings)


def test_another_data_set_of_the_same_name_is_said(bench, rows, tmp_path: Path):
    in_shards(bench, rows, 9)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "posts.csv").write_text("id,text\n1,a day\n2,my day\n", encoding="utf-8")
    done = in_shards(bench, read_manifest(tmp_path / "other"), 1, specs=(bench.text,)).done
    assert any("give another --name" in warning for warning in done.warnings)
    assert len(read_view(FeatureStore(bench.store), "posts")) == 2


@pytest.mark.slow
def test_a_bucket_gets_what_a_folder_gets(bench, rows, whole, bucket):
    bench.store = f"{bucket.url}/features"
    first = in_shards(bench, rows, 9).done
    assert same({**table_of(bench, "posts"), "text": whole["text"], "image": whole["image"]}, whole)
    assert verify_store(FeatureStore(bench.store)).findings == []
    assert first.encoded == 25
    again = in_shards(bench, rows, 9).done
    assert (again.encoded, again.failures) == (0, first.failures)
    shorter = Manifest(rows.path, rows.layout, rows.samples[:12], rows.notes)
    in_shards(bench, shorter, 9)  # files of rows that are no longer named go
    parts = [path.name for path in FeatureStore(bench.store).parts_path("posts").iterdir()]
    assert len(parts) == 2
    assert len(load(bench.store, "posts")) == 12


def test_labels_are_counted(bench, rows):
    assert in_shards(bench, rows, 4, specs=(bench.text,)).labels == {"bad": 13, "good": 13}
