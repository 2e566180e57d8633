"""`--store s3://...` as a user types it, with a local S3-compatible server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.buckets import CREDENTIALS, Bucket
from tests.conftest import ROOT, Result

Run = Callable[..., Result]


@pytest.fixture
def merged(run: Run, extracted: Path, bucket: Bucket) -> str:
    """An address that holds what `features` holds."""
    store = f"{bucket.url}/store"
    done = run("cache", "merge", "features", "--store", store, "--json")
    assert done.code == 0, done.err
    return store


def vectors_of(store: object) -> tuple[np.ndarray, list[str]]:
    from cache import load

    table = load(str(store), check=True)
    return table.to_numpy(), table.ids.tolist()


def assert_equal_stores(one: object, other: object) -> None:
    (found, ids), (expected, names) = vectors_of(one), vectors_of(other)
    assert ids == names
    assert found.tobytes() == expected.tobytes()


def test_from_posts_to_labels_by_way_of_a_bucket(run: Run, extracted: Path, bucket: Bucket, models: list[str]) -> None:
    store = f"{bucket.url}/team/store"
    first = run("extract", "posts", *models, "--store", store, "--json")
    assert first.code == 0, first.err
    assert first.json["store"] == store
    assert first.json["encoded"] > 40
    assert_equal_stores(store, extracted / "features")
    again = run("extract", "posts", *models, "--store", store)
    assert f"next: pipeline.py fuse --head mlp --store {store} --name posts" in again.out
    assert "0 encoded" in again.out
    verified = run("cache", "verify", "--store", store, "--json")
    assert (verified.code, verified.json["findings"]) == (0, [])
    fused = run("fuse", "--head", "logreg", "--store", store, "--out", "r", "--json")
    assert fused.code == 0, fused.err
    assert json.loads((extracted / "r" / "run.json").read_text())["settings"]["store"] == store
    assert run("fuse", "--head", "logreg", "--out", "local", "--json").json["accuracy"] == fused.json["accuracy"]
    predicted = run("predict", "--run", "r", "posts", "--store", store, "-o", "p.csv", "--json")
    assert (predicted.code, predicted.json["encoded"]) == (0, 0)
    assert len((extracted / "p.csv").read_text().splitlines()) == 5
    assert not list(extracted.glob("s3:*"))
    assert {Path(name).suffix for name in bucket.names()} == {".json", ".h5", ".plan"}


@pytest.mark.slow
def test_the_store_is_looked_after_by_its_address(run: Run, extracted: Path, merged: str, bucket: Bucket) -> None:
    assert f"store {merged}: data sets 1" in run("cache", "list", "--store", merged).out
    assert "100 % done" in run("cache", "status", "--store", merged).out
    out = run("cache", "export", "out.npz", "--store", merged, "--json")
    assert out.code == 0, out.err
    with np.load(extracted / "out.npz", allow_pickle=True) as exported:
        np.testing.assert_array_equal(exported["text"], vectors_of("features")[0][:, : exported["text"].shape[1]])
    compacted = run("cache", "compact", "--store", merged, "--json")
    assert (compacted.code, compacted.json["segments"]) == (0, 2)
    bucket.delete(bucket.key("posts.view.h5"))
    assert run("cache", "gc", "--store", merged, "--dry-run", "--json").json["files"]
    assert run("cache", "gc", "--store", merged, "--json").code == 0
    assert bucket.names() == []


def test_errors_are_one_line_and_hold_no_secret(run: Run, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = run("cache", "list", "--store", f"{bucket.url}/nothing")
    assert (nothing.code, "there is no store at" in nothing.err) == (1, True)
    unknown = run("fuse", "--head", "mlp", "--store", "nothing-like-it://a/b")
    assert (unknown.code, "no kind of file system" in unknown.err) == (1, True)
    password = run("cache", "list", "--store", "sftp://me:hunter2@host/x")
    assert (password.code, "hunter2" in password.err) == (1, False)
    for done in (nothing, unknown, password):
        assert len(done.err.strip().splitlines()) == 1
        assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in done.err


@pytest.mark.slow
def test_a_server_that_is_not_there_and_rights_that_are_not_there(run_process: Run, bucket: Bucket) -> None:
    store = f"{bucket.url}/store"
    for environment, reason in (
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "EndpointConnectionError"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_CONFIG_FILE": os.devnull}, "Credentials"),
    ):
        done = run_process("cache", "list", "--store", store, env={**environment, "AWS_MAX_ATTEMPTS": "1"})
        assert done.code == 1, done.out
        assert reason in done.err
        assert f"{store} cannot be listed" in done.err
        assert len(done.err.strip().splitlines()) == 1


@pytest.mark.slow
def test_damage_in_the_bucket_is_named_stops_a_head_and_is_healed(
    run: Run, extracted: Path, models: list[str], merged: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = bucket.segments()[0]
    bucket.flip(name)
    found = run("cache", "verify", "--store", merged, "--json")
    assert found.code == 1
    assert [one["file"] for one in found.json["findings"]] == [f"{bucket.url}/{name}"]
    shutil.rmtree(os.environ["ENCODE_ONCE_CACHE"])  # another machine, which has not met it yet
    fused = run("fuse", "--head", "logreg", "--store", merged)
    assert fused.code == 1
    assert name in fused.err
    assert "run extract again" in fused.err
    healed = run("extract", "posts", *models, "--store", merged, "--json")
    assert healed.code == 0, healed.err
    assert healed.json["encoded"] > 0
    assert "was damaged and set aside" in healed.err
    assert run("cache", "verify", "--store", merged).code == 0
    assert_equal_stores(merged, "features")
    collected = run("cache", "gc", "--store", merged, "--json")
    assert [Path(one).suffix for one in collected.json["files"]] == [".damaged"]


@pytest.mark.slow
def test_to_a_folder_and_back(run: Run, extracted: Path, merged: str, models: list[str]) -> None:
    assert run("cache", "merge", merged, "--store", "back").code == 0
    assert_equal_stores("back", "features")
    assert_equal_stores(merged, "features")
    assert run("extract", "posts", *models, "--store", "back", "--json").json["encoded"] == 0
    found = run("cache", "verify", "--deep", "3", "--store", merged, "--json")
    assert (found.code, found.json["deep"]["rows"] > 0) == (0, True)


@pytest.mark.slow
def test_what_was_killed_goes_on_and_two_at_once_agree(
    extracted: Path, bucket: Bucket, models: list[str], run: Run
) -> None:
    store = f"{bucket.url}/store"
    command = [sys.executable, str(ROOT / "pipeline.py"), "extract", "posts", *models, "--store", store, "--json"]
    command += ["--precision", "fp32"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, cwd=extracted, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    killed = start()
    until = time.monotonic() + 120
    while not bucket.segments() and killed.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    assert bucket.segments()
    assert run("cache", "verify", "--store", store, "--json").json["findings"] == []
    pair = [start(), start()]
    results = [json.loads(one.communicate()[0].splitlines()[-1]) for one in pair]
    assert [one.returncode for one in pair] == [0, 0]
    assert all(one["failed"] == 0 for one in results)
    assert run("cache", "verify", "--store", store, "--json").json["findings"] == []
    assert run("extract", "posts", *models, "--store", store, "--json").json["encoded"] == 0
    np.testing.assert_allclose(vectors_of(store)[0], vectors_of("features")[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("texts", [1000, 2000])
def test_requests_are_as_many_as_the_documentation_says(
    run: Run, tmp_path: Path, bucket: Bucket, models: list[str], monkeypatch: pytest.MonkeyPatch, texts: int
) -> None:
    monkeypatch.setattr("extract.engine.SAVE_EVERY", 0.0)
    words = np.random.default_rng(0).choice(["love", "great", "hate", "awful", "day", "my", "so"], size=(texts, 8))
    rows = [f"{number},{' '.join(line)},{number % 2}" for number, line in enumerate(words)]
    (tmp_path / "texts.csv").write_text("\n".join(["id,text,label", *rows]) + "\n")
    store, counts = f"{bucket.url}/store", []
    for encoded in (True, False):
        with bucket.asked() as requests:
            done = run("extract", "texts.csv", *models, "--precision", "fp32", "--store", store, "--json")
        assert (done.code, done.json["encoded"] > 0) == (0, encoded), done.err
        counts.append((Counter(one.kind for one in requests), requests))
    first, requests = counts[0]
    written = {one.key for one in requests if one.method == "PUT" and one.key.count("/") == 2 and "-" in one.key}
    segments = len(written) - 1  # and the one that they were merged into
    assert segments > 5
    assert (first["PUT"], first["GET"], first["DELETE"]) == (segments + 6, 4 * segments + 11, segments + 1)
    assert (first["LIST"] <= 32, first["HEAD"]) == (True, 4)
    assert sum(one.kind == "GET" and not one.range for one in requests) == segments
    again = {kind: counts[1][0][kind] for kind in ("PUT", "GET", "DELETE", "LIST", "HEAD")}
    assert again == {"PUT": 0, "GET": 16, "DELETE": 1, "LIST": 9, "HEAD": 3}


@pytest.mark.slow
def test_the_transformer_fills_and_reads_a_bucket(bucket: Bucket, bert: Path, tmp_path: Path) -> None:
    from extract import FeatureExtractor

    texts = ["love my day", "hate my day", "so sad", "the best"]
    found = {}
    for store in (f"{bucket.url}/store", str(tmp_path / "features")):
        extractor = FeatureExtractor(store=store, text_model=bert, precision="fp32", device="cpu")
        found[store] = [extractor.fit_transform(texts).to_numpy().tobytes() for _ in range(2)]
    assert len({one for both in found.values() for one in both}) == 1
    assert bucket.segments()
