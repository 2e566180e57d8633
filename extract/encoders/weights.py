"""What both kinds of encoder do with a module's weights."""

from __future__ import annotations

import hashlib

import torch

from extract.runtime import Runtime


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


def to_device(module: torch.nn.Module, runtime: Runtime) -> torch.nn.Module:
    """The module in inference mode on the runtime's device, in float32."""
    return module.to(device=runtime.device, dtype=torch.float32).eval().requires_grad_(False)
