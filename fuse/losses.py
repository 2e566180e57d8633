"""Losses of heads that are trained by gradient, one number a row."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fuse.training import Loss


def classification_loss(smoothing: float, gamma: float, tau: float, prior: np.ndarray) -> Loss:
    """Cross-entropy `-sum_k q_k log p_k`, times `(1 - p_y)^gamma`.

    `q` is the label, of which `smoothing` is spread over all classes (Szegedy et al. 2016); `p` the
    softmax of `outputs + tau log prior` (Menon et al. 2021); the factor is the focal loss (Lin et
    al. 2017).

    Args:
        smoothing, gamma, tau: as above; all 0 is the plain cross-entropy.
        prior: shares of the classes, shape `(K,)`.
    """
    shift = torch.as_tensor(tau * np.log(np.maximum(prior, 1e-12)))

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        if tau:
            outputs = outputs + shift.to(outputs)
        plain = functional.cross_entropy(outputs, target, reduction="none", label_smoothing=smoothing)
        if not gamma:
            return plain
        # expm1 keeps 1 - p exact, and its power differentiable, where p is nearly 1.
        sure = -functional.cross_entropy(outputs, target, reduction="none")
        return (-torch.expm1(sure)).clamp(min=1e-12) ** gamma * plain

    return loss


def regression_loss(kind: str) -> Loss:
    """Half the squared error, the absolute error, or Huber's with its corner at one deviation."""

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        value = outputs[:, 0]
        if kind == "squared":
            return (value - target).square() / 2
        if kind == "absolute":
            return (value - target).abs()
        return functional.huber_loss(value, target, reduction="none")

    return loss
