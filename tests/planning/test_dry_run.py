"""`ldm-train debug=dry`: what it says, what it refuses, and that it leaves nothing."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time

import pytest
from PIL import Image

from ldm.cli import train

TINY = ["experiment=tiny", "threads=1", "debug=dry"]
SHARDS = [
    "data=laion",
    "data.image_size=16",
    "data.batch_size=12",
    "evaluation=prompts",
    "task.cache_latents=false",
    "first_stage.checkpoint=first.safetensors",
]


def shard(path, captions, image=None):
    with tarfile.open(path, "w") as tar:
        for i, caption in enumerate(captions):
            picture = io.BytesIO()
            Image.new("RGB", (30, 20), "red").save(picture, "PNG")
            parts = {"png": picture.getvalue() if image is None else image, "txt": caption.encode()}
            for name, data in (parts | {"json": json.dumps({"alt": "from json"}).encode()}).items():
                info = tarfile.TarInfo(f"{i:04d}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def left(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_both_stages_are_described_and_nothing_is_written(here, capsys):
    assert train.main([*TINY, "trainer.max_steps=50"]) == 0
    said = capsys.readouterr().out
    assert "autoencoder, 32-true" in said
    assert "40 steps of 12 images at 16 px: 480 images; would start at step 0" in said
    assert "12 images, each 50.00 times" in said
    assert "1 rank, 1 x 12 images a step each" in said
    assert "274,584 trained parameters" in said
    assert "every 300 steps, the newest 2 kept" in said
    assert left(here) == []


def test_the_step_to_resume_at_is_found_and_the_run_stays_as_it_is(here, capsys):
    for step in (30, 60):
        folder = here / "run" / "checkpoints" / f"step_{step:08d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    before = left(here)
    small = [*TINY, "backbone.channels=[8]", "backbone.attention=[cross]"]
    given = [*small, f"hydra.run.dir={here}/run", "first_stage.checkpoint=nowhere.safetensors"]
    assert train.main([*given]) == 2
    assert "first_stage.checkpoint: nothing at" in capsys.readouterr().err
    given = [*small, "hydra.run.dir=run"]
    assert train.main(given) == 0
    assert "would resume at step 60" in capsys.readouterr().out
    assert train.main([*given, "trainer.max_steps=60"]) == 0
    assert "nothing to train: its checkpoint is of step 60" in capsys.readouterr().out
    for resume, says in (
        ("never", "has checkpoints and resume=never"),
        ("run/checkpoints/step_00000030", "has later checkpoints, to step 60"),
        ("nowhere", "resume: no checkpoint at nowhere"),
    ):
        assert train.main([*given, f"resume={resume}"]) == 2
        assert says in capsys.readouterr().err
    assert left(here) == before


def test_of_shards_the_first_sample_is_read_and_no_index_is_made(here, capsys):
    shard(here / "0.tar", ["one\n", "two"])
    (here / "1.tar").write_bytes(b"not read")
    (here / "first.safetensors").touch()
    before = left(here)
    assert train.main([*TINY, *SHARDS, "data.shards=*.tar"]) == 0
    said = capsys.readouterr().out
    assert "2 shards; the first begins with 0000, 20 x 30: 'one'" in said
    assert "no index yet" in said
    assert left(here) == before


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.shards=none-*.tar"], "no tar shards at none-*.tar"),
        (["data.shards=missing.tar"], "missing.tar"),
        (["data.shards=text.tar"], "no plain tar file"),
        (["data.shards=broken.tar"], "its first sample, 0000, cannot be used"),
        (["data.shards=whole.tar", "trainer.devices=5"], "data.batch_size"),
        (["data.shards=whole.tar", "sampling.num_inference_steps=2000"], "num_inference_steps"),
        (["data.shards=whole.tar", "hydra.run.dir=text.tar/run"], "hydra.run.dir"),
        (["data.shards=whole.tar", "first_stage.checkpoint=none.safetensors"], "nothing at none.safetensors"),
    ],
)
def test_what_would_stop_the_run_is_one_line_and_status_2(overrides, says, here, capsys):
    (here / "first.safetensors").touch()
    (here / "text.tar").write_text("text")
    shard(here / "whole.tar", ["one"])
    shard(here / "broken.tar", ["one"], image=b"no image")
    before = left(here)
    assert train.main([*TINY, *SHARDS, *overrides]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert says in lines[0]
    assert left(here) == before


@pytest.mark.slow
def test_a_net_of_stable_diffusions_size_takes_less_than_15_seconds(here):
    (here / "first.safetensors").touch()
    command = [sys.executable, "-m", "ldm.cli.train", "experiment=sd15", "debug=dry", "data=synthetic"]
    command += ["first_stage.checkpoint=first.safetensors", "trainer.devices=1"]
    start = time.perf_counter()
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "859,520,964 trained parameters" in done.stdout
    assert time.perf_counter() - start < 15


def test_recomputed_blocks_keep_fewer_activations(here, capsys):
    kept = []
    for recomputed in ("false", "true"):
        assert train.main([*TINY, f"task.activation_checkpointing={recomputed}"]) == 0
        line = next(x for x in reversed(capsys.readouterr().out.splitlines()) if "of activations" in x)
        kept.append(float(line.partition("and ")[2].split()[0]))
    assert kept[1] < 0.5 * kept[0]


def test_adapters_and_their_frozen_base_are_counted(here, capsys):
    (here / "base.safetensors").touch()
    given = ["adapters=lora", "init_checkpoint=base.safetensors", "averages=null"]
    assert train.main([*TINY, *given]) == 0
    lines = capsys.readouterr().out
    assert "latent diffusion, 32-true" in lines
    assert "autoencoder, 32-true" not in lines
    trained = int(
        next(line for line in lines.splitlines() if "trained parameters" in line).split()[0].replace(",", "")
    )
    assert trained < 20_000
