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


LAUNCHER = "LDM_LAUNCHER"  # process that has had Lightning start ranks: the mark of those that are its
OF_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
OF_SRUN = ("SLURM_PROCID", "SLURM_LOCALID")
OF_MACHINES = ("NODE_RANK", "GROUP_RANK", "MASTER_ADDR")


def leftovers(variables: Variables = os.environ, machines: int | None = None) -> dict[str, str]:
    """Variables of ranks that no launcher of this process has set, as in a shell, a notebook or a container.

    Args:
        variables: of the environment.
        machines: number of machines of the run; None if it is not known yet.
    """
    if under_torchrun(variables) or _started_by_lightning(variables):
        return {}
    names: tuple[str, ...] = OF_TORCHRUN if slurm_tasks(variables) == 1 else ()
    if slurm_tasks(variables) == 1:
        names += OF_SRUN if "SLURM_JOB_ID" in variables else (*OF_SRUN, "SLURM_NTASKS")
    if machines == 1:
        names += OF_MACHINES
    return {name: variables[name] for name in names if name in variables}


def drop_leftovers(machines: int | None = None) -> str | None:
    """Removes leftovers from the environment, where Lightning reads them too.

    Args:
        machines: number of machines of the run; None if it is not known yet.

    Returns: a line about those that would have made this process one of several.
    """
    found = leftovers(os.environ, machines)
    for name in found:
        del os.environ[name]
    notable = [f"{name}={value}" for name, value in found.items() if name not in OF_SRUN or value != "0"]
    if not notable:
        return None
    return f"{', '.join(notable)} ignored: left over in the environment, set by no launcher of this run"


def mark_launcher() -> None:
    """Marks the environment, so that ranks which Lightning starts from this process know who they are."""
    if not _started_by_lightning(os.environ):
        os.environ[LAUNCHER] = str(os.getpid())


def _started_by_lightning(variables: Variables) -> bool:
    """True in a rank that Lightning has started from another process, which is alive."""
    launcher = variables.get(LAUNCHER, "")
    if not launcher.isdigit() or int(launcher) == os.getpid():
        return False
    return is_alive(int(launcher))


def is_alive(pid: int) -> bool:
    """True if there is a process of this number on this host."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


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
