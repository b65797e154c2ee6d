"""`experiment=tiny` from end to end: files, sampling, stopping and going on, mistakes."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import ldm
from ldm.checkpoints.store import CheckpointStore
from ldm.cli import sample, train
from ldm.evaluation.report import read_metrics
from ldm.guidance import APG

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
TINY = ["experiment=tiny", "threads=1"]
DECAY = "lr_schedule.total_images=1200"  # that of the whole run, for a part of it


def run(folder, *overrides):
    return train.main([*TINY, f"hydra.run.dir={folder}", *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "run"
    assert run(folder) == 0
    return folder


def checkpoint(folder):
    store = CheckpointStore(Path(folder) / "checkpoints")
    return torch.load(store.path(store.newest()) / "state.ckpt", weights_only=True)


def test_a_run_leaves_everything_that_the_readme_names(finished):
    for name in [
        "report.html",
        "config.yaml",
        "metrics.csv",
        "summary.json",
        "autoencoder.safetensors",
        "model.safetensors",
        "reconstructions.png",
        "samples/prompts.png",
        "samples/all.png",
        "checkpoints/step_00000100/state.ckpt",
        "checkpoints/step_00000100/manifest.json",
        "ema/images_000000001200.safetensors",
        "autoencoder/metrics.csv",
        "autoencoder/checkpoints/step_00000040/state.ckpt",
    ]:
        assert (finished / name).is_file(), name
    assert not list(finished.rglob("*.tmp"))


def test_checkpoints_hold_plain_types_and_no_frozen_net(finished):
    state = checkpoint(finished)
    assert state["global_step"] == 100
    assert {key.split(".")[0] for key in state["state_dict"]} == {"nets", "ema", "powers"}


def test_it_learned_the_shapes(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["retrieval"]["n"] == 12
    assert summary["retrieval"]["top1"] >= 0.5  # chance is 1 in 12
    losses = [y for _, y in read_metrics(finished / "metrics.csv")["train/loss"]]
    assert losses[-1] < 0.6 * losses[0]


def test_steps_are_logged_once_each_in_order(finished):
    steps = [x for x, _ in read_metrics(finished / "metrics.csv")["train/loss"]]
    assert steps == [float(s) for s in range(10, 101, 10)]


def test_the_model_samples_from_the_command_line_with_its_recipe(finished, tmp_path, capsys):
    output = tmp_path / "a.png"
    command = [
        f"checkpoint={finished}/model.safetensors",
        "prompt=red circle",
        f"output={output}",
        "threads=1",
    ]
    assert sample.main(command) == 0
    recipe = json.loads(Image.open(output).text["ldm"])
    assert recipe["prompt"] == "red circle"
    first = output.read_bytes()
    assert sample.main(command) == 2
    assert "overwrite=true" in capsys.readouterr().err
    assert sample.main([*command, "overwrite=true"]) == 0
    assert output.read_bytes() == first


@pytest.mark.parametrize("ema", [True, False])
def test_a_training_checkpoint_samples_like_the_model(ema, finished):
    """The EMA weights are those of the model's file, in float16 there; the others are other ones."""
    from ldm import Text2ImagePipeline

    model = Text2ImagePipeline.from_pretrained(finished / "model.safetensors")
    path = finished / "checkpoints"
    training = Text2ImagePipeline.from_pretrained(path, ema=ema)
    assert training.config == model.config
    for name in ("backbone", "text_encoder", "autoencoder"):
        pairs = zip(getattr(training, name).parameters(), getattr(model, name).parameters(), strict=True)
        same = all(torch.equal(a.half(), b.half()) for a, b in pairs)
        assert same == (ema or name == "autoencoder")


