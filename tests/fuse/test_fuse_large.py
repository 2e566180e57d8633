import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

import fuse.memory
from cache import DataError, PipelineError, UsageError
from fuse import HEADS, TooLarge, judge, load_run, make_classifier, make_regressor, out_of_core, plan_fit, predict
from fuse.evaluate import labelled_by, labelled_in_parts
from fuse.inputs import BlockScaler
from fuse.memory import decide, in_bytes, part_rows, read_bytes, room
from fuse.moments import Moments
from fuse.training import _windows
from tests.conftest import ROOT

pytestmark = pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    """Several parts and several windows, even of tiny data."""
    monkeypatch.setattr("fuse.inputs.PART_BYTES", 500)
    monkeypatch.setattr("fuse.gradient.PART_BYTES", 500)
    monkeypatch.setattr("fuse.training.BLOCK_BYTES", 100)
    monkeypatch.setattr("fuse.training.WINDOW_BLOCKS", 8)
    monkeypatch.setattr("fuse.memory.PREDICTED_BYTES", 500)


def _sorted_rows(make_table, n=1200, **options):
    """Two modalities with a signal; rows stand in the order of their classes, the worst for mini-batches."""
    rng = np.random.default_rng(0)
    target = np.arange(n) * 3 // n
    vectors = {"text": rng.normal(size=(n, 8)), "image": rng.normal(size=(n, 12)) * 4 + 7}
    vectors["text"][:, 0] += 2 * target
    vectors["image"][:, 3] -= 6 * (target == 1)
    vectors = {name: x.astype(np.float32) for name, x in vectors.items()}
    split = np.where(np.arange(n) % 4 == 3, "test", "train")
    return make_table(vectors, np.array(["a", "b", "c"])[target], split=split, **options)


# Scaling


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_moments_of_parts_are_those_of_numpy(dtype):
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(1000, 5)) * [1, 1e-2, 3, 10, 0] + [0, 500, -3, 1, 2]).astype(dtype)
    weight = rng.integers(0, 3, 1000) * rng.random(1000)
    found = Moments(5)
    for start in range(0, 1000, 37):
        found.add(rows[start : start + 37], weight[start : start + 37])
    exact = rows.astype(np.longdouble)
    mean = np.average(exact, axis=0, weights=weight)
    np.testing.assert_allclose(found.mean, mean.astype(float), rtol=1e-13, atol=1e-13)
    variance = np.average((exact - mean) ** 2, axis=0, weights=weight).astype(float)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-10, atol=1e-20)


def test_no_rows_have_mean_and_variance_zero():
    found = Moments(2)
    found.add(np.ones((3, 2)), np.zeros(3))
    assert (found.mean.tolist(), found.variance.tolist(), found.mass) == ([0, 0], [0, 0], 0)


def test_scales_of_rows_on_disk_are_those_of_numpy_over_the_rows_that_have_the_modality(gappy):
    rng = np.random.default_rng(1)
    weight = rng.random(len(gappy)) * (rng.random(len(gappy)) > 0.2)
    scaler = BlockScaler().fit(out_of_core(gappy), weight)
    for name, columns in gappy.blocks.items():
        shown = gappy.masks[name] & (weight > 0)
        rows, share = gappy.block(name)[shown].astype(float), weight[shown]
        mean = np.average(rows, axis=0, weights=share)
        deviation = np.sqrt(np.average((rows - mean) ** 2, axis=0, weights=share))
        np.testing.assert_allclose(scaler.mean_[columns], mean, rtol=1e-10)
        np.testing.assert_allclose(scaler.scale_[columns], deviation * np.sqrt(rows.shape[1]), rtol=1e-10)


def test_a_modality_that_no_row_has_is_scaled_as_in_memory(make_table):
    rows = np.arange(12.0).reshape(6, 2)
    table = make_table({"text": rows, "image": rows}, ["a", "b"] * 3, present={"image": np.zeros(6, bool)})
    inputs = out_of_core(table)
    on_disk, in_memory = BlockScaler().fit(inputs, np.ones(6)), BlockScaler().fit(inputs.load(slice(0, 6)), np.ones(6))
    np.testing.assert_allclose(on_disk.mean_, in_memory.mean_, atol=1e-12)
    np.testing.assert_allclose(on_disk.scale_, in_memory.scale_, rtol=1e-12)


