"""Training on tar shards goes on bit for bit after a stop, over the seam of epochs and with any workers."""

import io
import json
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
    short = ["first_stage.max_steps=2", "trainer.max_steps=1", "evaluation=prompts"]
    assert train.main(["experiment=tiny", "threads=1", *short, f"hydra.run.dir={folder}"]) == 0
    return folder / "autoencoder.safetensors"


def run(folder, shards, first_stage, *more):
    options = [f"first_stage.checkpoint={first_stage}", "data=laion", f"data.shards={shards}/*.tar"]
    small = ["data.image_size=16", "data.batch_size=8", "data.lanes=2", "data.window=5", "data.num_workers=0"]
    ends = [
        "trainer.log_every_n_steps=1",
        "data.crop=random",
        "task.cache_latents=false",
        "data.flip=0.5",
        "evaluation=prompts",
        "sampling.num_inference_steps=1",
        "backbone.channels=[8]",
        "backbone.attention=[cross]",
    ]
    lines = ["experiment=tiny", "threads=1", f"hydra.run.dir={folder}", *options, *small, *ends, *more]
    return train.main(lines)


@pytest.fixture(scope="module")
def whole(shards, first_stage, tmp_path_factory):
    """A run of 12 steps in one go."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder, shards, first_stage, "trainer.max_steps=12") == 0
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(workers, whole, shards, first_stage, tmp_path):
    """30 samples in batches of 8: the epochs end at 3.75, 7.5 and 11.25 steps."""
    parts = tmp_path / "parts"
    for steps in (3, 8, 12):
        more = [f"trainer.max_steps={steps}", "lr_schedule.total_images=96", f"data.num_workers={workers}"]
        assert run(parts, shards, first_stage, *more) == 0
    states = [
        torch.load(folder / "checkpoints" / "step_00000012" / "state.ckpt", weights_only=True)["state_dict"]
        for folder in (whole, parts)
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    losses = [read_metrics(folder / "metrics.csv")["train/loss"] for folder in (whole, parts)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


@pytest.fixture(scope="module")
def spoiled(shards, tmp_path_factory):
    """The same shards, where one sample in ten has no caption."""
    folder = tmp_path_factory.mktemp("spoiled")
    for path in shards.glob("*.tar"):
        with tarfile.open(path) as old, tarfile.open(folder / path.name, "w") as new:
            for member in old.getmembers():
                if not member.name.endswith("5.txt"):
                    new.addfile(member, old.extractfile(member))
    return folder


def test_bad_samples_are_told_in_the_run(spoiled, first_stage, tmp_path):
    assert run(tmp_path, spoiled, first_stage, "trainer.max_steps=5", "data.max_bad_fraction=0.5") == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    assert summary["bad_samples"] == {"no caption": 3}
    assert sorted(line["shard"].rpartition("/")[2] for line in lines) == ["0.tar", "1.tar", "2.tar"]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_samples_end_the_run_in_one_line(workers, spoiled, first_stage, tmp_path, capsys):
    more = [f"data.num_workers={workers}", "data.batch_size=64", "trainer.max_steps=20"]
    assert run(tmp_path / "run", spoiled, first_stage, *more) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ldm-train: ")]
    assert "samples cannot be used, and max_bad_fraction is 0.05: {'no caption': " in line
