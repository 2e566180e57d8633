"""A cluster of three nodes on this machine: the bits of the local engine, also when a node is killed."""

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from cache import DataError, DeviceError, FeatureStore, ModelError, UsageError, load, unpack_items, verify_store
from extract import EncoderSpec, Extraction, Manifest, Sample, Settings
from extract.datasets.shards import parted, shards_of
from extract.engines import Local
from extract.ray_engine import RayEngine, RayOptions, _worker_of
from extract.runtime import GPU_IMAGE, GPU_TEXT
from extract.sharded import extract_shards
from tests.buckets import Bucket, Buckets
from tests.extract.test_extract_webdataset import write as write_tar

TEXTS, PICTURES, ROWS = 1200, 30, 200
# Of Ray's own code, which runs in this process too.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning", "ResourceWarning")
]
LOOPBACK = "127.0.0.2"  # for 127.0.0.1 Ray takes the machine's other address
WORDS = ["sun", "rain", "love", "hate", "city", "street", "my", "day", "a", "the"]


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install -r requirements-ray\.txt"):
        RayEngine(RayOptions())


CPUS, GPUS = {"CPU": 8.0}, {"CPU": 8.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("held", "options", "device", "expected"),
    [
        (CPUS, RayOptions(), "auto", ("cpu", 0.0, 6)),
        (GPUS, RayOptions(), "cpu", ("cpu", 0.0, 6)),
        (GPUS, RayOptions(), "auto", ("cuda", 1.0, 4)),
        (GPUS, RayOptions(gpus_per_worker=0.5), "auto", ("cuda", 0.5, 8)),
        (GPUS, RayOptions(gpus_per_worker=2), "cuda", ("cuda", 2, 2)),
        (GPUS, RayOptions(gpus_per_worker=0), "auto", ("cpu", 0, 6)),
        (GPUS, RayOptions(workers=2), "cuda", ("cuda", 1.0, 2)),
        ({"CPU": 1.0}, RayOptions(), "auto", ("cpu", 0.0, 1)),
    ],
)
def test_what_a_worker_gets_of_a_cluster(held, options, device, expected):
    worker = _worker_of(held, options, device, False)
    assert (worker.device, worker.gpus, worker.most) == expected


def test_batches_for_gpus_are_planned_where_there_is_none():
    worker = _worker_of(GPUS, RayOptions(), "cuda", False)
    assert (worker.budget("text"), worker.budget("image")) == (GPU_TEXT, GPU_IMAGE)


@pytest.mark.parametrize(
    ("options", "device", "error", "said"),
    [
        (RayOptions(), "cuda", DeviceError, "the cluster has 0 in all"),
        (RayOptions(gpus_per_worker=1), "cpu", UsageError, "contradict each other"),
        (RayOptions(gpus_per_worker=1.5), "auto", UsageError, "a share of one GPU, or whole ones"),
        (RayOptions(), "cuda:1", UsageError, "a device of one machine"),
        (RayOptions(workers=0), "auto", UsageError, "at least one"),
    ],
)
def test_what_a_cluster_cannot_give_is_refused(options, device, error, said):
    with pytest.raises(error, match=said):
        _worker_of(CPUS, options, device, False)


