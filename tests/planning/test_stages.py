"""The stages of a config: their modules, sizes and whether their data are encoded."""

import pytest

from ldm.cli.compose import compose
from ldm.planning.stages import stages_of
from ldm.utils.errors import UserError

CHECKPOINT = "first_stage.checkpoint=there.safetensors"


def composed(*overrides):
    return compose("plan", ["paths.run=/nowhere", "experiment=tiny", *overrides])


def test_blocks_are_as_written_whichever_the_config_has():
    (stage,) = stages_of(composed(CHECKPOINT, "task.activation_checkpointing=true", "task.compile=true"))
    factory = stage.make().factory
    assert not factory.activation_checkpointing
    assert not factory.compile


def test_a_first_stage_that_is_trained_comes_first():
    assert [stage.name for stage in stages_of(composed())] == ["autoencoder", "latent diffusion"]
    assert [stage.name for stage in stages_of(composed(CHECKPOINT))] == ["latent diffusion"]


def test_latents_are_encoded_ahead_of_time_and_so_is_what_ldm_plan_is_told():
    latents = ["data=latents", "data.folder=latents", "data.image_size=16", CHECKPOINT]
    assert stages_of(composed(*latents))[0].precomputed
    assert not stages_of(composed(*latents, "precomputed=false"))[0].precomputed
    assert not stages_of(composed(CHECKPOINT))[0].precomputed


def test_adapters_are_not_sharded():
    (stage,) = stages_of(composed(CHECKPOINT, "adapters=lora", "init_checkpoint=a"))
    assert not stage.shardable


def test_a_config_that_trains_nothing_is_refused():
    with pytest.raises(UserError, match=r"^task: nothing is trained"):
        stages_of(composed(CHECKPOINT) | {"task": None})