def test_grids_of_training_and_pipeline_show_the_same_images(finished):
    """The pipeline reads float16 weights: equal up to their rounding."""
    from ldm import Text2ImagePipeline

    pipeline = Text2ImagePipeline.from_pretrained(finished / "model.safetensors")
    images = pipeline(["red circle", "blue square"], output="tensor")
    assert isinstance(images, torch.Tensor)
    assert images.shape == (2, 3, 16, 16)
    grid = torch.frombuffer(
        bytearray(Image.open(finished / "samples" / "prompts.png").tobytes()), dtype=torch.uint8
    )
    grid = grid.view(20, -1, 3).permute(2, 0, 1)
    red = grid[:, 2:18, 2:18].float() / 127.5 - 1.0
    assert (images[0] - red).abs().mean() < 0.35  # another seed's noise, the same circle


def test_a_stopped_run_goes_on_bit_for_bit(finished, tmp_path):
    folder = tmp_path / "run"
    assert run(folder, "trainer.max_steps=37", DECAY, "callbacks.checkpoint.every_n_steps=1000") == 0
    assert checkpoint(folder)["global_step"] == 37
    for name in ("model.safetensors", "report.html"):
        (folder / name).unlink()
    assert run(folder) == 0
    ours, theirs = checkpoint(folder), checkpoint(finished)
    assert ours["global_step"] == theirs["global_step"] == 100
    for key, value in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][key], value), key
    for a, b in zip(
        ours["optimizer_states"][0]["state"].values(),
        theirs["optimizer_states"][0]["state"].values(),
        strict=True,
    ):
        assert torch.equal(a["exp_avg_sq"], b["exp_avg_sq"])
    last = [read_metrics(f / "metrics.csv")["train/loss"][-5:] for f in (folder, finished)]
    assert last[0] == last[1]


def test_a_damaged_checkpoint_is_passed_over(finished, tmp_path, caplog):
    folder, whole = tmp_path / "run", tmp_path / "whole"
    given = [f"first_stage.checkpoint={finished}/autoencoder.safetensors", "evaluation=prompts", DECAY]
    assert run(whole, *given, "trainer.max_steps=9") == 0
    assert run(folder, *given, "trainer.max_steps=6", "callbacks.checkpoint.every_n_steps=3") == 0
    file = folder / "checkpoints" / "step_00000006" / "state.ckpt"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert run(folder, *given, "trainer.max_steps=9") == 0
    said = (folder / "train.log").read_text()
    assert "step_00000006 is passed over: state.ckpt is damaged" in said
    assert "going on at step 3" in said
    ours, theirs = checkpoint(folder)["state_dict"], checkpoint(whole)["state_dict"]
    assert checkpoint(folder)["global_step"] == 9
    assert [key for key, value in theirs.items() if not torch.equal(ours[key], value)] == []


def test_going_back_in_a_run_that_went_further_is_refused(finished, tmp_path, capsys):
    folder = tmp_path / "run"
    given = [f"first_stage.checkpoint={finished}/autoencoder.safetensors", "evaluation=prompts"]
    assert run(folder, *given, "trainer.max_steps=6", "callbacks.checkpoint.every_n_steps=3") == 0
    first = folder / "checkpoints" / "step_00000003"
    assert run(folder, *given, f"resume={first}") == 2
    assert "goes on to step 6: choose another run directory" in capsys.readouterr().err
    more = ["evaluation=prompts", "trainer.max_steps=6"]  # the branch takes the first stage with it
    assert run(tmp_path / "branch", f"resume={first}", *more) == 0
    ours, theirs = checkpoint(folder)["state_dict"], checkpoint(tmp_path / "branch")["state_dict"]
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert run(folder, *given, "resume=never") == 2
    assert "has checkpoints and resume=never" in capsys.readouterr().err


