import os
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from ldm.cli import jobs
from ldm.cli.words import Words

WORDS = Words("train", [], None, sweep=True)
FLAGS = Namespace(config_dir="own", config_name=None, words=WORDS)


@pytest.fixture
def hydra(tmp_path, monkeypatch):
    """The `hydra` node of a job, in `run/`; monkeypatched, so that no job need run."""
    node = {
        "mode": RunMode.RUN,
        "job": {"name": "trial"},
        "output_subdir": ".hydra",
        "run": {"dir": "runs/1"},
        "runtime": {"output_dir": str(tmp_path / "run")},
        "launcher": {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"},
        "overrides": {"task": ["seed=1"], "hydra": ["hydra.mode=MULTIRUN", "hydra.verbose=true"]},
    }
    config = OmegaConf.create(node)
    monkeypatch.setattr(HydraConfig, "get", lambda: config)
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    return config


def test_a_job_of_a_sweep_has_its_own_line_directory_and_environment(hydra, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prog", "-m", "seed=1,2"])
    hydra.mode = RunMode.MULTIRUN
    hydra.overrides.task = ["seed=1", r"init_checkpoint='runs/${seed}/it\'s'"]
    OmegaConf.set_readonly(hydra, True)
    with jobs.as_single_run(FLAGS, {"seed": 1, "init_checkpoint": "runs/1/it's"}):
        line = ["seed=1", "init_checkpoint=runs/1/it's", "hydra.verbose=true"]
        assert sys.argv == ["prog", "--config-dir", "own", *line]
        os.environ["LDM_OF_ONE_JOB"] = "1"
    assert hydra.run.dir == hydra.runtime.output_dir
    assert sys.argv == ["prog", "-m", "seed=1,2"]
    assert "LDM_OF_ONE_JOB" not in os.environ


def test_a_single_run_is_left_as_it_is(hydra, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prog", "seed=1"])
    with jobs.as_single_run(FLAGS, {}):
        assert sys.argv == ["prog", "seed=1"]
    assert hydra.run.dir == "runs/1"


def test_the_overrides_of_a_job_are_as_they_were_given(hydra, monkeypatch):
    hydra.overrides.task = [r"name='\${HOME}'", "data.seed=${seed}"]
    assert jobs.job_overrides() == [r"name='\${HOME}'", "data.seed=${seed}"]
    monkeypatch.setattr(HydraConfig, "initialized", lambda: False)
    assert jobs.job_overrides() == []


def test_other_launchers_start_jobs_elsewhere(hydra):
    assert jobs.is_in_this_process()
    hydra.launcher._target_ = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
    assert not jobs.is_in_this_process()


def test_a_dry_run_has_no_run_directory_but_knows_it():
    assert jobs.dry_overrides(["seed=1", "hydra.run.dir=a"]) == []
    none = ["hydra.run.dir=.", "hydra.output_subdir=null"]
    assert jobs.dry_overrides(["debug=dry"]) == none
    last = jobs.dry_overrides(["hydra.run.dir=a", "debug=dry", "hydra.run.dir=b=c"])
    assert last == ["paths.run=b=c", *none]


def run_directory(hydra, log=""):
    run = Path(hydra.runtime.output_dir)
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "config.yaml").write_text("seed: 1")
    (run / "trial.log").write_text(log)
    return run


def test_a_run_directory_that_holds_nothing_of_the_task_is_removed(hydra):
    run = run_directory(hydra)
    jobs.discard_empty_run()
    assert not run.exists()


@pytest.mark.parametrize("kept", ["log", "file", "sweep"])
def test_a_run_directory_that_holds_something_stays_whole(hydra, kept):
    run = run_directory(hydra, log="a line" if kept == "log" else "")
    if kept == "file":
        (run / "last.ckpt").touch()
    if kept == "sweep":
        hydra.mode = RunMode.MULTIRUN
    jobs.discard_empty_run()
    assert (run / ".hydra" / "config.yaml").exists()
    assert (run / "trial.log").exists()


def test_the_line_that_resumes_is_quoted_for_the_shell(hydra):
    hydra.overrides.task = ["seed=1", "name='a b'"]
    hydra.runtime.output_dir = "/runs/1"
    expected = "stopped; resume with: ldm-train seed=1 'name=a b' hydra.run.dir=/runs/1"
    arguments = Namespace(words=WORDS, config_dir=None, config_name=None)
    assert jobs.resume_line("train", arguments, {"seed": 1, "name": "a b"}) == expected
    arguments = Namespace(words=WORDS, config_dir="my options", config_name=None)
    expected = expected.replace("ldm-train", "ldm-train --config-dir 'my options'")
    assert jobs.resume_line("train", arguments, {"seed": 1, "name": "a b"}) == expected
