"""Who has started the ranks: srun, in a job or an interactive allocation, or Lightning itself."""

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from ldm.training.distributed.environment import check_launcher, environment

JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}
STEP = {**JOB, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}


@pytest.mark.parametrize("name", ["ldm", "interactive", "bash"])
def test_tasks_of_srun_are_the_ranks_and_lightning_requeues_nothing(name):
    found = environment(2, 2, {**STEP, "SLURM_JOB_NAME": name})
    assert isinstance(found, SLURMEnvironment)
    assert found.auto_requeue is False


def test_without_srun_or_in_a_shell_of_srun_the_ranks_are_started_here():
    assert isinstance(environment(2, 1, JOB), LightningEnvironment)
    assert isinstance(environment(2, 1, {**STEP, "SLURM_STEP_NUM_TASKS": "1"}), LightningEnvironment)


@pytest.mark.parametrize("variables", [{}, {**STEP, "TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"}])
def test_outside_of_slurm_and_under_torchrun_lightning_looks_for_itself(variables):
    assert environment(2, 1, variables) is None


def test_tasks_that_are_not_the_ranks_are_refused():
    with pytest.raises(ValueError, match=r"4 tasks for devices=1 x num_nodes=1: give srun"):
        environment(1, 1, STEP)


def test_processes_of_torchrun_that_are_not_the_ranks_are_refused():
    variables = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2"}
    with pytest.raises(ValueError, match=r"torchrun has started 2 tasks for devices=1 x num_nodes=1"):
        check_launcher(1, 1, variables)
    check_launcher(2, 1, variables)
    check_launcher([0, 1], 1, variables)
    check_launcher("auto", 1, variables)
