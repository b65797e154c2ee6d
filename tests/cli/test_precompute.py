"""ldm-data precompute and training on what it made, from the command line."""

import io
import shlex
import tarfile
from pathlib import Path

import pytest
import torch

from ldm.checkpoints.native import save_model
from ldm.cli import data, train
from ldm.data.latents.manifest import read_manifest
from ldm.data.synthetic import draw
from ldm.evaluation.report import read_metrics
from ldm.models.vae import AutoencoderKL

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")

AUTOENCODER = {
    "in_channels": 3,
    "latent_channels": 8,
    "channels": [8, 16, 16],
    "layers_per_block": 1,
    "norm_groups": 4,
    "scaling_factor": 0.5,
}
SMALL = ["data.image_size=16", "data.num_workers=0", "data.lanes=2", "data.window=5"]


def model(path, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = AutoencoderKL(**AUTOENCODER)
    node = {"_target_": "ldm.models.vae.AutoencoderKL", **AUTOENCODER}
    save_model(path, {"autoencoder": net}, {"autoencoder": node})


@pytest.fixture(scope="module")
def place_of_all(tmp_path_factory):
    """A folder with image shards, two models and the latents of the first."""
    folder = tmp_path_factory.mktemp("all")
    (folder / "images").mkdir()
    for shard in range(2):
        with tarfile.open(folder / "images" / f"{shard}.tar", "w") as tar:
            for i in range(9):
                image = io.BytesIO()
                shape, colour = ("circle", "square")[i % 2], (25 * i, 90 * shard, 0)
                draw(shape, colour, 16).save(image, "PNG")
                for name, content in (("png", image.getvalue()), ("txt", f"red {shape}".encode())):
                    info = tarfile.TarInfo(f"{shard}{i:04d}.{name}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    for seed in (0, 1):
        model(folder / f"model{seed}.safetensors", seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert encode("latents", "dtype=fp32") == 0
    return folder


def encode(folder, *more):
    images = ["data.shards=images/*.tar", "checkpoint=model0.safetensors", f"output={folder}"]
    return data.main(["precompute", *images, "data.image_size=16", "data.num_workers=0", *more])


def run(folder, *more, checkpoint="model0.safetensors"):
    short = ["trainer.max_steps=5", "trainer.log_every_n_steps=1", "evaluation=prompts"]
    tiny = ["experiment=tiny", "threads=1", f"first_stage.checkpoint={checkpoint}", "data.batch_size=8"]
    callbacks = ["callbacks.validation.draws=64", "sampling.num_inference_steps=2"]
    return train.main([*tiny, *SMALL, *short, *callbacks, f"hydra.run.dir={folder}", *more])


LATENTS = ["data=latents", "data.folder=latents"]


IMAGES = ["data=laion", "data.shards=images/*.tar", "task.cache_latents=false"]
SMALL_CLIP = ["width=32", "layers=1", "num_heads=2", "pretrained=null"]
CLIP = ["text_encoder=clip", *(f"text_encoder.{setting}" for setting in SMALL_CLIP)]
NOT_TINY = ["text_encoder.max_length=77", "text_encoder.vocabulary_size=49408", "~text_encoder.token_dim"]


@pytest.mark.parametrize("text", ["captions", "text embeddings"])
def test_training_on_latents_logs_the_losses_of_training_on_images(
    text, place_of_all, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(place_of_all)
    more, folder = [], "latents"
    if text == "text embeddings":
        folder = str(tmp_path / "encoded")
        assert encode(folder, "dtype=fp32", "seed=3", *CLIP) == 0
        assert "18 latents with text embeddings" in capsys.readouterr().out
        more = ["seed=3", *CLIP, "backbone.pooled_dim=null", *NOT_TINY]
    assert run(tmp_path / "images", *IMAGES, *more) == 0
    assert run(tmp_path / "latents", "data=latents", f"data.folder={folder}", *more) == 0
    theirs, mine = (read_metrics(tmp_path / name / "metrics.csv") for name in ("images", "latents"))
    for name in ("train/loss", "val/loss", "grad_norm"):
        assert [step for step, _ in mine[name]] == [step for step, _ in theirs[name]]
        assert [y for _, y in mine[name]] == pytest.approx([y for _, y in theirs[name]], rel=1e-4)
    assert (tmp_path / "latents" / "report.html").is_file()
    assert (tmp_path / "latents" / "samples" / "prompts.png").is_file()


def test_a_run_on_latents_that_was_stopped_ends_as_one_that_was_not(place_of_all, tmp_path, monkeypatch):
    """18 samples in batches of 8: an epoch ends at 2.25 steps."""
    monkeypatch.chdir(place_of_all)
    assert run(tmp_path / "whole", *LATENTS) == 0
    for steps, workers in ((2, 0), (5, 2)):
        stop = [f"trainer.max_steps={steps}", "lr_schedule.total_images=40"]
        assert run(tmp_path / "parts", *LATENTS, *stop, f"data.num_workers={workers}") == 0
    path = "checkpoints/step_00000005/state.ckpt"
    states = [torch.load(tmp_path / name / path, weights_only=True) for name in ("whole", "parts")]
    whole, parts = (state["state_dict"] for state in states)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_another_autoencoder_is_one_line_and_status_2(place_of_all, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place_of_all)
    assert run(tmp_path / "run", *LATENTS, checkpoint="model1.safetensors") == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "are stale: made by another autoencoder, with weights" in last
    assert "ldm-data precompute" in last
    assert not list((tmp_path / "run").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["data.image_size=32"], "made with image_size 16, not 32"),
        (["data.embeddings=true"], "captions only"),
        (["data.folder=images"], "no latents in"),
        (["first_stage.checkpoint=null"], "first_stage.checkpoint: "),
        (["data@first_stage.data=latents"], "first_stage.data"),
    ],
)
def test_latents_that_do_not_fit_are_refused(arguments, says, place_of_all, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place_of_all)
    assert run(tmp_path / "run", *LATENTS, *arguments) == 2
    assert says in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["checkpoint=null"], "checkpoint: needs a model that has the autoencoder"),
        (["output=null"], "output: needs a folder"),
        (["output=s3://there"], "output: must be a local folder"),
        (["checkpoint=nothing.safetensors"], "no model file at nothing.safetensors"),
        (["checkpoint=model1.safetensors"], "made with another autoencoder"),
        (["data.image_size=8"], "made with another image_size"),
        (["dtype=fp64"], "dtype: must be one of"),
        (["precision=fp16"], "precision: must be"),
        (["batch_size=0"], "batch_size: must be at least 1"),
        (["data.crop=random"], "action: latents cannot be stored where data.crop=random changes an image"),
        (["data.flip=0.5"], "action: latents cannot be stored where data.flip=0.5 changes an image"),
        (["data=emoji"], "data: only tar shards are encoded ahead of time"),
        (["text_encoder=tiny"], "text_encoder is trained with the backbone"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments, says, place_of_all, monkeypatch, capsys):
    monkeypatch.chdir(place_of_all)
    more = [] if "data=emoji" not in arguments else ["~data.shards"]
    given = [a for a in arguments if a not in more]
    images = ["data.shards=images/*.tar"] if not more else []
    start = ["precompute", *images, "checkpoint=model0.safetensors", "output=latents", "dtype=fp32"]
    keys = {a.split("=")[0] for a in given}
    assert data.main([*[a for a in start if a.split("=")[0] not in keys], "data.num_workers=0", *given]) == 2
    assert says in capsys.readouterr().err.strip().splitlines()[-1]


def test_what_latents_are_for_is_said_and_measured(place_of_all, monkeypatch, capsys):
    monkeypatch.chdir(place_of_all)
    assert encode("latents", "dtype=fp32") == 0
    out = capsys.readouterr().out
    assert "0 of 2 shards made here" in out
    assert "18 latents with captions, complete" in out
    size = "data.image_size=16"
    assert f"data=latents data.folder=latents {size} first_stage.checkpoint=model0.safetensors" in out
    small = [*LATENTS, "data.image_size=16", "data.batch_size=4"]
    assert data.main(["bench", *small, "seconds=0.01"]) == 0
    assert "recommended: data.num_workers=" in capsys.readouterr().out
    assert data.main(["index", *small]) == 0
    assert "18 samples in 2 shards" in capsys.readouterr().out
    assert data.main(small) == 2
    assert "latents hold no images to show" in capsys.readouterr().err


def test_latents_of_many_shapes_are_trained_on_as_is_said(place_of_all, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place_of_all)
    chosen = ["data/buckets=aspect", "data.buckets.area=1024", "data.buckets.multiple=8"]
    assert encode(tmp_path / "many", *chosen) == 0
    (said,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("train on them"))
    options = shlex.split(said.partition(": ")[2])
    assert "data.buckets=[[24,40],[32,32],[40,24]]" in options
    assert run(tmp_path / "run", *options, "trainer.max_steps=1") == 0
    assert run(tmp_path / "other", *options, "data.buckets=[[32,32]]") == 2
    assert "not [[32, 32]]: set it so" in capsys.readouterr().err


def test_ranks_of_launchers_share_the_shards(place_of_all, monkeypatch, capsys):
    monkeypatch.chdir(place_of_all)
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert encode("by_one_of_four") == 0
    assert "2 of 2 shards made here" in capsys.readouterr().out
    assert read_manifest("by_one_of_four").dtype == "fp16"
    assert len(list(Path("by_one_of_four").glob("*.tar"))) == 2


def test_a_checkpoint_of_stable_diffusion_gives_both_nets(
    place_of_all, stable_diffusion, tmp_path, monkeypatch, capsys
):
    """Its text encoder is frozen: embeddings are kept, and a run with the same text encoder takes them."""
    monkeypatch.chdir(place_of_all)
    loaded = stable_diffusion("sd1", 0)
    save_model(tmp_path / "sd.safetensors", loaded.components, loaded.config)
    assert encode(tmp_path / "latents", f"checkpoint={tmp_path}/sd.safetensors") == 0
    assert "18 latents with text embeddings, complete" in capsys.readouterr().out
    from ldm.data.latents.datamodule import LatentData

    found = LatentData(folder=str(tmp_path / "latents"), batch_size=2, image_size=16)
    found.verify(loaded.components["autoencoder"], loaded.components["text_encoder"])
    assert found.batch(0)["tokens"].dtype == torch.float16
