"""What waits on a cluster for slow encoders is bounded, and their pool grows as work waits."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from extract import EncoderSpec, Manifest, Sample, Settings
from extract.datasets.shards import parted
from extract.ray_engine import RayEngine, RayOptions
from extract.sharded import extract_shards
from tests.extract.noted import Noted

# Of Ray's own code, which runs in this process too.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are looked for in /proc"),
    *(pytest.mark.filterwarnings(f"ignore::{one}Warning") for one in ("Deprecation", "Future", "Resource")),
]
LOOPBACK = "127.0.0.2"  # for 127.0.0.1 Ray takes the machine's other address
SHARDS, ROWS, SIDE = 60, 32, 224
STORE = 80 * 2**20
"""Of what lies in shared memory, at most: a third of what all pictures take once they are decoded."""
MARK = "ENCODE_ONCE_TEST_OF_FLOW"


def encoders() -> set[str]:
    """Processes of this test's cluster that encode now."""
    found = set()
    for one in Path("/proc").glob("[0-9]*"):
        try:
            if b"_Encode" in (one / "cmdline").read_bytes() and MARK.encode() in (one / "environ").read_bytes():
                found.add(one.name)
        except OSError:  # it has ended
            continue
    return found


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A node with little shared memory; what does not fit there is spilled into a folder."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "CUDA_VISIBLE_DEVICES": "", MARK: "1"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "spilled").mkdir()
    node = {"num_cpus": 6, "object_store_memory": STORE, "node_ip_address": LOOPBACK, "include_dashboard": False}
    made = Cluster(
        initialize_head=True, head_node_args={**node, "object_spilling_directory": str(tmp_path / "spilled")}
    )
    yield made
    ray.shutdown()
    made.shutdown()


def test_what_waits_for_encoders_is_bounded_and_their_pool_grows(cluster: Any, tmp_path: Path, shufflenet: Path):
    draw, samples = np.random.default_rng(0), []
    for number in range(SHARDS * ROWS):
        path = tmp_path / f"{number}.png"
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
        samples.append(Sample(f"p{number}", {"image": path}, "ab"[number % 2]))
    assert SHARDS * ROWS * SIDE * SIDE * 3 > 2.5 * STORE
    log = tmp_path / "log"
    shards = [Noted(one.read(), log) for one in parted(Manifest(tmp_path, "table", tuple(samples)), ROWS)]
    working: set[str] = set()
    spilled: set[Path] = set()
    ahead: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            working.update(encoders())
            spilled.update(one for one in (tmp_path / "spilled").rglob("*") if one.is_file())

    def progress(what: str, done: int, total: int) -> None:
        if what == "image":
            read = log.stat().st_size - len(shards)  # for each was read once to key it
            ahead.append(read - done // ROWS)

    watching = threading.Thread(target=watch)
    watching.start()
    engine = RayEngine(RayOptions(address=cluster.address, workers=2, bundle=1), "cpu")
    try:
        image = EncoderSpec("image", "shufflenet_v2_x0_5", weights=str(shufflenet))
        done = extract_shards(shards, Settings(tmp_path / "store", "posts", (image,), device="cpu"), engine, progress)
    finally:
        over.set()
        watching.join()
        engine.close()
    assert done.done.encoded == SHARDS * ROWS
    assert max(ahead) <= SHARDS // 2, ahead
    assert not spilled
    assert len(working) >= 2, "the pool began with one"
