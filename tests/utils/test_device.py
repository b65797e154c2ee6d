import os

import pytest
import torch

from ldm.utils.device import (
    as_dtype,
    available_cores,
    dtype_name,
    fastest_dtype,
    has_bf16,
    pick_device,
    set_threads,
)


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Eight hyperthreads on four cores, this process allowed on all of them."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for i in range(8):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{i}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{i % 4},{i % 4 + 4}\n")
    return tmp_path


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_threads_are_set_and_checked():
    assert set_threads(1) == torch.get_num_threads() == 1
    assert set_threads(None) >= 1
    with pytest.raises(ValueError, match="threads must be at least 1"):
        set_threads(0)


def test_threads_come_from_the_environment_unless_given(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert set_threads(None) == torch.get_num_threads() == 3
    assert set_threads(2) == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert set_threads(None) == available_cores()


def test_hyperthreads_do_not_count(machine, monkeypatch):
    assert available_cores(machine) == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 4}, raising=False)
    assert available_cores(machine) == 2


def test_a_machine_that_tells_nothing_counts_its_processors(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    assert available_cores(tmp_path) == 3


def test_the_quota_of_a_container_counts(machine):
    write(machine, "sys/fs/cgroup/cpu.max", "max 100000\n")
    assert available_cores(machine) == 4
    write(machine, "sys/fs/cgroup/cpu.max", "250000 100000\n")
    assert available_cores(machine) == 3
    write(machine, "proc/self/cgroup", "0::/job/step\n")
    write(machine, "sys/fs/cgroup/job/cpu.max", "50000 100000\n")
    assert available_cores(machine) == 1


def test_the_quota_of_an_old_control_group_counts(machine):
    write(machine, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    write(machine, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert available_cores(machine) == 4
    write(machine, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n")
    assert available_cores(machine) == 2


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t: fpu avx2 avx512_bf16", True),
        ("Features\t: fp asimd bf16", True),
        ("flags\t: fpu avx2", False),
    ],
)
def test_bf16_on_a_cpu_is_what_its_flags_say(tmp_path, line, expected):
    write(tmp_path, "proc/cpuinfo", f"processor\t: 0\n{line}\n")
    assert has_bf16(torch.device("cpu"), tmp_path) is expected


def test_bf16_is_not_claimed_where_nothing_says_so(tmp_path):
    assert not has_bf16(torch.device("cpu"), tmp_path)
    assert not has_bf16(torch.device("mps"))


def test_device_names():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match=r"device must be one of .*'cpu'.*got 'tpu'"):
        pick_device("tpu")


def test_dtype_names():
    assert as_dtype("bf16") is as_dtype(torch.bfloat16) is torch.bfloat16
    with pytest.raises(ValueError, match=r"dtype must be one of .*'fp16'.*got 'int8'"):
        as_dtype("int8")


@pytest.mark.parametrize("name", ["float16", "half", "torch.float16", torch.float16])
def test_dtypes_have_long_names_and_a_short_one(name):
    assert as_dtype(name) is torch.float16
    assert dtype_name(as_dtype(name)) == "fp16"
    assert dtype_name(torch.float64) == "float64"
    with pytest.raises(ValueError, match="dtype must be one of"):
        as_dtype(torch.int8)


@pytest.mark.parametrize(
    ("kind", "native", "dtype"),
    [
        ("cuda", True, torch.bfloat16),
        ("cuda", False, torch.float16),
        ("mps", False, torch.float16),
        ("cpu", True, torch.bfloat16),
        ("cpu", False, torch.float32),
    ],
)
def test_the_automatic_dtype_is_one_that_the_device_computes_in(kind, native, dtype, monkeypatch):
    monkeypatch.setattr("ldm.utils.device.has_bf16", lambda device: native)
    device = torch.device(kind)
    assert fastest_dtype(device) is as_dtype("auto", device) is dtype
    with pytest.raises(ValueError, match=r"dtype must be one of \['fp32', 'bf16', 'fp16'\], got 'auto'"):
        as_dtype("auto")


def test_gpus_are_counted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (
        pick_device(1)
        == pick_device("cuda:1")
        == pick_device(torch.device("cuda:1"))
        == torch.device("cuda:1")
    )
    for name in (2, "cuda:2"):
        with pytest.raises(ValueError, match="device must be one of 2 GPUs, counted from 0, got 'cuda:2'"):
            pick_device(name)
    with pytest.raises(ValueError, match="device must be one of"):
        pick_device("cuda:first")
