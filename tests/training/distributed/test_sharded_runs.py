"""Runs on several ranks, with copies (DDP) or sharded (FSDP2), are the run of one process."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.checkpoints import load_model
from ldm.checkpoints.store import CheckpointStore, files_of
from ldm.checkpoints.tensors import TensorFiles
from ldm.cli.convert import main as convert
from ldm.evaluation.report import read_metrics

pytestmark = [pytest.mark.dist, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
STEPS = 6
RTOL = 2e-5  # of losses: the order of sums in float32
SMALL = ["backbone.channels=[8]", "backbone.attention=[cross]", "callbacks.checkpoint.every_n_steps=100"]


@pytest.fixture(scope="module")
def train(kills, tmp_path_factory):
    """Trains: (name, trainer, world, further overrides) -> run directory."""
    folder = tmp_path_factory.mktemp("runs")
    runner = kills.Runner(folder)
    first = [
        *kills.TINY,
        *SMALL,
        "first_stage.max_steps=2",
        "trainer.max_steps=1",
        f"hydra.run.dir={folder}/first",
    ]
    runner.finish(first)
    given = [
        *kills.TINY,
        *SMALL,
        f"first_stage.checkpoint={folder}/first/autoencoder.safetensors",
        "trainer.log_every_n_steps=1",
        "trainer.precision=32-true",
        "callbacks.samples.every_n_steps=3",
        "callbacks.validation.every_n_steps=3",
        "callbacks.validation.batch_size=3",
        "evaluation=[prompts,retrieval]",
        "lr_schedule.total_images=1200",
        "evaluation.retrieval.limit=12",
    ]

    def run(name, trainer, world, *more, steps=STEPS, blow=None):
        own = [f"trainer.max_steps={steps}", f"trainer.accumulate_grad_batches={4 // world}"]
        runner.ranks([*given, *own, f"hydra.run.dir={folder / name}", *more], world, None, blow, trainer)
        return folder / name

    return run


@pytest.fixture(scope="module")
def alone(train):
    return train("alone", "cpu", 1)


@pytest.fixture(scope="module")
def sharded(train):
    """Two ranks, sharded, in one go."""
    return train("sharded", "fsdp", 2)


@pytest.fixture(scope="module")
def half(train):
    """The same until the middle."""
    return train("half", "fsdp", 2, steps=STEPS // 2)


def assert_same_run(a, b):
    """The same losses, gradient norms and validation losses within `RTOL`, and the same scores."""
    ours, theirs = (read_metrics(run / "metrics.csv") for run in (a, b))
    for name in ("train/loss", "grad_norm", "val/loss", "loss_t/00"):
        assert [step for step, _ in ours[name]] == [step for step, _ in theirs[name]]
        assert [x for _, x in ours[name]] == pytest.approx([x for _, x in theirs[name]], rel=RTOL)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (a, b)]
    for name in ("retrieval", "latent_diffusion"):
        assert summaries[0][name] == summaries[1][name]
    for name in ("prompts.png", "all.png", "step_00000006.png"):
        pixels = [np.asarray(Image.open(run / "samples" / name), dtype=int) for run in (a, b)]
        assert abs(pixels[0] - pixels[1]).max() <= 1
        assert pixels[0].std() > 1


def tensors(run):
    """All tensors of a run's last checkpoint."""
    with TensorFiles(files_of(CheckpointStore(run / "checkpoints").path(STEPS))) as files:
        return {name: files.get(name) for name in files.shapes}


def test_two_sharded_ranks_train_what_one_process_trains(alone, sharded):
    assert_same_run(alone, sharded)


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "world"), [("ddp", 2), ("ddp", 4), ("fsdp", 4)])
def test_any_ranks_train_what_one_process_trains(train, alone, trainer, world):
    assert_same_run(alone, train(f"{trainer}{world}", trainer, world))


