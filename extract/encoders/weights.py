"""What both kinds of encoder do with a module's weights."""

from __future__ import annotations

import hashlib

import torch

from cache import UsageError
from extract.encoders.spec import COMPUTE


def weights_digest(module: torch.nn.Module) -> str:
    """Digest of all parameters and buffers: name, dtype, shape and bytes of each.

    Batch norm's count of training batches is left out: no vector depends on it.
    """
    state = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue
        raw = tensor.detach().cpu().contiguous()
        state.update(f"{name}|{raw.dtype}|{tuple(raw.shape)}|".encode())
        state.update(raw.reshape(-1).view(torch.uint8).numpy())
    return state.hexdigest()


def compute_dtype(precision: str) -> torch.dtype:
    """The type of a forward pass: `fp32` or `bf16`.

    Raises:
        UsageError: it is `auto`, which has to be settled before an encoder is built.
    """
    if precision not in COMPUTE:
        raise UsageError(f"an encoder computes in one of {', '.join(COMPUTE)}, not in {precision!r}")
    found: torch.dtype = getattr(torch, COMPUTE[precision])
    return found