def test_two_processes_train_as_one_and_wandb_has_a_run_for_each_stage(finished, warm_python, tmp_path):
    folder = tmp_path / "run"
    options = ["trainer=ddp", "trainer.accelerator=cpu", "logger=wandb", "first_stage.max_steps=40"]
    options += ["trainer.max_steps=20", DECAY, "evaluation.retrieval.limit=1", f"hydra.run.dir={folder}"]
    done = subprocess.run(
        [warm_python, "-m", "ldm.cli.train", *TINY, *options],
        env=os.environ | {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") + done.stderr.count("report: ") == 1
    for stage in ("autoencoder", "."):
        ours, theirs = (read_metrics(f / stage / "metrics.csv")["train/loss"][:2] for f in (folder, finished))
        assert [step for step, _ in ours] == [10, 20]
        assert dict(ours) == pytest.approx(dict(theirs), rel=1e-3)
    ours, theirs = (load_file(f / "ema" / "images_000000000240.safetensors") for f in (folder, finished))
    for name, x in theirs.items():
        torch.testing.assert_close(ours[name], x, rtol=1e-2, atol=2e-3)
    assert len(list(folder.rglob("offline-run-*"))) == 2
    assert list((folder / "wandb").glob("offline-run-*"))


def test_an_autoencoder_that_was_trained_is_taken_over(finished, tmp_path):
    folder = tmp_path / "run"
    given = f"first_stage.checkpoint={finished}/autoencoder.safetensors"
    assert run(folder, given, "trainer.max_steps=2", "evaluation.retrieval.limit=1") == 0
    assert not (folder / "autoencoder").exists()
    states = [load_file(path / "autoencoder.safetensors") for path in (finished, folder)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer.lrr=1", "did you mean"),
        ("+task.caption_dropuot=0.1", "did you mean 'caption_dropout'"),
        ("+backbone.chanels=[8]", "did you mean 'channels'"),
        ("task._target_=os.system", "not allowed"),
        ("backbone.in_channels=5", "autoencoder.latent_channels"),
        ("backbone.context_dim=48", "text_encoder"),
        ("task.caption_dropout=0", "caption_dropout"),
        ("text_encoder.vocabulary_size=4", "got 4; null has room for all"),
        ("data=nothing", "data"),
        ("task.power_ema=[0.5]", "sigma_rel must be in (0, 0.2887), got 0.5"),
        ("task.ema_images=0", "ema_images: must be at least 1 image, got 0"),
        ("data.batch_size=many", "many"),
        ("resume=/no/such.ckpt", "no checkpoint at /no/such.ckpt"),
        ("guidance=autoguidance", "weak_checkpoint: guidance Autoguidance needs"),
        ("timesteps=explicit", "sampling.timesteps: give either times or sigmas"),
        ("sampling.num_inference_steps=2000", "num_inference_steps"),
        ("schedule=flow prediction=eps", "prediction"),
        ("first_stage.checkpoint=/no/such.safetensors", "such.safetensors"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(override, says, tmp_path, capsys):
    assert run(tmp_path / "run", *override.split()) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert says in lines[0]
    assert not (tmp_path / "run" / "autoencoder").exists()  # found before anything is trained


def test_sample_grids_take_rules_and_weaker_nets(finished, tmp_path):
    weak = finished / "checkpoints"
    short = [
        "trainer.max_steps=2",
        "evaluation=prompts",
        f"first_stage.checkpoint={finished / 'autoencoder.safetensors'}",
    ]
    for name, *more in (("apg",), ("interval",), ("autoguidance", f"weak_checkpoint={weak}")):
        assert run(tmp_path / name, f"guidance={name}", "sampling.guidance_scale=3", *short, *more) == 0
        assert (tmp_path / name / "samples" / "prompts.png").is_file()
    pipeline = ldm.Text2ImagePipeline.from_pretrained(tmp_path / "apg" / "model.safetensors")
    assert pipeline.sampler.defaults["guidance"] == APG()


def test_eps_with_zero_terminal_snr_is_refused(tmp_path, capsys):
    assert run(tmp_path / "run", "schedule=zero_snr", "prediction=eps") == 2
    assert "prediction" in capsys.readouterr().err