# Fits


def test_logistic_regression_on_disk_is_that_of_sklearn(signal, make_table, logistic):
    vectors, y = signal()
    table = make_table(vectors, y)
    found = make_classifier("logreg", C=3.0).fit(out_of_core(table), y)
    np.testing.assert_allclose(found.predict_proba(table), logistic(vectors, y, C=3.0), atol=1e-5)
    inside = make_classifier("logreg", C=3.0).fit(table, y)
    np.testing.assert_allclose(found.coef_ - found.coef_.mean(0), inside.coef_ - inside.coef_.mean(0), atol=1e-4)


@pytest.mark.parametrize("params", [{}, {"class_weight": "balanced"}, {"C": {"text": 0.1, "image": 20.0}}])
@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_of_rows_with_gaps_is_that_of_the_memory(make_table, signal, classes, params):
    vectors, y = signal(classes)
    has = np.arange(60) % 7 != 0
    table = make_table(vectors, y, present={"image": has})
    weight = np.random.default_rng(2).random(60)
    inside, outside = (
        make_classifier("logreg", **params).fit(X, y, sample_weight=weight) for X in (table, out_of_core(table))
    )
    np.testing.assert_allclose(outside.predict_proba(table), inside.predict_proba(table), atol=1e-4)
    np.testing.assert_allclose(outside.coef_, inside.coef_, rtol=1e-3, atol=1e-4 * np.abs(inside.coef_).max())
    np.testing.assert_allclose(outside.predict_proba(out_of_core(table)), outside.predict_proba(table), atol=1e-12)


def test_columns_that_go_together_do_not_keep_the_optimum_away(make_table):
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(30, 30)) * (1 / np.arange(1, 31) ** 1.5)[:, None]
    rows = rng.normal(size=(900, 30)) @ mixed
    y = np.array(["a", "b", "c"])[(rows @ rng.normal(size=(30, 3)) * 3 + rng.gumbel(size=(900, 3))).argmax(axis=1)]
    found = make_classifier("logreg", C=50.0).fit(out_of_core(make_table({"text": rows}, y)), y)
    z = (rows - rows.mean(0)) / (rows.std(0) * np.sqrt(30))
    exact = LogisticRegression(C=50.0, solver="newton-cholesky", tol=1e-12).fit(z, y)
    np.testing.assert_allclose(found.predict_proba(rows), exact.predict_proba(z), atol=1e-4)
    assert found.n_iter_ < 40


def test_too_few_passes_are_told_of(posts):
    with pytest.warns(ConvergenceWarning, match="no optimum after max_iter=1 passes"):
        make_classifier("logreg", max_iter=1).fit(out_of_core(posts), posts.y)


def test_ridge_on_disk_is_that_of_sklearn(signal, make_table, zscore):
    vectors, y = signal()
    table, numbers = make_table(vectors, y), np.random.default_rng(0).normal(size=60) * 5 + 40
    weight = np.random.default_rng(1).random(60)
    found = make_regressor("ridge", alpha=0.3).fit(out_of_core(table), numbers, sample_weight=weight)
    z = found.scaler_.transform(out_of_core(table).load(slice(0, 60)))
    exact = Ridge(alpha=0.3).fit(z, (numbers - found.target_mean_) / found.target_scale_, sample_weight=weight)
    expected = exact.predict(z) * found.target_scale_ + found.target_mean_
    np.testing.assert_allclose(found.predict(table), expected, rtol=1e-9)


