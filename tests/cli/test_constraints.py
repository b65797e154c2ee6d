"""Each constraint names its key when broken and is silent otherwise; its advice can be typed and helps."""

import re

import pytest
import yaml

from ldm.cli import train
from ldm.cli.compose import compose
from ldm.cli.constraints import CONSTRAINTS, check_constraints
from ldm.utils.errors import UserError

ADAPTED = ["adapters=lora", "init_checkpoint=a.safetensors"]
BROKEN = [
    (["seed=-1"], "seed: must be in [0, 2^64), got -1"),
    (["adapters=lora"], "init_checkpoint: adapters need the checkpoint that they are for, got none"),
    (
        [*ADAPTED, "first_stage.checkpoint=b"],
        "first_stage.checkpoint: adapters use the autoencoder of init_checkpoint, got b",
    ),
    ([*ADAPTED, "averages=power"], "task.power_ema: ldm-ema cannot add up averages of adapters, got"),
    ([*ADAPTED, "trainer=fsdp"], "trainer.strategy.shard: adapters and their frozen base are not sharded"),
    (["trainer.accumulate_grad_batches=3"], "data.batch_size: must be a multiple of trainer.devices x"),
    (
        ["task.cache_latents=true", "+data.flip=0.5"],
        "task.cache_latents: latents cannot be stored where data.flip=0.5 changes an image",
    ),
    (
        ["task.cache_latents=true", "+data.crop=random"],
        "task.cache_latents: latents cannot be stored where data.crop=random changes an image",
    ),
    (
        ["guidance=autoguidance"],
        "weak_checkpoint: guidance Autoguidance needs the checkpoint of a weaker net, got none",
    ),
    (
        ["++callbacks.ema.every_n_images=10"],
        "task.power_ema: callbacks.ema stores averages over power functions, got none",
    ),
]
ADVICE = re.compile(r"; use (\S+=\S+)$")


def composed(*overrides):
    return compose("train", ["paths.run=/nowhere", "data.batch_size=32", *overrides])


def message_of(config):
    with pytest.raises(UserError) as caught:
        check_constraints(config)
    return str(caught.value)


def test_the_default_config_keeps_all_constraints():
    check_constraints(composed())


@pytest.mark.parametrize(("overrides", "message"), BROKEN)
def test_a_broken_constraint_names_its_key(overrides, message):
    assert message_of(composed(*overrides)).startswith(message)


@pytest.mark.parametrize("overrides", [overrides for overrides, _ in BROKEN])
def test_advice_can_be_typed_as_it_stands_and_mends_the_config(overrides, capsys):
    advice = ADVICE.search(message_of(composed(*overrides)))
    if advice is None:
        return
    key = advice[1].partition("=")[0]
    others = [override for override in overrides if override.lstrip("+").partition("=")[0] != key]
    assert train.main(["data.batch_size=32", *others, advice[1], "--cfg", "job"]) == 0
    check_constraints(yaml.safe_load(capsys.readouterr().out))


def test_most_messages_give_advice():
    assert sum(bool(ADVICE.search(message_of(composed(*overrides)))) for overrides, _ in BROKEN) >= 5


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_constraints_are_silent_where_keys_are_absent(constraint):
    assert constraint({}) is None


def test_devices_auto_is_no_number():
    check_constraints({"data": {"batch_size": 32}, "trainer": {"devices": "auto"}})