def test_a_sharded_run_goes_on_bit_for_bit(train, sharded, half, tmp_path):
    """Nets, EMA, optimizer, curves and pictures; each rank had written a part that is not the whole."""
    names = {path.name for path in (half / "checkpoints" / "step_00000003").iterdir()}
    manifest = json.loads((half / "checkpoints" / "step_00000003" / "manifest.json").read_text())
    assert set(manifest["files"]) == names - {"manifest.json"}
    assert len([name for name in names if name.startswith("shard-")]) == 2
    shutil.copytree(half, tmp_path / "again")
    left = tmp_path / "again" / "checkpoints" / f".shards_{STEPS:08d}"  # by a run of more ranks, killed here
    left.mkdir()
    (left / "shard-00003-model-00001-of-00001.safetensors").write_text("torn")
    run = train(tmp_path / "again", "fsdp", 2)
    ours, theirs = tensors(sharded), tensors(run)
    assert ours.keys() == theirs.keys()
    assert {name.partition(".")[0] for name in ours} == {"nets", "ema", "powers", "optimizer_0"}
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    curves = [read_metrics(folder / "metrics.csv")["train/loss"] for folder in (sharded, run)]
    assert curves[0] == curves[1]
    pictures = [(folder / "samples" / "step_00000006.png").read_bytes() for folder in (sharded, run)]
    assert pictures[0] == pictures[1]


def test_a_sharded_run_goes_on_on_other_ranks_with_copies(train, alone, half, tmp_path):
    """From two ranks with one copy to two copies of two ranks each, which recompute activations."""
    shutil.copytree(half, tmp_path / "wider")
    more = ["trainer.strategy.copies=2", "task.activation_checkpointing=true"]
    assert_same_run(alone, train(tmp_path / "wider", "fsdp", 4, *more))


@pytest.mark.slow
def test_a_sharded_run_killed_at_any_time_goes_on_bit_for_bit(kills, train, sharded):
    """Also within a save, which every step has."""
    rng = random.Random(0)
    often = "callbacks.checkpoint.every_n_steps=1"
    for _ in range(8):
        blow = kills.Blow(where="training", amount=rng.uniform(0.5, 3.0))
        train("killed", "fsdp", 2, often, blow=blow)
    run = train("killed", "fsdp", 2, often)
    ours, theirs = tensors(sharded), tensors(run)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert (
        read_metrics(sharded / "metrics.csv")["train/loss"] == read_metrics(run / "metrics.csv")["train/loss"]
    )


@pytest.mark.slow
def test_a_run_in_one_piece_goes_on_sharded(train, alone, tmp_path):
    train(tmp_path / "begun", "cpu", 1, steps=STEPS // 2)
    assert_same_run(alone, train(tmp_path / "begun", "fsdp", 2))


def test_a_sharded_run_goes_on_in_one_process_only_in_words(train, half, tmp_path):
    shutil.copytree(half, tmp_path / "narrow")
    with pytest.raises(RuntimeError, match=r"resume: .*step_00000003 is sharded: go on with trainer=fsdp"):
        train(tmp_path / "narrow", "cpu", 1)


def test_convert_makes_the_runs_own_model_of_a_sharded_checkpoint(sharded, tmp_path):
    """Without a process group, and without unpickling."""
    target = tmp_path / "model.safetensors"
    step = sharded / "checkpoints" / f"step_{STEPS:08d}"
    assert convert([f"input={step}", f"output={target}", "dtype=fp16"]) == 0
    ours, theirs = load_model(target, dtype=None), load_model(sharded / "model.safetensors", dtype=None)
    assert ours.config == theirs.config
    for name, net in theirs.components.items():
        if name != "autoencoder":
            state = ours.components[name].state_dict()
            assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())


def test_a_missing_shard_is_named(sharded, tmp_path, capsys):
    step = tmp_path / "run" / "checkpoints" / f"step_{STEPS:08d}"
    shutil.copytree(sharded / "checkpoints" / step.name, step)
    (step / "shard-00002-model-00001-of-00001.safetensors").unlink()
    assert convert([f"input={step}", f"output={tmp_path}/model.safetensors"]) == 2
    assert "shard-00002" in capsys.readouterr().err


@pytest.mark.slow
def test_the_first_stage_of_a_sharded_run_has_a_copy_on_each_rank(train):
    own = ["first_stage.checkpoint=null", "first_stage.max_steps=4"]
    runs = [train(f"{name}_stages", name, world, *own, steps=2) for name, world in (("cpu", 1), ("fsdp", 2))]
    curves = [read_metrics(run / "autoencoder" / "metrics.csv")["train/loss"] for run in runs]
    assert [x for _, x in curves[0]] == pytest.approx([x for _, x in curves[1]], rel=RTOL)
    assert len(curves[0]) == 4
    assert (runs[1] / "autoencoder" / "checkpoints" / "step_00000004" / "state.ckpt").is_file()
