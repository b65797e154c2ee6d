"""A config that has changed when a run is resumed: what acts, what is refused and what is written down."""

import csv
import json
import os
import shutil

import pytest
import torch
import yaml
from safetensors import safe_open

from ldm.checkpoints.store import CheckpointStore
from ldm.cli import train
from ldm.training.ownership import owned

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
SHORT = ["experiment=tiny", "threads=1", "first_stage.max_steps=2", "trainer.log_every_n_steps=1"]
SHORT += ["sampling.num_inference_steps=1", "prompts=[red circle]", "evaluation=prompts", "averages=null"]
SHORT += ["~callbacks.validation", "~callbacks.samples", "lr_schedule=constant"]
SHORT += ["lr_schedule.warmup_images=1000"]


def run(folder, *overrides):
    return train.main([*SHORT, f"hydra.run.dir={folder}", *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("changed") / "r"
    assert run(folder, "trainer.max_steps=4") == 0
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "r")


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rates(folder):
    with (folder / "metrics.csv").open() as file:
        return {int(row["step"]): float(row["lr"]) for row in csv.DictReader(file) if row["lr"]}


def state(folder):
    store = CheckpointStore(folder / "checkpoints")
    return torch.load(store.path(store.newest()) / "state.ckpt", weights_only=True)


def config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def model_config(folder):
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["config"])


def test_learning_rate_and_weight_decay_act_from_the_checkpoint_on(finished, copy, capsys, monkeypatch):
    """In an environment with what launchers of other runs have left."""
    for name in ("RANK", "SLURM_PROCID", "NODE_RANK"):
        monkeypatch.setenv(name, "1")
    changed = ["optimizer.lr=1.0e-4", "optimizer.weight_decay=0.2", "lr_schedule.warmup_images=500"]
    changed += ["trainer.precision=bf16-mixed", "trainer.accumulate_grad_batches=2"]
    assert run(copy, "trainer.max_steps=6", *changed) == 0
    said = capsys.readouterr().err
    assert "ldm-train: RANK=1, SLURM_PROCID=1 ignored: left over" in said
    assert "NODE_RANK=1 ignored: left over" in said
    (line,) = [x for x in said.splitlines() if "acting from here on" in x]
    assert "since step 4" in line
    assert "optimizer.lr from 0.003 to 0.0001" in line
    assert "trainer.max_steps from 4 to 6" in line
    assert "trainer.accumulate_grad_batches from 1 to 2" in line
    got = rates(copy)
    assert [got[step] for step in (1, 2, 3, 4)] == [rates(finished)[step] for step in (1, 2, 3, 4)]
    assert [got[step] for step in (5, 6)] == pytest.approx([1e-4 * (12 * i + 1) / 500 for i in (5, 6)])
    (group,) = state(copy)["optimizer_states"][0]["param_groups"]
    assert (group["weight_decay"], group["initial_lr"]) == (0.2, 1e-4)
    assert config(copy)["optimizer"]["lr"] == 1e-4
    (entry,) = json.loads((copy / "summary.json").read_text())["changes"]
    assert entry["step"] == 4
    assert "optimizer.weight_decay from 0.01 to 0.2" in entry["changed"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "backbone.channels=[16,16] seed=1",
            "backbone.channels: cannot change on resume from [16, 32] to [16, 16] (nor seed",
        ),
        ("resume=never", "has checkpoints and resume=never"),
        (
            "data=imagefolder data.root=/nowhere data.batch_size=12 data.image_size=16",
            "data._target_: cannot",
        ),
    ],
)
def test_what_may_not_change_is_one_line_before_anything_is_written(words, says, finished, capsys):
    before = contents(finished)
    assert run(finished, "trainer.max_steps=6", *words.split()) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line
    assert contents(finished) == before


def test_a_dry_run_says_what_would_change(finished, capsys):
    before = contents(finished)
    assert run(finished, "trainer.max_steps=6", "optimizer.lr=1.0e-4", "debug=dry") == 0
    said = capsys.readouterr().out
    assert "would resume at step 4" in said
    assert "changed since step 4, and acting from here on: optimizer.lr from 0.003 to 0.0001" in said
    assert run(finished, "trainer.max_steps=6", "seed=1", "debug=dry") == 2
    assert "seed: cannot change on resume from 0 to 1" in capsys.readouterr().err
    assert contents(finished) == before


def test_a_second_run_in_a_directory_is_refused(finished, capsys):
    before = contents(finished)
    with owned(finished):
        assert run(finished, "trainer.max_steps=6") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(
        f"ldm-train: hydra.run.dir: {finished} is in use by another run (process {os.getpid()} on "
    )
    assert contents(finished) == before


def test_a_branch_may_change_draws_and_data_but_no_net(finished, tmp_path, capsys):
    short = [f"resume={finished}/checkpoints", "trainer.max_steps=5"]
    assert run(tmp_path / "net", *short, "prediction=eps") == 2
    assert "prediction._target_: cannot change on resume" in capsys.readouterr().err
    assert not (tmp_path / "net").exists()
    branch = tmp_path / "branch"
    assert run(branch, *short, "seed=1") == 0
    said = capsys.readouterr().err
    assert "changed since step 4, and acting from here on: " in said
    assert "seed from 0 to 1" in said
    assert list(rates(branch)) == [5]


def test_steps_below_the_checkpoint_are_said_and_written_truly(copy, capsys):
    weights = state(copy)["state_dict"]
    assert run(copy, "trainer.max_steps=3", "optimizer.lr=1.0e-4", "sampling.num_inference_steps=2") == 0
    said = capsys.readouterr().err
    assert "trainer.max_steps=3 is below step 4" in said
    assert "so these change nothing: optimizer.lr from 0.003 to 0.0001" in said
    written = config(copy)
    assert (written["trainer"]["max_steps"], written["optimizer"]["lr"]) == (4, 0.003)
    assert written["lr_schedule"]["total_images"] == written["task"]["lr_schedule"]["total_images"] == 48
    assert json.loads((copy / "summary.json").read_text())["latent_diffusion"]["steps"] == 4
    assert model_config(copy)["training"]["steps"] == 4
    assert "acting from here on: sampling.num_inference_steps from 1 to 2" in said  # scores are made again
    assert model_config(copy)["sampling"]["num_inference_steps"] == 2
    assert all(torch.equal(weights[key], value) for key, value in state(copy)["state_dict"].items())
