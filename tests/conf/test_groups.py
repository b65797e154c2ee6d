"""Every option of every config group composes and passes the checks; every experiment's nets can be built."""

import copy
import functools
from pathlib import Path

import pytest
import torch

from ldm.cli.compose import compose
from ldm.cli.constraints import check_constraints
from ldm.cli.null_groups import default_options
from ldm.cli.train import SUPPLIED
from ldm.training.fates import row_of
from ldm.utils.construct import check, construct

CONF = Path(__file__).parents[2] / "conf"
# What an option needs beside itself, so that the constraints between groups hold.
COMPANIONS = {
    "autoencoder/identity": ["first_stage=none"],
    "backbone/sd15": ["autoencoder=sd", "text_encoder=clip"],
    "backbone/sd15_inpaint": ["autoencoder=sd", "text_encoder=clip", "~task"],
    "backbone/sd2": ["autoencoder=sd", "text_encoder=clip_h"],
    "backbone/ddpm_cifar10": ["autoencoder=identity", "text_encoder=none", "first_stage=none"],
    "backbone/ddpm_cifar10_small": ["autoencoder=identity", "text_encoder=none", "first_stage=none"],
    "data/cifar10": ["task.cache_latents=false"],  # its images are mirrored
    "data/laion": ["data.shards=shards.tar"],
    "adapters/lora": ["init_checkpoint=model.safetensors"],
    "experiment/sd_autoencoder": ["data.shards=shards.tar"],
    "experiment/sd_scale": ["data.shards=shards.tar"],
    "experiment/sd_scale_512": ["data.shards=shards.tar", "init_checkpoint=model.safetensors"],
    "first_stage/sd": ["autoencoder=sd", "text_encoder=clip", "backbone=sd15"],
    "data/buckets/aspect": ["data=laion", "data.shards=shards.tar", "task.cache_latents=false"],
    "data/latents": ["data.folder=latents", "first_stage.checkpoint=model.safetensors"],
    "guidance/autoguidance": ["weak_checkpoint=early.ckpt"],
    "text_encoder/clip": ["backbone=sd15"],
    "text_encoder/clip_h": ["backbone=sd2"],
    "text_encoder/class": ["backbone.context_dim=null"],
    "text_encoder/none": ["backbone.context_dim=null", "backbone.pooled_dim=null"],
}
# Groups of commands other than ldm-train; of hydra, settings of Hydra itself.
OTHER_COMMANDS = {"cluster", "mode"}
GROUPS = sorted(
    str(folder.relative_to(CONF))
    for folder in CONF.rglob("*")
    if folder.is_dir() and any(folder.glob("*.yaml")) and folder.relative_to(CONF).parts[0] != "hydra"
)
FILES = [f"{group}/{path.stem}" for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
OPTIONS = [option for option in FILES if option.partition("/")[0] not in OTHER_COMMANDS]
EXPERIMENTS = [path.stem for path in sorted((CONF / "experiment").glob("*.yaml"))]


@functools.cache
def _composed(*overrides):
    return compose("train", ["paths.run=/nowhere", *overrides])


def composed(*overrides):
    """A config of ldm-train; several tests ask for the same."""
    return copy.deepcopy(_composed(*overrides))


def leaves(value, key=""):
    """Dotted keys of all values of a config."""
    if not isinstance(value, dict) or not value:
        return [key]
    return [leaf for name, child in value.items() for leaf in leaves(child, f"{key}.{name}".lstrip("."))]


def nets_of(config):
    return [construct(config[name], name)() for name in ("autoencoder", "text_encoder", "backbone")]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_passes_the_checks(option):
    group, _, name = option.rpartition("/")
    config = composed(f"{group}={name}", *COMPANIONS.get(option, []))
    check(config, supplied=SUPPLIED)
    check_constraints(config)
    assert [key for key in leaves(config) if row_of(key) is None] == []  # each has a fate on resume


def test_every_group_is_one_of_a_command():
    commands = {path.stem for path in CONF.glob("*.yaml")}
    chosen = {group for command in commands for group in default_options(command)}
    assert {group for group in GROUPS if "/" not in group} <= chosen


def test_companions_are_of_options_that_exist():
    assert COMPANIONS.keys() <= set(OPTIONS)


@pytest.mark.parametrize("option", FILES)
def test_group_files_are_short(option):
    assert len((CONF / f"{option}.yaml").read_text().splitlines()) <= 34


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_start_with_their_question(name):
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("#")
    assert "?" in lines[1]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_builds_and_denoises_on_the_meta_device(name):
    config = composed(f"experiment={name}")
    if config["task"] is None:
        assert not {"backbone", "text_encoder"} & config.keys()
        return
    with torch.device("meta"):
        autoencoder, text, backbone = nets_of(config)
        size = config["data"]["image_size"] // autoencoder.downscale
        x = torch.empty(2, autoencoder.latent_channels, size, size)
        pooled = None if backbone.pooled_dim is None else torch.empty(2, backbone.pooled_dim)
        tokens = None if backbone.context_dim is None else torch.empty(2, 5, backbone.context_dim)
        from ldm.diffusion.conditioning import Conditioning

        assert backbone(x, torch.empty(2), Conditioning(tokens=tokens, pooled=pooled)).shape == x.shape
    assert text.pooled_dim == backbone.pooled_dim or backbone.pooled_dim is None


# What an experiment needs beside its name; the other groups' companions are for the defaults of ldm-train.
def experiment(name):
    return [f"experiment={name}", *COMPANIONS.get(f"experiment/{name}", [])]


@pytest.mark.parametrize(
    "changes", [[], ["trainer.max_steps=200", "data.batch_size=64", "first_stage.max_steps=30"]]
)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_decay_of_the_learning_rate_ends_with_the_training(name, changes):
    config = composed(*experiment(name), *changes)
    schedule, images = config["lr_schedule"], config["data"]["batch_size"]
    assert schedule["total_images"] == config["trainer"]["max_steps"] * images
    if config["task"] is not None:
        assert config["task"]["lr_schedule"] == schedule
    if (stage := config["first_stage"])["task"] is not None:
        images = stage["data"]["batch_size"]
        assert stage["task"]["lr_schedule"]["total_images"] == stage["max_steps"] * images


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (["backbone=sd15", "autoencoder=sd", "text_encoder=clip"], 859_520_964),
        (["experiment=sd15"], 859_520_964),
        (["experiment=sd_scale"], 859_520_964),
        (["experiment=sd2_base"], 865_910_724),
        (["experiment=sd2_v"], 865_910_724),
        (
            ["backbone=ddpm_cifar10", "autoencoder=identity", "text_encoder=none", "first_stage=none"],
            35_746_307,
        ),
    ],
)
def test_published_sizes_from_config_alone(overrides, count):
    config = composed(*overrides)
    with torch.device("meta"):
        assert sum(p.numel() for p in construct(config["backbone"], "backbone")().parameters()) == count


def test_the_shipped_model_fits_16_megabytes():
    config = composed("experiment=emoji_large")
    with torch.device("meta"):
        nets = nets_of(config)
    assert 2 * sum(p.numel() for net in nets for p in net.parameters()) < 16_000_000
