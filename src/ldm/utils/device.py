"""Devices and threads."""

import os

import torch


def set_threads(threads: int | None) -> int:
    """Sets torch's CPU threads, by default to the cores that this process may use, and returns them."""
    if threads is None:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads} (threads)")
    torch.set_num_threads(threads)
    return threads


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is the first of cuda, mps and cpu that is there.

    Raises: ValueError if the device is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, found in there.items() if found))
    kind = name.partition(":")[0]
    if not there.get(kind, False):
        found = ["auto", *(k for k, f in there.items() if f)]
        raise ValueError(f"device must be one of {found}, got {name!r} (device)")
    return torch.device(name)
