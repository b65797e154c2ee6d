"""Sweeps as jobs: each of two nodes, through Hydra's launcher for submitit (pip install ldm[slurm])."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.slurm.conftest import TINY

from ldm.evaluation.report import read_metrics

pytestmark = pytest.mark.slurm


def test_a_sweep_is_jobs_with_a_run_directory_each(cluster, autoencoder, tmp_path):
    pytest.importorskip(
        "hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher is not there"
    )
    launcher = ["nodes=2", "tasks_per_node=1", "cpus_per_task=1", "mem_gb=1", "timeout_min=5"]
    argv = [str(Path(sys.executable).parent / "ldm-train"), "--multirun", "hydra/launcher=submitit_slurm"]
    argv += [f"hydra.launcher.{option}" for option in launcher]
    argv += [*TINY, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2"]
    argv += ["trainer.max_steps=2", f"first_stage.checkpoint={autoencoder}", "seed=3,4"]
    environment = {**os.environ, "LDM_RUNS": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = sorted(path.parent for path in tmp_path.glob("tiny/*/*/model.safetensors"))
    assert sorted(run.name for run in runs) == ["0", "1"]
    curves = [read_metrics(run / "metrics.csv")["train/loss"] for run in runs]
    assert [[step for step, _ in curve] for curve in curves] == [[1.0, 2.0]] * 2
    assert curves[0] != curves[1]
