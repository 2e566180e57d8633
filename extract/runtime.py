"""The device that encoders run on: asked for by name, checked once, never swapped in silence."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass

import torch

from cache import DeviceError
from extract.batching import Budget

CPU_TEXT, GPU_TEXT = Budget(cost=1024, items=256), Budget(cost=32768, items=2048)
CPU_IMAGE, GPU_IMAGE = Budget(cost=8, items=8), Budget(cost=128, items=128)


@dataclass(frozen=True)
class Runtime:
    """Where encoders run: `device` for torch, `name` for people."""

    device: torch.device
    name: str

    def budget(self, modality: str) -> Budget:
        """Batch limits that keep this device busy without filling its memory."""
        gpu = self.device.type == "cuda"
        if modality == "text":
            return GPU_TEXT if gpu else CPU_TEXT
        return GPU_IMAGE if gpu else CPU_IMAGE

    def record(self) -> dict[str, str]:
        """What a segment says of its making. It is no part of any key."""
        packages = ("torch", "torchvision", "transformers", "pillow")
        kind = "CPU" if self.device.type == "cpu" else self.name  # the number of threads is no other device
        return {"device": kind, **{name: importlib.metadata.version(name) for name in packages}}


def choose_runtime(device: str = "auto") -> Runtime:
    """Finds the device.

    Args:
        device: `auto` (a usable GPU, else the CPU), `cpu`, `cuda` or `cuda:N`.

    Raises:
        DeviceError: the GPU that was asked for is not usable, or the name is none of these.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return Runtime(torch.device("cpu"), f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)")
    kind, _, number = device.partition(":")
    if device != "auto" and (kind != "cuda" or (number and not number.isdigit())):
        raise DeviceError(f"there is no device {device!r}; use auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        reason = (
            "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no usable NVIDIA GPU"
        )
        raise DeviceError(f"no GPU can be used here: {reason}; leave out --gpu to run on the CPU")
    index = int(number or 0)
    if index >= torch.cuda.device_count():
        raise DeviceError(f"there is no {device}; this machine has {torch.cuda.device_count()} GPUs, from cuda:0 on")
    return Runtime(torch.device("cuda", index), torch.cuda.get_device_name(index))
