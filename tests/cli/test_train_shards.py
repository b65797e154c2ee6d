"""Training on tar shards goes on bit for bit after a stop, over the seam of epochs and with any workers."""

import io
import tarfile

import pytest
import torch

from ldm.cli import train
from ldm.data.synthetic import draw
from ldm.evaluation.report import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(3):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for i in range(9 + shard):
                image = io.BytesIO()
                shape, colour = ("circle", "square")[i % 2], (25 * i, 90 * shard, 0)
                draw(shape, colour, 16).save(image, "PNG")
                for name, data in (("png", image.getvalue()), ("txt", f"red {shape}".encode())):
                    info = tarfile.TarInfo(f"{shard}{i:04d}.{name}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return folder


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    assert train.main(["experiment=tiny", "threads=1", "trainer.max_steps=1", f"hydra.run.dir={folder}"]) == 0
    return folder / "autoencoder.safetensors"


def run(folder, shards, first_stage, *more):
    options = [f"first_stage.checkpoint={first_stage}", "data=laion", f"data.shards={shards}/*.tar"]
    small = ["data.image_size=16", "data.batch_size=8", "data.lanes=2", "data.window=5", "data.num_workers=0"]
    ends = [
        "trainer.log_every_n_steps=1",
        "data.crop=random",
        "task.cache_latents=false",
        "data.flip=0.5",
        "evaluation.retrieval=0",
    ]
    lines = ["experiment=tiny", "threads=1", f"hydra.run.dir={folder}", *options, *small, *ends, *more]
    return train.main(lines)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(workers, shards, first_stage, tmp_path):
    """30 samples in batches of 8: the epochs end at 3.75, 7.5 and 11.25 steps."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(whole, shards, first_stage, "trainer.max_steps=12") == 0
    for steps in (3, 8, 12):
        more = ["trainer.max_steps=" + str(steps), f"data.num_workers={workers}"]
        assert run(parts, shards, first_stage, *more) == 0
    states = [
        torch.load(folder / "checkpoints" / "step_00000012" / "state.ckpt", weights_only=True)["state_dict"]
        for folder in (whole, parts)
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    losses = [read_metrics(folder / "metrics.csv")["train/loss"] for folder in (whole, parts)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12
