"""Each launcher's variables give rank, number of ranks and rank within the machine."""

import os

import pytest

from ldm.utils.distributed import (
    drop_leftovers,
    is_main,
    launched,
    leftovers,
    mark_launcher,
    rank_and_world,
    slurm_tasks,
)

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


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "elsewhere"}


@pytest.mark.parametrize(
    ("variables", "machines", "names"),
    [
        ({}, 1, ""),
        (TORCHRUN, None, "RANK WORLD_SIZE LOCAL_RANK"),
        (TORCHRUN, 1, "RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR"),
        (TORCHRUN, 2, "RANK WORLD_SIZE LOCAL_RANK"),  # machines that are started by hand
        ({**TORCHRUN, "TORCHELASTIC_RUN_ID": "x"}, 1, ""),
        ({"LOCAL_RANK": "0"}, None, "LOCAL_RANK"),
        ({"LOCAL_RANK": "1", "LDM_LAUNCHER": "1"}, 1, ""),
        ({"LOCAL_RANK": "1", "LDM_LAUNCHER": str(os.getpid())}, 1, "LOCAL_RANK"),  # of a run before, here
        ({"LOCAL_RANK": "1", "LDM_LAUNCHER": str(2**22 + 1)}, 1, "LOCAL_RANK"),  # of one that has ended
        ({**BATCH, "SLURM_PROCID": "1"}, None, "SLURM_PROCID SLURM_LOCALID"),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}, None, "SLURM_PROCID SLURM_NTASKS"),
        (TASK, None, ""),
    ],
)
def test_variables_that_no_launcher_has_set_are_left_over(variables, machines, names):
    assert list(leftovers(variables, machines)) == names.split()


def test_leftovers_are_dropped_with_a_line(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    assert launched()[0] == 1
    assert drop_leftovers().startswith("RANK=1, WORLD_SIZE=2 ignored: left over in the environment")
    assert launched() == (0, 1, 0)
    assert "SLURM_PROCID" not in os.environ
    assert os.environ["SLURM_JOB_ID"] == "7"
    assert drop_leftovers() is None


def test_the_mark_of_a_launcher_is_inherited(monkeypatch):
    monkeypatch.delenv("LDM_LAUNCHER", raising=False)
    mark_launcher()
    assert os.environ["LDM_LAUNCHER"] == str(os.getpid())
    monkeypatch.setenv("LDM_LAUNCHER", "1")
    mark_launcher()
    assert os.environ["LDM_LAUNCHER"] == "1"
