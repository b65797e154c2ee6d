"""Devices and threads."""

import math
import os
from pathlib import Path

import torch

from ldm.utils.errors import UserError

BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, x86, ARM


def available_cores(root: Path = Path("/")) -> int:
    """Physical cores that this process may keep busy: its affinity, without hyperthreads, within its quota.

    Args:
        root: where /proc and /sys are.
    """
    if hasattr(os, "sched_getaffinity"):
        threads = sorted(os.sched_getaffinity(0))
    else:
        threads = list(range(os.cpu_count() or 1))
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = {_read(root / topology.format(i)) or str(i) for i in threads}
    return max(1, math.ceil(min(len(cores), _quota(root))))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _quota(root: Path) -> float:
    """Cores that the control group of this process (a container, a SLURM job) allows; inf without a limit."""
    groups = root / "sys/fs/cgroup"
    path = next((x[3:] for x in _read(root / "proc/self/cgroup").splitlines() if x.startswith("0::")), "/")
    folder = groups / path.lstrip("/")
    limits = [_read(f / "cpu.max").split() for f in (folder, *folder.parents) if f.is_relative_to(groups)]
    limits += [[_read(groups / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period")]]
    pairs = [(float(a), float(b)) for a, b in (x for x in limits if len(x) == 2 and all(x)) if a != "max"]
    return min((quota / period for quota, period in pairs if quota > 0), default=math.inf)


def set_threads(threads: int | None) -> int:
    """Sets torch's CPU threads and returns their number.

    Args:
        threads: None takes OMP_NUM_THREADS if that is set, else the cores that this process may keep busy.
    """
    if threads is None:
        wished = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
        threads = int(wished) if wished.isdecimal() and int(wished) > 0 else available_cores()
    if threads < 1:
        raise UserError(f"threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)
    return threads


def has_bf16(device: torch.device, root: Path = Path("/")) -> bool:
    """True if a device computes in bfloat16 natively; emulation, slower than float32, does not count."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    lines = _read(root / "proc/cpuinfo").splitlines() if device.type == "cpu" else []
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return bool(flags & BF16_FLAGS)


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LONG_NAMES = {"float32": "fp32", "float": "fp32", "bfloat16": "bf16", "float16": "fp16", "half": "fp16"}


def as_dtype(value: str | torch.dtype, device: torch.device | None = None) -> torch.dtype:
    """The dtype of a name: "fp32", "bf16", "fp16" or torch's; "auto" where a device is given.

    Args:
        value: a name, or a floating-point dtype, which is returned as it is.
        device: that computes in it; "auto" is the fastest one it has, `fastest_dtype`.

    Raises: ValueError for another name.
    """
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return value
    if value == "auto" and device is not None:
        return fastest_dtype(device)
    name = LONG_NAMES.get(str(value).removeprefix("torch."), value)
    if name not in DTYPES:
        options = [*DTYPES, *(["auto"] if device is not None else [])]
        raise UserError(f"dtype must be one of {options}, got {str(value)!r}")
    return DTYPES[str(name)]


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where a device computes in it, else float16 on a GPU, else float32."""
    if has_bf16(device):
        return torch.bfloat16
    return torch.float32 if device.type == "cpu" else torch.float16


def dtype_name(dtype: torch.dtype) -> str:
    """The short name of a dtype: "fp32", "bf16" or "fp16"; torch's for others."""
    return next((name for name, value in DTYPES.items() if value == dtype), str(dtype).removeprefix("torch."))


def pick_device(name: str | int | torch.device) -> torch.device:
    """The device of a name or, as with torch, of a GPU's number.

    Args:
        name: "auto" is the first of cuda, mps and cpu that is there.

    Raises: ValueError if the device is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = f"cuda:{name}" if isinstance(name, int) else str(name)
    if name == "auto":
        return torch.device(next(kind for kind, found in there.items() if found))
    kind, _, index = name.partition(":")
    found = ["auto", *(k for k, f in there.items() if f)]
    if not there.get(kind, False) or (index and not index.isdecimal()):
        raise UserError(f"device must be one of {found}, got {name!r}")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise UserError(
            f"device must be one of {torch.cuda.device_count()} GPUs, counted from 0, got {name!r}"
        )
    return torch.device(name)
