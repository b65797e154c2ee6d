"""The place of this process among those of a run; the only reader of the launchers' variables."""

import os
import sys
from collections.abc import Mapping
from typing import Any

Variables = Mapping[str, str]


def launched(variables: Variables = os.environ) -> tuple[int, int, int]:
    """Rank, number of ranks and rank within the machine, by the launcher's variables; 0, 1, 0 without one.

    Known launchers are torchrun, srun with several tasks and Lightning, which starts the ranks of a machine
    itself. Lightning does not publish the rank among all: within the second of several machines that it
    was started on by hand, that within the machine stands for it.
    """
    if "RANK" in variables and "WORLD_SIZE" in variables:
        rank = int(variables["RANK"])
        return rank, int(variables["WORLD_SIZE"]), int(variables.get("LOCAL_RANK", rank))
    if slurm_tasks(variables) > 1:
        return int(variables["SLURM_PROCID"]), slurm_tasks(variables), int(variables["SLURM_LOCALID"])
    local = int(variables.get("LOCAL_RANK", 0))
    return local, int(variables.get("WORLD_SIZE", local + 1)), local


def slurm_job(variables: Variables = os.environ) -> str | None:
    """Number of the SLURM job that this process belongs to."""
    return variables.get("SLURM_JOB_ID")


def slurm_tasks(variables: Variables = os.environ) -> int:
    """Number of tasks that srun has started together with this one; 1 outside of srun."""
    return int(variables.get("SLURM_STEP_NUM_TASKS", 1)) if "SLURM_STEP_ID" in variables else 1


def under_torchrun(variables: Variables = os.environ) -> bool:
    """True in a process that torchrun has started."""
    return "TORCHELASTIC_RUN_ID" in variables


def _process_group() -> Any:
    """`torch.distributed` once a process group is initialised; imports nothing."""
    group = sys.modules.get("torch.distributed")
    return group if group is not None and group.is_available() and group.is_initialized() else None


def initialised() -> bool:
    """True once this process has joined the others in a process group."""
    return _process_group() is not None


def rank_and_world() -> tuple[int, int]:
    """Rank and number of ranks of the process group; 0, 1 before it is initialised."""
    group = _process_group()
    return (0, 1) if group is None else (group.get_rank(), group.get_world_size())


def is_main() -> bool:
    """True on the first rank, which writes what belongs to the run; before training, by the launcher."""
    return (rank_and_world() if initialised() else launched())[0] == 0
