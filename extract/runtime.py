"""The devices that encoders run on: asked for by name, checked once, never swapped in silence."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from cache import DeviceError
from extract.batching import Budget

CPU_TEXT, GPU_TEXT = Budget(cost=1024, items=256), Budget(cost=32768, items=2048)
CPU_IMAGE, GPU_IMAGE = Budget(cost=8, items=8), Budget(cost=128, items=128)
CPU_AUDIO, GPU_AUDIO = Budget(cost=300, items=16), Budget(cost=3000, items=128)
"""Of sound, in tenths of a second: wav2vec2-base's first layer makes 6.5 MB of a second."""
OTHER = Budget(cost=32, items=32)
"""Of arrays, whose sizes are not known before they are read, and which no device computes on."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # as malloc.h names them
GPU_REPLICAS = 2
"""Threads that feed one GPU: while one waits for its vectors, the other's kernels run."""


@dataclass(frozen=True)
class Runtime:
    """Where and how encoders run.

    Attributes:
        device: for torch.
        name: for people.
        replicas: threads that encode, each a batch of its own, over one set of weights. On the
            CPU one a core: two of one thread each are faster than one of two (see
            `docs/adr/0003`), and no bit depends on their number.
        decoders: threads that read and decode. 0 on the CPU: there the threads that encode decode
            their own batches, because more busy threads than cores only get into each other's way.
        compile: run the encoders through `torch.compile`.
    """

    device: torch.device
    name: str
    replicas: int = 1
    decoders: int = 0
    compile: bool = False

    @property
    def fused(self) -> bool:
        """Whether encoders use oneDNN's fused kernels on packed weights: on x86 processors."""
        on_x86 = platform.machine().lower() in ("x86_64", "amd64")
        return self.device.type == "cpu" and on_x86 and torch.backends.mkldnn.is_available()

    @property
    def has_bf16(self) -> bool:
        """Whether the device itself multiplies bfloat16, rather than by way of float32."""
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                return torch.cuda.is_bf16_supported(including_emulation=False)
        return _cpu_has_bf16()

    def budget(self, modality: str) -> Budget:
        """Batch limits that keep this device busy without filling its memory."""
        gpu = self.device.type == "cuda"
        if modality == "text":
            return GPU_TEXT if gpu else CPU_TEXT
        if modality == "image":
            return GPU_IMAGE if gpu else CPU_IMAGE
        if modality == "audio":
            return GPU_AUDIO if gpu else CPU_AUDIO
        return OTHER

    def record(self) -> dict[str, str]:
        """What a segment says of its making. It is no part of any key."""
        packages = ("torch", "torchvision", "transformers", "pillow")
        kind = "CPU" if self.device.type == "cpu" else self.name  # the number of threads is no other device
        kernels = "oneDNN fused" if self.fused else "compiled" if self.compile else "torch"
        versions = {name: importlib.metadata.version(name) for name in packages}
        return {"device": kind, "kernels": kernels, **versions}

    @contextlib.contextmanager
    def replica(self) -> Iterator[None]:
        """Makes the calling thread one that encodes: one core of the CPU, or a stream of the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # weights came by another stream
            with torch.cuda.device(self.device), torch.cuda.stream(torch.cuda.Stream(self.device)):
                yield
            return
        _keep_freed_memory()
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(max(before, self.replicas))  # other replicas may have set what was found

    def give_back(self) -> None:
        """Gives the system what was freed and kept for the next batch, as between two shards.

        A million rows, each in many small blocks, else leave the better part of a gigabyte that nothing fits into.
        """
        if self.device.type == "cpu" and platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)

    def shared(self, processes: int) -> Runtime:
        """The same for one of several worker processes: threads are parted among them."""
        if self.device.type == "cuda":
            return replace(self, decoders=max(1, self.decoders // processes))
        return replace(self, replicas=max(1, self.replicas // processes))

    def out_of_memory(self, error: Exception) -> bool:
        """Whether a smaller batch may succeed; gives back what the allocator keeps."""
        if not isinstance(error, torch.OutOfMemoryError):
            return False
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return True


def choose_runtime(device: str = "auto", compile_encoders: bool = False) -> Runtime:
    """Finds the device.

    Args:
        device: `auto` (a usable GPU, else the CPU), `cpu`, `cuda` or `cuda:N`.
        compile_encoders: use `torch.compile`; for GPUs.

    Raises:
        DeviceError: the GPU that was asked for is not usable, or the name is none of these.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        threads = torch.get_num_threads()  # the physical cores, or what OMP_NUM_THREADS says
        name = f"CPU ({platform.machine()}, {threads} thread{'s' if threads > 1 else ''})"
        return Runtime(torch.device("cpu"), name, replicas=threads)
    kind, _, number = device.partition(":")
    if device != "auto" and (kind != "cuda" or (number and not number.isdigit())):
        raise DeviceError(f"there is no device {device!r}; use auto, cpu, cuda, cuda:N or several as cuda:0,cuda:1")
    if not torch.cuda.is_available():
        reason = (
            "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no usable NVIDIA GPU"
        )
        raise DeviceError(f"no GPU can be used here: {reason}; leave out --gpu to run on the CPU")
    index = int(number or 0)
    if index >= torch.cuda.device_count():
        raise DeviceError(f"there is no {device}; this machine has {torch.cuda.device_count()} GPUs, from cuda:0 on")
    name = torch.cuda.get_device_name(index)
    return Runtime(torch.device("cuda", index), name, GPU_REPLICAS, cores, compile_encoders)


def choose_runtimes(devices: str, compile_encoders: bool = False) -> list[Runtime]:
    """The devices of a list such as `cuda:0,cuda:1`.

    Raises:
        DeviceError: as `choose_runtime`, or a device stands twice in the list.
    """
    names = [name.strip() for name in devices.split(",")]
    found = [choose_runtime(name, compile_encoders) for name in names]
    if compile_encoders and any(one.device.type != "cuda" for one in found):
        raise DeviceError("--compile is for GPUs: on the CPU the fused kernels are at least as fast; leave it out")
    places = [one.device for one in found if one.device.type == "cuda"]
    if len(set(places)) < len(places):
        raise DeviceError(f"--device {devices} names a GPU twice")
    return found


@functools.cache
def _keep_freed_memory() -> None:
    """Lets glibc keep the blocks in which activations were, for the whole process.

    Else it gives them back to the system after every layer, which zeroes them again for the next:
    a tenth of ResNet-50's time on two cores, and more on many.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(option, value)


@functools.cache
def _cpu_has_bf16() -> bool:
    """Asks oneDNN whether it has kernels, and the system whether the processor has the instructions."""
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:  # no Linux: whether bf16 is faster is measured anyway
        return True
    return any(flag in flags.split() for flag in ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"))
