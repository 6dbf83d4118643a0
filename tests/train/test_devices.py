"""The table of devices, and the measured ones."""

import pytest
import torch

from congling.train.devices import DEVICES, MFU, device_peak, find_device, this_device
from congling.train.precision import cpu_has_bf16


def test_the_table_is_dense_and_consistent():
    for name, device in DEVICES.items():
        assert device.name == name
        assert device.kind in MFU
        assert device.memory >= 8 * 2**30
        assert device.watts
        assert not device.measured
        if device.bf16:  # twice TF32 on every card since Ampere; figures "with sparsity" would stand out
            assert device.bf16 == pytest.approx(2 * device.tf32, rel=0.02)
            assert device.fp32 <= device.bf16
    assert len({device.cuda_name for device in DEVICES.values()}) == len(DEVICES)


def test_what_a_device_lacks_falls_back_to_float32():
    t4, a100 = DEVICES["t4"], DEVICES["a100-80"]
    assert t4.peak("bf16") == t4.peak("fp32") == 8.1e12
    assert (a100.peak("bf16"), a100.peak("fp32"), a100.peak("fp32", tf32=True)) == (312e12, 19.5e12, 156e12)


def test_an_unknown_device_is_told_with_the_known_ones():
    with pytest.raises(ValueError, match="device = 'rtx-9090': not known; known: this, rtx-3060"):
        find_device("rtx-9090")


def test_this_processor_is_measured_once_and_draws_no_random_numbers():
    torch.manual_seed(4)
    before = torch.get_rng_state()
    peak = device_peak("cpu", torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    assert 1e9 < peak < 1e14
    assert device_peak(torch.device("cpu"), torch.float32) == peak
    here = this_device("cpu")
    assert here.measured
    assert (here.bf16 is not None) == cpu_has_bf16()
    assert here.memory > 2**29


@pytest.mark.gpu
def test_this_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    here = find_device("this")
    assert here.memory == pytest.approx(torch.cuda.get_device_properties(0).total_memory, rel=0.1)
