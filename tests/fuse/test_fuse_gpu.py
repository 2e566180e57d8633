"""Heads that train on a GPU; skipped where there is none."""

import numpy as np
import pytest
import torch

from fuse import HEADS, Settings, make_classifier, make_regressor
from fuse.ablation.engine import read_data, run_ablation
from fuse.gradient import GradientHead

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no usable GPU")]
NAMES = [name for name, head in HEADS.items() if issubclass(head.any_class, GradientHead) and not head.reads_tokens]


@pytest.mark.parametrize("name", NAMES)
def test_a_head_trained_on_the_gpu_is_the_one_trained_on_the_cpu(name, gappy):
    cpu, gpu = (
        make_classifier(name, random_state=0, epochs=3, device=device).fit(gappy, gappy.y) for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(gpu.predict_proba(gappy), cpu.predict_proba(gappy), atol=1e-4)


@pytest.mark.parametrize("options", [{"early_stopping": True}, {"modality_dropout": 0.3, "dropout": 0.3}])
def test_options_work_on_the_gpu_and_a_seed_decides(gappy, options):
    y = np.arange(len(gappy), dtype=float)
    first, again = (
        make_regressor("mlp", random_state=0, batch_size=16, epochs=3, device="cuda", **options)
        .fit(gappy, y)
        .predict(gappy)
        for _ in range(2)
    )
    assert np.isfinite(first).all()
    np.testing.assert_allclose(first, again, rtol=1e-4)


def test_an_ablation_on_the_gpu_says_what_one_on_the_cpu_says(gappy, tmp_path):
    labels = []
    for device in ("cpu", "cuda"):
        settings = Settings(heads=("mlp",), seeds=(0,), folds=2, params={"mlp": {"epochs": 3}}, device=device)
        run_ablation(read_data(gappy), settings, tmp_path / device / "run", jobs=1)
        labels.append((tmp_path / device / "run" / "results.csv").read_text().splitlines())
    metrics = [[line.split(",")[:9] for line in lines] for lines in labels]
    assert len(metrics[0]) > 2
    assert metrics[0] == metrics[1]
