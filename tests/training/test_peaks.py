"""Peaks are those of the run's precision, and measured where none is known."""

import pytest
import torch

from ldm.training import peaks
from ldm.training.peaks import PEAKS, arithmetic, measured_flops, peak_flops

GPU = torch.device("cuda")


@pytest.fixture
def named(monkeypatch):
    """Sets the name of the GPU; what is measured is 7 and the dtype is noted."""
    seen = []

    def name_it(name):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        return seen

    monkeypatch.setattr(peaks, "measured_flops", lambda device, dtype: seen.append(dtype) or 7.0)
    return name_it


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("NVIDIA A100-SXM4-40GB", "bf16-mixed", 312),
        ("NVIDIA A100-SXM4-40GB", "16-mixed", 312),
        ("NVIDIA A100-SXM4-40GB", "32-true", 19.5),
        ("NVIDIA H100 PCIe", "bf16-true", 756),
        ("NVIDIA H100 80GB HBM3", "bf16-mixed", 989),
        ("NVIDIA GH200 480GB", "bf16-mixed", 989),
        ("NVIDIA A10G", "bf16-mixed", 70),
        ("NVIDIA A10", "bf16-mixed", 125),
        ("NVIDIA L40", "bf16-mixed", 181),
        ("NVIDIA GeForce RTX 4090", "32-true", 82.6),
        ("NVIDIA GeForce RTX 4080 SUPER", "16-mixed", 104.4),
        ("Tesla V100-PCIE-32GB", "16-mixed", 112),
        ("Tesla T4", "32-true", 8.1),
    ],
)
def test_a_gpu_is_known_by_its_name_and_the_runs_precision(named, name, precision, tflops):
    named(name)
    assert peak_flops(GPU, precision) == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize(
    ("name", "precision", "dtype"),
    [
        ("Unheard Of", "bf16-mixed", torch.bfloat16),
        ("Unheard Of", "32-true", torch.float32),
        ("Tesla T4", "bf16-mixed", torch.bfloat16),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "16-true", torch.float16),
        ("NVIDIA A100-SXM4-40GB", "64-true", torch.float64),
    ],
)
def test_what_no_data_sheet_holds_is_measured_in_the_runs_precision(named, name, precision, dtype):
    seen = named(name)
    assert peak_flops(GPU, precision) == 7.0
    assert seen == [dtype]


def test_float32_is_tf32_where_products_may_be(named):
    named("NVIDIA A100-SXM4-40GB")
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert arithmetic("32-true") == "tf32"
        assert peak_flops(GPU, "32-true") == 156e12
    finally:
        torch.set_float32_matmul_precision(before)


def test_tensor_cores_are_faster_than_the_others():
    for name, peak in PEAKS.items():
        assert peak.fp16 > peak.fp32, name
        assert peak.bf16 in (None, peak.fp16), name


def test_what_is_measured_is_of_this_machine():
    for dtype in (torch.float32, torch.bfloat16):
        assert 1e7 < measured_flops(torch.device("cpu"), dtype, size=128) < 1e14
