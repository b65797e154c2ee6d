"""Which launcher has started the processes of a run: srun, torchrun, or Lightning itself."""

import os
from collections.abc import Mapping

from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from ldm.utils.distributed import mark_launcher, slurm_job, slurm_tasks, under_torchrun
from ldm.utils.errors import UserError


def environment(
    devices: int | str | list[int], num_nodes: int, variables: Mapping[str, str] = os.environ
) -> ClusterEnvironment | None:
    """Lightning's view of the processes; None lets it look for itself.

    Tasks of one srun are the ranks, also in an interactive allocation. In a job without srun, or with one
    task, Lightning starts the ranks, as outside of SLURM. Lightning's own requeueing saves within the
    signal's handler, where ranks that are at different places wait for each other: it is left out.

    Args:
        devices: of a node, as the trainer has them.
        num_nodes: number of nodes.
        variables: of the environment.

    Raises: ValueError if srun or torchrun has started more processes than the trainer knows of, or fewer.
    """
    check_launcher(devices, num_nodes, variables)
    mark_launcher()
    if slurm_job(variables) is None or under_torchrun(variables):
        return None
    return LightningEnvironment() if slurm_tasks(variables) == 1 else SLURMEnvironment(auto_requeue=False)


def check_launcher(
    devices: int | str | list[int], num_nodes: int, variables: Mapping[str, str] = os.environ
) -> None:
    """Checks that a launcher has started as many processes as the trainer has ranks.

    Raises: UserError if not: a rank would wait for others, or train as the only one and write nothing.
    """
    if under_torchrun(variables):
        launcher, processes = "torchrun", int(variables.get("WORLD_SIZE", 1))
    elif slurm_tasks(variables) > 1:
        launcher, processes = "srun", slurm_tasks(variables)
    else:
        return
    count = len(devices) if isinstance(devices, list) else devices
    if isinstance(count, int) and count > 0 and count * num_nodes != processes:
        raise UserError(
            f"{launcher} has started {processes} tasks for devices={count} x num_nodes={num_nodes}: "
            f"give {launcher} as many tasks as there are ranks"
        )
