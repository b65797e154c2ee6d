"""Each launcher's variables give rank, number of ranks and rank within the machine."""

import pytest

from ldm.utils.distributed import is_main, launched, rank_and_world, slurm_tasks

BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}
TASK = {**STEP, "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, (0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, (3, 4, 1)),
        ({**TASK, "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}, (5, 8, 2)),
        (TASK, (3, 4, 1)),
        (BATCH, (0, 1, 0)),
        ({**BATCH, "LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODE_RANK": "0"}, (1, 2, 1)),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, (1, 2, 1)),
    ],
    ids=[
        "alone",
        "torchrun",
        "torchrun_by_srun",
        "srun",
        "sbatch",
        "lightning_in_sbatch",
        "lightning_in_srun",
    ],
)
def test_launched(variables, place):
    assert launched(variables) == place


def test_a_batch_script_is_one_task():
    assert slurm_tasks(BATCH) == 1
    assert slurm_tasks(STEP) == 4


def test_without_a_process_group_the_launcher_decides_who_is_main(monkeypatch):
    assert rank_and_world() == (0, 1)
    assert is_main()
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    assert not is_main()
