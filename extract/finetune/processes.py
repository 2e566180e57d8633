"""The processes that `torchrun` started, which train together; one where it did not."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed as group

from extract.runtime import Runtime, choose_runtime


class Processes:
    """This process among those that train.

    Args:
        device: as `choose_runtime` takes it; of several GPUs each process gets its own.

    Attributes:
        runtime: where this process computes.
        first: whether it is the one that keeps what comes out.
    """

    def __init__(self, device: str) -> None:
        self._count = int(os.environ.get("WORLD_SIZE", "1"))
        self.first = int(os.environ.get("RANK", "0")) == 0
        self.runtime: Runtime = choose_runtime(device)
        if self._count == 1:
            return
        on_gpu = self.runtime.device.type == "cuda"
        if on_gpu:
            self.runtime = choose_runtime(f"cuda:{os.environ['LOCAL_RANK']}")
        if not group.is_initialized():
            group.init_process_group("nccl" if on_gpu else "gloo")

    def wait(self) -> None:
        """Until all processes are here."""
        if self._count > 1:
            group.barrier()

    def shared(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        values = [value]
        if self._count > 1:
            group.broadcast_object_list(values)
        return values[0]