def test_every_head_that_can_comes_to_what_it_is_in_memory(vector_case, data_of, few_steps):
    """One batch holds all rows, so that networks see the same in the same order."""
    if not vector_case.type.out_of_core:
        pytest.skip("needs all vectors in memory")
    table, y = data_of(vector_case, gaps=True)
    inside, outside = (vector_case.make().fit(X, y) for X in (table, out_of_core(table)))
    expected = vector_case.output(inside, table)
    np.testing.assert_allclose(vector_case.output(outside, table), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("params", [{}, {"early_stopping": True, "schedule": "plateau", "modality_dropout": 0.2}])
def test_a_network_learns_from_windows_of_sorted_rows_as_from_memory(make_table, params):
    table = _sorted_rows(make_table)
    train, test = (np.flatnonzero(table.split == name) for name in ("train", "test"))
    found = []
    for X in (table[train], out_of_core(table[train])):
        head = make_classifier("mlp", random_state=0, batch_size=32, **params).fit(X, table.y[train])
        found.append(float(np.mean(head.predict(table[test]) == table.y[test])))
    assert found[0] > 0.8
    assert found[1] == pytest.approx(found[0], abs=0.02)


def test_a_fit_on_disk_repeats_itself_to_the_bit(make_table):
    table = _sorted_rows(make_table, 300)
    one, two = (
        make_classifier("mlp", random_state=1, epochs=2, batch_size=32).fit(out_of_core(table), table.y)
        for _ in range(2)
    )
    np.testing.assert_array_equal(one.predict_proba(table), two.predict_proba(table))


def test_windows_hold_each_row_once_from_everywhere_in_whole_batches():
    kept = torch.arange(10_000)[torch.arange(10_000) % 5 != 0]
    windows = list(_windows(kept, 10, 64, torch.Generator().manual_seed(0)))  # blocks of 10 rows, 8 a window
    assert sorted(torch.cat(windows).tolist()) == kept.tolist()
    assert all(len(one) % 64 == 0 for one in windows[:-1])
    assert all(one.tolist() == sorted(one.tolist()) for one in windows)
    apart = [np.unique(one.numpy() // 1000).size for one in windows[:-1]]
    assert np.mean(apart) > 6  # of the ten thousands, 13 blocks meet nearly all
    again = list(_windows(kept, 10, 64, torch.Generator().manual_seed(1)))
    assert [one.tolist() for one in windows] != [one.tolist() for one in again]


def test_labels_that_do_not_fit_are_refused(posts):
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        make_classifier("logreg").fit(out_of_core(posts), posts.y[:-1])
    with pytest.raises(ValueError, match="NaN"):
        make_regressor("ridge").fit(out_of_core(posts), np.full(len(posts), np.nan))


def test_vectors_that_are_not_finite_are_refused(make_table, monkeypatch):
    table = make_table({"text": np.ones((6, 2))}, ["a", "b"] * 3)
    monkeypatch.setattr(type(table), "block", lambda self, name: np.full((len(self), 2), np.nan))
    with pytest.raises(DataError, match="the text vectors hold NaN or infinity"):
        make_classifier("logreg").fit(out_of_core(table), table.y)


def test_a_head_that_needs_all_vectors_says_so(posts):
    with pytest.raises(UsageError, match="KernelClassifier needs all vectors in memory"):
        make_classifier("kernel").fit(out_of_core(posts), posts.y)


# The decision


@pytest.mark.parametrize(
    ("needed", "there", "able", "expected"),
    [
        (0, 0, False, "in memory"),
        (100, 100, False, "in memory"),
        (100, 100, True, "in memory"),
        (101, 100, True, "out of core"),
        (101, 100, False, "refused"),
        (10**15, float("inf"), False, "in memory"),
    ],
)
def test_the_decision(needed, there, able, expected):
    assert decide(needed, there, able) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2GB", 2 * 10**9), ("500 MB", 5 * 10**8), ("1.5GiB", 3 * 2**29), ("64k", 64_000), ("7b", 7), ("9", 9)],
)
def test_sizes_are_read(text, expected):
    assert read_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "0", "-1GB", "2 PB", "1e9", "2GB!"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="is no number of bytes above 0"):
        read_bytes(text)


def test_sizes_are_told():
    assert [in_bytes(one) for one in (12, 1500, 2.5e6, 3e9, float("inf"))] == [
        *("12 bytes", "1.5 kB", "2.5 MB", "3 GB", "no limit")
    ]


def _kernel(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


MACHINE = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:   8000 kB\n"}
STATUS = {"proc/self/status": "Name:\tx\nVmSize:\t  700 kB\nVmData:\t  300 kB\n"}


def test_the_room_is_what_the_machine_has_free(tmp_path):
    _kernel(tmp_path, MACHINE)
    assert (room(tmp_path).bytes, room(tmp_path).bound) == (8000 * 1024, "free on this machine")


def test_a_system_that_tells_nothing_bounds_nothing(tmp_path):
    assert room(tmp_path).bytes == float("inf")


@pytest.mark.parametrize(("name", "left"), [("RLIMIT_DATA", 700), ("RLIMIT_AS", 300)])
def test_the_room_is_what_a_limit_leaves(tmp_path, monkeypatch, name, left):
    kinds = {getattr(resource, name): (1000 * 1024, -1)}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: kinds.get(kind, (resource.RLIM_INFINITY, -1)))
    _kernel(tmp_path, MACHINE | STATUS)
    assert room(tmp_path).bytes == left * 1024
    assert room(tmp_path).bound == f"what {name} leaves of 1.02 MB"


def test_the_room_is_what_the_control_groups_leave_and_pages_of_files_are_free(tmp_path):
    group = "sys/fs/cgroup/jobs"
    files = {
        "proc/self/cgroup": "0::/jobs/mine\n",
        f"{group}/mine/memory.max": "max\n",
        f"{group}/mine/memory.current": "900000\n",
        f"{group}/memory.max": "1000000\n",
        f"{group}/memory.current": "900000\n",
        f"{group}/memory.stat": "anon 400000\nactive_file 100000\ninactive_file 300000\n",
    }
    _kernel(tmp_path, MACHINE | files)
    assert (room(tmp_path).bytes, room(tmp_path).bound) == (500_000, "what the control group leaves of 1 MB")


def test_control_groups_of_version_1_count_too(tmp_path):
    files = {
        "proc/self/cgroup": "5:cpu:/x\n4:memory:/mine\n",
        "sys/fs/cgroup/memory/mine/memory.limit_in_bytes": "2000000",
        "sys/fs/cgroup/memory/mine/memory.usage_in_bytes": "1500000",
        "sys/fs/cgroup/memory/mine/memory.stat": "total_active_file 200000\ntotal_inactive_file 50000",
    }
    _kernel(tmp_path, MACHINE | files)
    assert room(tmp_path).bytes == 750_000


def test_a_small_table_fits_and_needs_what_its_labelled_rows_take(make_table):
    vectors = {"text": np.ones((10, 4), np.float32), "image": np.ones((10, 6), np.float32)}
    table = make_table(vectors, ["a", "b"] * 4 + ["", ""])
    planned = plan_fit(table, "logreg")
    assert (planned.out_of_core, planned.needed) == (False, round(8 * 10 * 4 * HEADS["logreg"].any_class.copies))
    assert plan_fit(table, "text", memory=planned.needed).needed == round(planned.needed * 0.4)
    assert not plan_fit(table, "logreg", memory=planned.needed).out_of_core
    assert plan_fit(table, "logreg", memory=planned.needed - 1).out_of_core
    assert plan_fit(table, "logreg", memory="0.1kB").out_of_core


def test_a_head_that_cannot_names_the_bytes_and_those_that_can(posts):
    with pytest.raises(TooLarge) as caught:
        plan_fit(posts, "kernel", memory=1000)
    assert isinstance(caught.value, PipelineError)
    assert isinstance(caught.value, MemoryError)
    text = str(caught.value)
    assert "the head 'kernel' needs all vectors in memory, some 28.8 kB in all, and there are 1 kB" in text
    assert "what was said by --memory" in text
    for name in ("logreg", "mlp", "gmu", "ridge"):
        assert f" {name}," in text
    assert "cmbert" not in text


def test_room_for_nothing_is_refused_even_out_of_core(posts, monkeypatch):
    monkeypatch.setattr("fuse.memory.room", lambda: fuse.memory.Room(20_000, "what RLIMIT_DATA leaves of 1 GB"))
    assert not plan_fit(posts, "mlp").out_of_core
    monkeypatch.setattr("fuse.memory.room", lambda: fuse.memory.Room(10_000, "what RLIMIT_DATA leaves of 1 GB"))
    with pytest.raises(TooLarge, match="takes some 100 MB even where vectors stay on disk, and there are 10 kB"):
        plan_fit(posts, "mlp")


# Runs


def test_a_run_out_of_core_says_so_and_judges_as_in_memory(make_table, tmp_path):
    table = _sorted_rows(make_table)
    inside = judge(table, "logreg", store=tmp_path, out=tmp_path / "in")
    planned = plan_fit(table, "logreg", memory=10_000)
    outside = judge(planned, "logreg", store=tmp_path, out=tmp_path / "out")
    assert "out of core: a fit in memory takes 384 kB, there are 10 kB (what was said by --memory)" in planned.line
    assert outside.metrics.pop("out_of_core") is True
    assert outside.metrics == inside.metrics
    settings = load_run(tmp_path / "out").settings
    assert settings["out_of_core"] == {"needed_bytes": planned.needed, "memory_bytes": 10_000}
    assert "out_of_core" not in load_run(tmp_path / "in").settings
    assert "out_of_core" not in json.loads((tmp_path / "in" / "metrics.json").read_text())


def test_folds_out_of_core_are_those_in_memory(posts, tmp_path):
    inside, outside = (
        judge(plan_fit(posts, "logreg", memory=size), "logreg", store=tmp_path, out=tmp_path / str(size))
        for size in ("1GB", "1kB")
    )
    np.testing.assert_allclose(outside.evaluation.predictions.proba, inside.evaluation.predictions.proba, atol=1e-4)


def test_rows_that_do_not_fit_are_predicted_in_parts(gappy, tmp_path):
    model = make_classifier("mlp", epochs=1, random_state=0).fit(gappy, gappy.y)
    labels, proba = labelled_by(model, gappy)
    parts = labelled_in_parts(model, gappy, 7)
    np.testing.assert_array_equal(parts[0], labels)
    np.testing.assert_allclose(parts[1], proba, rtol=1e-12)
    assert part_rows(gappy) == 500 // 80
    predict(model, gappy, tmp_path / "whole.csv")
    predict(model, gappy, tmp_path / "parts.csv", memory=1000)
    assert (tmp_path / "whole.csv").read_text() == (tmp_path / "parts.csv").read_text()
    assert fuse.memory.rows_at_once(model, gappy, 1000) == 6
    assert fuse.memory.rows_at_once(model, gappy) == 60


LIMITED = """
import re, resource, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import pipeline
from fuse import ConcatMLPClassifier
from fuse.memory import room_for

room_for(ConcatMLPClassifier)  # torch and the buffers of linear algebra
left = int(sys.argv[2])
if left:
    used = int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + left, used + left))
pipeline.main(sys.argv[3:], prog_name="pipeline.py")
"""
"""The command line in a process that may take so many bytes more than what it has taken by its imports."""


def _fuse(store, left, *options):
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LIMITED, str(ROOT), str(left), "fuse", "--store", str(store), "--json", *options]
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, cwd=store.parent, env={**os.environ, **threads}
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's limit on private memory")
@pytest.mark.parametrize("options", [("logreg",), ("mlp", "--set", "epochs=2")], ids=lambda one: one[0])
def test_vectors_three_times_larger_than_the_limit_are_fused_as_well(options, make_table, tmp_path):
    n, columns = 50_000, 1000
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, n)
    hidden = rng.normal(size=(n, 20)).astype(np.float32) + 1.2 * np.eye(3, 20, dtype=np.float32)[target]
    vectors = {}
    for name in ("text", "image"):
        vectors[name] = hidden @ rng.normal(size=(20, columns)).astype(np.float32)
        vectors[name] += rng.standard_normal(size=(n, columns), dtype=np.float32)
    size = sum(one.nbytes for one in vectors.values())
    split = np.where(np.arange(n) % 5 == 0, "test", "train")
    make_table(vectors, np.array(["a", "b", "c"])[target], split=split)
    store = tmp_path / "features-0"
    del vectors
    dead = _fuse(store, size // 3, "--memory", "1TB", "--head", *options, "--out", tmp_path / "dead")
    assert dead.returncode
    assert "MemoryError" in dead.stderr or "can't allocate memory" in dead.stderr or "Unable to allocate" in dead.stderr
    inside = _fuse(store, 0, "--memory", "1TB", "--head", *options, "--out", tmp_path / "in")
    outside = _fuse(store, size // 3, "--head", *options, "--out", tmp_path / "out")
    assert (inside.returncode, outside.returncode) == (0, 0), inside.stderr + outside.stderr
    assert "RLIMIT_DATA" in outside.stderr
    expected, found = (json.loads(one.stdout.splitlines()[-1]) for one in (inside, outside))
    assert found["out_of_core"] is True
    assert 0.5 < expected["accuracy"] < 0.99
    for name in ("accuracy", "macro_f1"):
        assert found[name] == pytest.approx(expected[name], abs=0.005)
