"""Which launcher has started the processes of a run: srun, torchrun, or Lightning itself."""

import os
from collections.abc import Mapping

from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from ldm.utils.distributed import slurm_job, slurm_tasks, under_torchrun
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

    Raises: ValueError if srun has started more tasks than the trainer knows of, or fewer.
    """
    if slurm_job(variables) is None or under_torchrun(variables):
        return None
    tasks = slurm_tasks(variables)
    if tasks == 1:
        return LightningEnvironment()
    if isinstance(devices, int) and devices > 0 and devices * num_nodes != tasks:
        raise UserError(
            f"srun has started {tasks} tasks for devices={devices} x num_nodes={num_nodes}: "
            "give srun as many tasks as there are ranks"
        )
    return SLURMEnvironment(auto_requeue=False)
