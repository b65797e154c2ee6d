"""Training on buckets: batches of many shapes, a stopped run goes on bit for bit."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ldm.cli import train
from ldm.data.shards.writer import encoded, write_shards
from ldm.evaluation.report import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
SIZES = [(16, 40), (40, 16), (24, 24)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("buckets") / "shards"
    samples = (
        encoded(Image.new("RGB", SIZES[i % 3], (10 * i, 0, 90)), f"red {('circle', 'square')[i % 2]}")
        for i in range(22)
    )
    write_shards(samples, folder, per_shard=8)
    return folder


def run(folder, shards, steps, *more):
    small = ["experiment=tiny", "threads=1", "trainer.log_every_n_steps=1", "evaluation=prompts"]
    small += ["lr_schedule.total_images=1200"]  # the same schedule however long the run
    first = ["first_stage.max_steps=1", "first_stage.data.batch_size=4", "sampling.num_inference_steps=1"]
    data = ["data=laion", f"data.shards={shards}/*.tar", "data.batch_size=4", "data.image_size=16"]
    buckets = ["data.buckets=[[16,24],[24,16],[16,16]]", "data.num_workers=0", "task.cache_latents=false"]
    random = ["data.crop=random", "data.flip=0.5", f"trainer.max_steps={steps}", f"hydra.run.dir={folder}"]
    return train.main([*small, *first, *data, *buckets, *random, *more])


def test_a_run_on_buckets_that_was_stopped_ends_as_one_that_was_not(shards, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(whole, shards, 9) == 0
    first = f"first_stage.checkpoint={whole}/autoencoder.safetensors"
    for steps in (4, 9):
        assert run(parts, shards, steps, first, "data.num_workers=2") == 0
    models = [load_file(folder / "model.safetensors") for folder in (whole, parts)]
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    losses = [read_metrics(folder / "metrics.csv")["train/loss"] for folder in (whole, parts)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 9


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("data.buckets=[[16,20]]", "data.buckets: must be [height, width] in multiples of 8, got [16, 20]"),
        ("data.buckets=[[16,16],[16,16]]", "data.buckets: must be different sizes"),
        ("backbone.position_size=4", "backbone.position_size: must be null where data.buckets"),
    ],
)
def test_buckets_that_do_not_fit_are_one_line_and_status_2(more, says, shards, tmp_path, capsys):
    assert run(tmp_path / "run", shards, 2, more) == 2
    assert says in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_rule_is_a_group(shards, capsys):
    from ldm.cli import data

    chosen = ["data/buckets=aspect", "data.buckets.area=1024", "data.buckets.multiple=8"]
    options = ["data=laion", f"data.shards={shards}/*.tar", "data.batch_size=4", "seconds=0.01"]
    assert data.main(["bench", *options, *chosen]) == 0
    err = capsys.readouterr().err
    assert err.count("height x width") == 1
    assert "32 x 32" in err