@pytest.fixture(scope="module")
def cluster(buckets: Buckets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Three nodes on loopback, each a raylet and workers of its own, which find the server of buckets."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("CUDA_VISIBLE_DEVICES", "")
        for name, value in buckets.environment.items():
            patched.setenv(name, value)
        patched.setenv("ENCODE_ONCE_CACHE", str(tmp_path_factory.mktemp("copies")))
        node = {"num_cpus": 2, "object_store_memory": 200 * 2**20, "node_ip_address": LOOPBACK}
        made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        made.add_node(**node)
        made.add_node(**node)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Every text stands twice, far apart; some rows have a picture, of which one is broken; some lack the text."""
    folder, draw = tmp_path_factory.mktemp("posts"), np.random.default_rng(0)
    samples = []
    for number in range(TEXTS):
        digits = [WORDS[int(digit)] for digit in str(number % (TEXTS // 2))]
        inputs: dict[str, str | Path] = {"text": " ".join(digits)} if number % 50 else {}
        if number % (TEXTS // PICTURES) == 0:
            inputs["image"] = folder / f"{number}.png"
            Image.fromarray(draw.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        samples.append(Sample(f"p{number}", inputs, "ab"[number % 2], group=str(number // 7) if number < 70 else ""))
    broken = folder / "80.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    return Manifest(folder, "table", tuple(samples))


Extract = Callable[..., Extraction]


@pytest.fixture
def on(manifest: Manifest, bert: Path, shufflenet: Path, cluster: Any) -> Extract:
    """`on(engine, store)`: the same shards, by the cluster or by this process."""

    def extract(engine: str, store: Path, progress: Any = lambda *_: None, **options: Any) -> Extraction:
        specs = options.pop("specs", None) or (
            EncoderSpec("text", str(bert)),
            EncoderSpec("image", "shufflenet_v2_x0_5", weights=str(shufflenet)),
        )
        settings = Settings(store, "posts", specs, device="cpu", **options)
        if engine == "local":
            return extract_shards(parted(manifest, ROWS), settings, Local("cpu", False), progress).done
        chosen = RayEngine(RayOptions(address=cluster.address, workers=3, bundle=1), "cpu")
        try:
            return extract_shards(parted(manifest, ROWS), settings, chosen, progress).done
        finally:
            chosen.close()

    return extract


def held(store: str | Path) -> dict[str, np.ndarray]:
    table = load(store, "posts", check=True)
    found = {name: np.array(table.block(name, missing=np.nan)) for name in table.modalities}
    states = {f"{name} state": block.state for name, block in table.view.blocks.items()}
    return {**found, **states, "ids": table.ids, "labels": table.labels, "groups": table.groups}


def assert_same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name], err_msg=name)


def stored_times(store: str | Path, done: Extraction) -> set[int]:
    """How often each item is stored."""
    counts: Counter[bytes] = Counter()
    for block in done.view.blocks.values():
        counts.update(unpack_items(FeatureStore(store).encoder(block.encoder).contents()[1]))
    return set(counts.values())


@pytest.fixture
def local(on: Extract, tmp_path: Path) -> tuple[Extraction, dict[str, np.ndarray]]:
    done = on("local", tmp_path / "local")
    return done, held(tmp_path / "local")


@pytest.mark.slow
def test_a_cluster_gives_the_bits_of_the_local_engine_and_a_second_run_encodes_nothing(on, local, tmp_path: Path):
    alone, expected = local
    done = on("ray", tmp_path / "ray")
    assert_same(held(tmp_path / "ray"), expected)
    assert (done.samples, done.encoded, done.reused) == (alone.samples, alone.encoded, 0)
    assert (done.missing, done.failures) == (alone.missing, alone.failures)
    assert [failure.id for failure in done.failures["image"]] == ["p80"]
    assert done.view.source == alone.view.source
    assert verify_store(FeatureStore(tmp_path / "ray")).findings == []
    assert stored_times(tmp_path / "ray", done) == {1}
    again = on("ray", tmp_path / "ray")
    assert (again.encoded, again.reused) == (0, done.encoded)
    assert on("local", tmp_path / "ray").encoded == 0
    assert_same(held(tmp_path / "ray"), expected)


@pytest.mark.slow
def test_a_node_that_is_killed_in_the_middle_costs_nothing_but_time(on, local, cluster, tmp_path: Path):
    _, expected = local
    victim = cluster.add_node(num_cpus=2, object_store_memory=200 * 2**20, node_ip_address=LOOPBACK)
    seen: list[tuple[str, int, int]] = []

    def progress(what: str, done: int, total: int) -> None:
        if what in ("text", "image") and not seen:
            cluster.remove_node(victim, allow_graceful=False)
        seen.append((what, done, total))

    done = on("ray", tmp_path / "ray", progress)
    assert seen[0][1] < seen[0][2]  # in the middle
    assert_same(held(tmp_path / "ray"), expected)
    assert stored_times(tmp_path / "ray", done) == {1}
    assert on("ray", tmp_path / "ray").encoded == 0


@pytest.mark.slow
def test_a_cluster_writes_to_a_bucket_what_every_machine_reads(on, local, bucket: Bucket):
    _, expected = local
    store = f"{bucket.url}/features"
    done = on("ray", store)
    assert_same(held(store), expected)
    assert stored_times(store, done) == {1}
    assert verify_store(FeatureStore(store)).findings == []
    assert on("local", store).encoded == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tars", "tables"])
def test_a_cluster_reads_data_from_a_bucket_where_its_store_lies_too(
    manifest, bert, shufflenet, cluster, bucket: Bucket, tmp_path: Path, kind: str
):
    folder = tmp_path / "posts"
    folder.mkdir()
    for name, samples in {"train": manifest.samples[:700], "test": manifest.samples[700:]}.items():
        write_data(folder, name, samples, kind)
    for file in folder.iterdir():
        bucket.put(f"posts/{file.name}", file.read_bytes())
    specs = (EncoderSpec("text", str(bert)), EncoderSpec("image", "shufflenet_v2_x0_5", weights=str(shufflenet)))
    address, store = f"{bucket.url}/posts", f"{bucket.url}/features"
    here = Settings(tmp_path / "local", "posts", specs, device="cpu")
    alone = extract_shards(shards_of(folder, ROWS), here, Local("cpu", False)).done
    engine = RayEngine(RayOptions(address=cluster.address, workers=3, bundle=1), "cpu")
    with contextlib.closing(engine), bucket.asked() as asked:
        done = extract_shards(shards_of(address, ROWS), replace(here, store=store), engine).done
    assert_same(held(store), held(tmp_path / "local"))
    assert (done.samples, done.encoded, done.failures) == (TEXTS, alone.encoded, alone.failures)
    assert done.view.source == {**alone.view.source, "data": address}
    assert stored_times(store, done) == {1}
    # All nodes have one folder of copies here: whatever wants a file at the same time, it is fetched once.
    whole = Counter(one.key for one in asked if one.kind == "GET" and one.key.startswith("posts/") and not one.range)
    assert whole == {f"posts/{file.name}": 1 for file in folder.iterdir()}
    again = extract_shards(shards_of(folder, ROWS), replace(here, store=store), Local("cpu", False)).done
    assert (again.encoded, again.reused) == (0, done.encoded)


def write_data(folder: Path, name: str, samples: Sequence[Sample], kind: str) -> None:
    """One file of a data set, with the pictures in it."""
    pictures = [sample.inputs["image"].read_bytes() if "image" in sample.inputs else None for sample in samples]
    if kind == "tables":
        columns = {key: [getattr(sample, key) for sample in samples] for key in ("id", "label", "group")}
        columns |= {"text": [sample.inputs.get("text") for sample in samples], "image": pictures}
        parquet.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=100)
        return
    members: dict[str, bytes | str] = {}
    for sample, picture in zip(samples, pictures, strict=True):
        members[f"{sample.id}.json"] = json.dumps({"label": sample.label, "group": sample.group})
        members |= {f"{sample.id}.txt": str(sample.inputs["text"])} if "text" in sample.inputs else {}
        members |= {f"{sample.id}.png": picture} if picture is not None else {}
    write_tar(folder / f"{name}.tar", members)


@pytest.mark.slow
def test_what_is_wrong_is_said_as_by_the_local_engine(on, manifest, tmp_path: Path):
    with pytest.raises(DataError, match="1 samples failed, 0 are allowed"):
        on("ray", tmp_path / "ray", fail_fast=True)
    text = EncoderSpec("text", str(tmp_path / "no-model"))
    with pytest.raises(ModelError, match="cannot load the text model"):
        on("ray", tmp_path / "other", specs=(text,))
    with pytest.raises(ModelError, match="was trained on"):
        on("ray", tmp_path / "ray", expected={"text": "0" * 32})


@pytest.mark.slow
def test_the_command_line_writes_what_a_laptop_reads(cluster, bert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from click.testing import CliRunner

    import pipeline

    (tmp_path / "data").mkdir()
    rows = [{"id": f"p{number}", "text": WORDS[number % 10], "label": "ab"[number % 2]} for number in range(40)]
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "data" / "posts.jsonl").write_text(lines, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    command = ["extract", "data", "--text-model", str(bert), "--precision", "fp32", "--json", "--shard-rows", "9"]
    far = CliRunner().invoke(pipeline.main, [*command, "--engine", "ray", "--address", cluster.address])
    assert far.exit_code == 0, far.output
    told = json.loads(far.stdout.splitlines()[-1])
    assert (told["encoded"], told["engine"], told["shards"], told["samples"]) == (10, "ray", 5, 40)
    again = CliRunner().invoke(pipeline.main, command)
    assert json.loads(again.stdout.splitlines()[-1])["encoded"] == 0
    fused = CliRunner().invoke(pipeline.main, ["fuse", "--head", "logreg", "--json"])
    assert json.loads(fused.stdout.splitlines()[-1])["n"] == 40, fused.output


def test_a_cluster_that_is_not_there_is_said():
    pytest.importorskip("ray")
    with pytest.raises(DeviceError, match="no Ray cluster at 127"):
        RayEngine(RayOptions(address="127.0.0.1:1"))
