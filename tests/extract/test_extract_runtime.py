import pytest
import torch

from cache import DeviceError
from extract.runtime import choose_runtime

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


def test_segments_say_which_device_and_versions_made_them():
    record = choose_runtime("cpu").record()
    assert record["torch"] == torch.__version__.split("+")[0] or record["torch"] == torch.__version__
    assert record["device"].startswith("CPU")
    assert set(record) == {"device", "kernels", "torch", "torchvision", "transformers", "pillow"}
