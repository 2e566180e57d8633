import numpy as np
import pytest
import torch

from fuse.losses import classification_loss, regression_loss

PRIOR = np.array([0.7, 0.25, 0.05])


def by_hand(outputs, target, smoothing, gamma, tau):
    """`(1 - p_y)^gamma * -sum_k q_k log p_k`, a row at a time."""
    found = []
    for row, y in zip(outputs, target, strict=True):
        shifted = row + tau * np.log(PRIOR)
        log_p = shifted - shifted.max() - np.log(np.exp(shifted - shifted.max()).sum())
        q = np.full(3, smoothing / 3)
        q[y] += 1 - smoothing
        found.append((1 - np.exp(log_p[y])) ** gamma * -(q @ log_p))
    return np.array(found)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5])
def test_classification_loss_is_the_published_formula(smoothing, gamma, tau):
    rng = np.random.default_rng(0)
    outputs, target = rng.normal(size=(30, 3)) * 2, rng.integers(3, size=30)
    found = classification_loss(smoothing, gamma, tau, PRIOR)(torch.as_tensor(outputs), torch.as_tensor(target))
    np.testing.assert_allclose(found, by_hand(outputs, target, smoothing, gamma, tau), rtol=1e-10)


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("squared", lambda e: e**2 / 2),
        ("absolute", np.abs),
        ("huber", lambda e: np.where(np.abs(e) <= 1, e**2 / 2, np.abs(e) - 0.5)),
    ],
)
def test_regression_loss_is_the_published_formula(kind, formula):
    rng = np.random.default_rng(0)
    outputs, target = rng.normal(size=(40, 1)) * 2, rng.normal(size=40)
    found = regression_loss(kind)(torch.as_tensor(outputs), torch.as_tensor(target))
    assert found.shape == (40,)
    np.testing.assert_allclose(found, formula(outputs[:, 0] - target), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 20.0, 1e4, 1e8])
@pytest.mark.parametrize(("smoothing", "gamma", "tau"), [(0, 0, 0), (0, 0.5, 0), (0, 2, 1), (0.1, 0.5, 1), (0.1, 3, 0)])
def test_loss_of_very_sure_outputs_has_a_finite_gradient(dtype, scale, smoothing, gamma, tau):
    outputs = (torch.eye(3, dtype=dtype)[[0, 0, 1, 2]] * scale).requires_grad_()
    loss = classification_loss(smoothing, gamma, tau, np.array([0.7, 0.3, 0.0]))(outputs, torch.tensor([0, 1, 1, 2]))
    assert torch.isfinite(loss).all()
    assert (loss >= 0).all()
    loss.sum().backward()
    assert torch.isfinite(outputs.grad).all()
    if scale:
        assert outputs.grad[1].abs().max() > 0.5  # sure and wrong: it must still learn


def test_a_class_without_prior_is_adjusted_by_a_finite_number():
    loss = classification_loss(0.0, 0.0, 1.0, np.array([1.0, 0.0]))
    assert torch.isfinite(loss(torch.zeros(2, 2), torch.tensor([0, 1]))).all()
