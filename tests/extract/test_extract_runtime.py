import platform
import subprocess
import sys

import pytest
import torch

from cache import DeviceError
from extract.runtime import choose_runtime
from tests.conftest import ROOT

GPU = torch.cuda.is_available()


@pytest.mark.skipif(GPU, reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_a_gpu_that_is_not_there_is_an_error_and_never_the_cpu(device: str):
    with pytest.raises(DeviceError, match=r"no GPU can be used here: .+; leave out --gpu to run on the CPU") as caught:
        choose_runtime(device)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(GPU, reason="there is a GPU")
def test_auto_takes_the_cpu_where_there_is_nothing_else_and_says_so():
    runtime = choose_runtime("auto")
    assert runtime.device.type == "cpu"
    assert runtime.name.startswith("CPU (")


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="no GPU")
def test_auto_takes_the_gpu():
    assert choose_runtime("auto").device == torch.device("cuda", 0)
    with pytest.raises(DeviceError, match="there is no cuda:99; this machine has"):
        choose_runtime("cuda:99")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:-1", "", "mps"])
def test_unknown_devices_are_refused(device: str):
    with pytest.raises(DeviceError, match="use auto, cpu, cuda, cuda:N or several as cuda:0,cuda:1"):
        choose_runtime(device)


KEEPS = """
import gc
from pathlib import Path
import numpy as np
from extract.runtime import choose_runtime
from tests.conftest import ROOT

def held():
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1e3

runtime = choose_runtime("cpu")
with runtime.replica():
    blocks = [np.ones(30_000, np.uint8) for _ in range(10_000)]  # 300 MB, of which every hundredth block stays
    blocks = blocks[::100]
before = held()
runtime.give_back()
print(before - held(), len(blocks))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library, with another way to keep memory")
def test_memory_that_was_freed_in_pieces_is_given_back():
    done = subprocess.run([sys.executable, "-c", KEEPS], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    given, left = done.stdout.split()
    assert float(given) > 200  # MB
    assert int(left) == 100


def test_segments_say_which_device_and_versions_made_them():
    record = choose_runtime("cpu").record()
    assert record["torch"] == torch.__version__.split("+")[0] or record["torch"] == torch.__version__
    assert record["device"].startswith("CPU")
    assert set(record) == {"device", "kernels", "torch", "torchvision", "transformers", "pillow"}
