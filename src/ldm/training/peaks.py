"""Peak rates of devices, against which MFU is counted: in the precision of the run, dense, of data sheets."""

import re
import time
from typing import NamedTuple

import torch


class Peaks(NamedTuple):
    """Dense rates of a GPU in 10^12 FLOP/s with sums in float32; None where it lacks the precision.

    Attributes:
        bf16: of tensor cores.
        fp16: of tensor cores.
        tf32: of tensor cores.
        fp32: outside of tensor cores.
    """

    bf16: float | None
    fp16: float
    tf32: float | None
    fp32: float


# NVIDIA's data sheets. Where these give twice the rate it is that of structured sparsity, or of GeForce's
# sums in half precision. The first name that is found counts. `measured_flops` reaches 868 (bf16),
# 866 (fp16), 443 (TF32) and 51 (float32) on an H200 with torch 2.11.
PEAKS = {
    "GB200": Peaks(2500, 2500, 1250, 80),
    "B200": Peaks(2250, 2250, 1125, 75),
    "GH200": Peaks(989, 989, 494, 67),
    "H200": Peaks(989, 989, 494, 67),
    "H100 PCIe": Peaks(756, 756, 378, 51),
    "H100 NVL": Peaks(835, 835, 417, 60),
    "H100": Peaks(989, 989, 494, 67),
    "H800": Peaks(989, 989, 494, 67),
    "H20": Peaks(148, 148, 74, 44),
    "A100": Peaks(312, 312, 156, 19.5),
    "A800": Peaks(312, 312, 156, 19.5),
    "A40": Peaks(149.7, 149.7, 74.8, 37.4),
    "A30": Peaks(165, 165, 82, 10.3),
    "A10G": Peaks(70, 70, 35, 31.5),
    "A10": Peaks(125, 125, 62.5, 31.2),
    "L40S": Peaks(362, 362, 183, 91.6),
    "L40": Peaks(181, 181, 90.5, 90.5),
    "L4": Peaks(121, 121, 60, 30.3),
    "RTX 6000 Ada": Peaks(364, 364, 182, 91.1),
    "RTX A6000": Peaks(154.8, 154.8, 77.4, 38.7),
    "RTX A5000": Peaks(111.1, 111.1, 55.6, 27.8),
    "RTX 5090": Peaks(209.5, 209.5, 104.8, 104.8),
    "RTX 5080": Peaks(112.6, 112.6, 56.3, 56.3),
    "RTX 4090": Peaks(165.2, 165.2, 82.6, 82.6),
    "RTX 4080 SUPER": Peaks(104.4, 104.4, 52.2, 52.2),
    "RTX 4080": Peaks(97.5, 97.5, 48.7, 48.7),
    "RTX 3090 Ti": Peaks(80, 80, 40, 40),
    "RTX 3090": Peaks(71, 71, 35.6, 35.6),
    "RTX 2080 Ti": Peaks(None, 53.8, None, 13.4),
    "V100S": Peaks(None, 130, None, 16.4),
    "V100-PCIE": Peaks(None, 112, None, 14),
    "V100": Peaks(None, 125, None, 15.7),
    "T4": Peaks(None, 65, None, 8.1),
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32, "fp32": torch.float32}


def arithmetic(precision: str) -> str:
    """The kind of number that a run multiplies: "bf16", "fp16", "tf32", "fp32" or "fp64".

    Args:
        precision: of Lightning's trainer, such as "bf16-mixed"; "32-true" is TF32 where
            `torch.set_float32_matmul_precision` allows it.
    """
    bits = precision.split("-")[0]
    if bits in ("32", "64"):
        exact = bits == "64" or torch.get_float32_matmul_precision() == "highest"
        return f"fp{bits}" if exact else "tf32"
    return "bf16" if bits == "bf16" else "fp16"


def peak_flops(device: torch.device, precision: str) -> float:
    """Most FLOP/s of a device in the precision of a run.

    Of a known GPU it is the data sheet's; of another, of a part of one (MIG), of a precision that the GPU has
    no cores for, and of a CPU it is that of a few products of matrices, in the same precision.

    Args:
        device: of the training.
        precision: of Lightning's trainer, such as "bf16-mixed".
    """
    kind = arithmetic(precision)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = next((p for key, p in PEAKS.items() if re.search(rf"\b{key}\b", name)), None)
        peak = getattr(known, kind, None) if "MIG" not in name else None
        if peak is not None:
            return float(peak * 1e12)
    return measured_flops(device, DTYPES.get(kind, torch.float64))


@torch.no_grad()
def measured_flops(
    device: torch.device, dtype: torch.dtype, size: int | None = None, repeats: int = 5
) -> float:
    """FLOP/s of the fastest of some products of square matrices.

    Args:
        device: to measure.
        dtype: of the matrices.
        size: of the matrices; None: 1024 on a CPU, 8192 elsewhere, where smaller ones leave cores idle.
        repeats: products, after a first one that is not counted.
    """
    size = size or (1024 if device.type == "cpu" else 8192)
    a = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    for i in range(repeats + 1):
        start = time.perf_counter()
        product = a @ a
        float(product[0, 0])  # waits for it
        if i:
            best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
