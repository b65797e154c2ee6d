"""Tests need no network, no login and no leftover of the shell they are started from."""

import logging
import os
import random
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import lean_jaxtyping  # noqa: F401  before anything of ldm
import pytest
import torch
from omegaconf import OmegaConf
from tiers import mark_long
from torch import nn

from ldm.checkpoints.assemble import COMPONENTS, LoadedModel, build_empty
from ldm.checkpoints.diffusers_config import diffusion_node, sampling_node
from ldm.checkpoints.original import GRID, SCHEDULE, heads

os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", MPLBACKEND="agg")
for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LDM_TRACEBACK", "LDM_RUNS", "LDM_DATA"):
    os.environ.pop(name, None)
for name in [n for n in os.environ if n.startswith("SLURM_") and n != "SLURM_CONF"]:
    del os.environ[name]

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("repeatable")


# Files that take long begin first, so that the processes of `make test` end together.
LONGEST_FIRST = (
    "docs/test_pages.py",
    "cli/test_train.py",
    "training/distributed/test_sharded_runs.py",
    "training/test_kills.py",
    "test_notebooks.py",
    "planning/test_simulate.py",
    "test_runbook.py",
    "conf/test_groups.py",
    "schedulers/test_oracle.py",
    "schedulers/test_stochastic.py",
    "cli/test_plan.py",
    "cli/test_ema.py",
    "cli/test_precompute.py",
    "planning/test_dry_run.py",
    "cli/test_train_shards.py",
    "cli/test_fine_tuning.py",
    "parity/test_pipelines.py",
    "training/loggers/test_wandb.py",
    "checkpoints/test_assemble.py",
    "cli/test_sample.py",
    "checkpoints/test_converter.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the tests by file and marks those that are long."""
    folder = Path(__file__).parent
    mark_long(items, folder.name)
    place = {folder / name: i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(autouse=True)
def _restores_environment(monkeypatch):
    """Environment variables set by the code under test do not reach the next test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _restores_logging():
    """Handlers that a command set up do not outlive its test: their streams are pytest's, closed by then."""
    root = logging.getLogger()

    def clear():
        for handler in root.handlers[:]:
            if type(handler) in (logging.StreamHandler, logging.FileHandler):
                root.removeHandler(handler)
                handler.close()

    clear()
    yield
    clear()


def draw_config(family: str, seed: int) -> dict[str, Any]:
    """A config that all formats can hold: groups of 32 channels, heads as the original code has them."""
    rng = random.Random(f"{family} {seed}")
    levels, second = rng.choice([1, 2, 3]), family == "sd2"
    channels = [32 * rng.choice([1, 2]) for _ in range(levels)]
    width, velocity = rng.choice([32, 64]), second and rng.random() < 0.5
    return {
        "autoencoder": {
            "_target_": "ldm.models.vae.AutoencoderKL",
            "in_channels": 3,
            "latent_channels": 4,
            "channels": [32 * rng.choice([1, 2]) for _ in range(rng.choice([1, 2, 3]))],
            "layers_per_block": rng.choice([1, 2]),
            "mid_attention": True,
            "norm_groups": 32,
            "scaling_factor": 0.18215,
            "shift_factor": 0.0,
            "patch_shortcut": False,
        },
        "text_encoder": {
            "_target_": "ldm.models.clip.ClipTextEncoder",
            "width": width,
            "layers": rng.choice([1, 2]),
            "num_heads": 1,
            "quick_gelu": not second,
            "pad_token": 0 if second else 49_407,
            "max_length": rng.choice([8, 77]),
            "vocabulary_size": 49_408,
        },
        "backbone": {
            "_target_": "ldm.models.unet.UNet",
            "in_channels": 9 if family == "inpaint" else 4,
            "out_channels": 4,
            "channels": channels,
            "layers_per_block": rng.choice([1, 2]),
            "attention": [rng.choice(["none", "cross"]) for _ in range(levels)],
            "mid_attention": "cross",
            "num_heads": heads(channels, second),
            "head_dim": None,
            "context_dim": width,
            "transformer_depth": rng.choice([1, 2]),
            "linear_projection": second,
            "norm_groups": 32,
            "dropout": 0.0,
        },
        "diffusion": diffusion_node(SCHEDULE, "Velocity" if velocity else "Epsilon"),
        "sampling": sampling_node(GRID),
        "image_size": 768 if velocity else 512,
        "caption_dropout": 0.1,
    }


def full_size_config(name: str) -> dict[str, Any]:
    """The config of a model at Stable Diffusion's size, from conf/."""
    conf = Path(__file__).parents[1] / "conf"
    text = "clip_h" if name == "sd2" else "clip"
    files = {"autoencoder": "sd", "text_encoder": text, "backbone": name}
    nodes = {key: OmegaConf.load(conf / key / f"{file}.yaml") for key, file in files.items()}
    config = OmegaConf.to_container(OmegaConf.create(nodes), resolve=True)
    config = {key: {k: v for k, v in node.items() if k != "_partial_"} for key, node in config.items()}
    config["text_encoder"]["pretrained"] = None
    settings = {"diffusion": diffusion_node(SCHEDULE, "Epsilon"), "sampling": sampling_node(GRID)}
    return config | settings | {"image_size": 512, "caption_dropout": 0.1}


def build(config: dict[str, Any], seed: int = 0, names: Sequence[str] = COMPONENTS) -> LoadedModel:
    """The nets of a config, or those that are named, with random numbers in every parameter."""
    generator = torch.Generator().manual_seed(seed)
    components: dict[str, nn.Module] = {}
    for name in names:
        module = build_empty(config[name], name)
        state = {}
        for key, empty in module.state_dict().items():
            spread = (empty[0].numel() if empty.dim() > 1 else 25) ** -0.5
            state[key] = spread * torch.randn(empty.shape, generator=generator)
            if empty.dim() == 1 and key.endswith("weight"):  # of normalisation layers
                state[key] += 1.0
        module.load_state_dict(state, assign=True)
        components[name] = module.requires_grad_(False).eval()
    return LoadedModel(config=config, components=components)


@pytest.fixture(scope="session")
def warm_python() -> Iterator[str]:
    """A `python` whose processes are forked from one that has imported torch, Lightning and ldm.

    Outside Linux, or where one of these packages starts threads, it is the ordinary one.
    """
    if sys.platform != "linux":
        yield sys.executable
        return
    support = Path(__file__).parent / "support"
    with tempfile.TemporaryDirectory(prefix="ldm") as name:
        path, address = Path(name, "python"), f"{name}/socket"
        words = [os.path.realpath(sys.executable), "-IS", f"{support}/warm_client.py", address]
        path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        path.chmod(0o755)
        command = [sys.executable, f"{support}/warm_server.py", address, str(path)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, **pipes) as server:
            yield str(path) if server.stdout.readline() == "ready\n" else sys.executable
            server.stdin.close()


@pytest.fixture(scope="session")
def stable_diffusion() -> Callable[..., LoadedModel]:
    """Makes a small random model of a family: (family, seed) -> model; with f8=True an f8 autoencoder."""

    def make(family: str, seed: int, f8: bool = False) -> LoadedModel:
        config = draw_config(family, seed)
        if f8:
            config["autoencoder"]["channels"] = [32, 32, 32, 64]
        return build(config, seed)

    return make


@pytest.fixture(scope="session")
def full_size() -> Callable[..., LoadedModel]:
    """Makes a random model of full size: (backbone, its components) -> model."""

    def make(name: str, components: Sequence[str] = COMPONENTS) -> LoadedModel:
        return build(full_size_config(name), names=components)

    return make


@pytest.fixture
def draw_stable_diffusion() -> Callable[[str, int], dict[str, Any]]:
    """Makes the config alone."""
    return draw_config
