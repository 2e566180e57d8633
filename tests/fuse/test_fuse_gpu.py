"""Heads that train on a GPU; skipped where there is none."""

import numpy as np
import pytest
import torch

from fuse import HEADS, make_classifier, make_regressor
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
