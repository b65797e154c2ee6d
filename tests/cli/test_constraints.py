"""Each constraint names both keys when broken and is silent otherwise."""

import pytest
from omegaconf import OmegaConf

from ldm.cli.constraints import CONSTRAINTS, check_constraints
from ldm.utils.errors import UserError

GOOD = {
    "autoencoder": {"_target_": "ldm.models.vae.AutoencoderKL", "latent_channels": 16},
    "text_encoder": {"_target_": "ldm.models.text_encoder.TinyTextEncoder", "width": 128},
    "backbone": {"in_channels": 16, "out_channels": 16, "context_dim": 128, "pooled_dim": 128},
    "diffusion": {
        "schedule": {"_target_": "ldm.diffusion.schedule.zero_snr"},
        "prediction": {"_target_": "ldm.diffusion.prediction.Velocity"},
    },
    "data": {"batch_size": 32},
    "trainer": {"devices": 2, "num_nodes": 1, "accumulate_grad_batches": 4},
    "task": {"caption_dropout": 0.1},
    "sampling": {"guidance_scale": 3.0, "guidance": {"_target_": "ldm.guidance.cfg.CFG"}},
}
TEXT = "ldm.models.text_encoder"
ADAPTERS = {"_target_": "ldm.models.lora.LoRA"}
AVERAGED = {"caption_dropout": 0.1, "power_ema": [0.05]}
BROKEN = [
    (
        {"adapters": ADAPTERS, "init_checkpoint": "a", "task": AVERAGED},
        "task.power_ema: must be [] with adapters, which ldm-ema cannot add up, got [0.05] (averages=null)",
    ),
    (
        {"adapters": ADAPTERS, "init_checkpoint": "a", "trainer.strategy": {"shard": True}},
        "trainer.strategy.shard: adapters and their frozen base are not sharded: use trainer=ddp",
    ),
    ({"adapters": ADAPTERS}, "init_checkpoint: adapters need the checkpoint that they are for, got none"),
    (
        {"adapters": ADAPTERS, "init_checkpoint": "a", "first_stage.checkpoint": "b"},
        "first_stage.checkpoint: must be null with adapters, which are for all of init_checkpoint, got b",
    ),
    (
        {"diffusion.prediction._target_": "ldm.diffusion.prediction.Epsilon"},
        "diffusion.prediction: eps cannot be used with the zero terminal SNR of diffusion.schedule",
    ),
    ({"backbone.in_channels": 4}, "backbone.in_channels: must equal autoencoder.latent_channels=16, got 4"),
    ({"backbone.out_channels": 8}, "backbone.out_channels: must equal autoencoder.latent_channels=16, got 8"),
    (
        {"autoencoder": {"_target_": "ldm.models.identity.IdentityAutoencoder", "latent_channels": 3}},
        "backbone.in_channels: must equal autoencoder.latent_channels=3, got 16",
    ),
    (
        {"backbone.context_dim": 768},
        "backbone.context_dim: TinyTextEncoder (text_encoder) gives 128, got 768",
    ),
    ({"backbone.pooled_dim": 64}, "backbone.pooled_dim: TinyTextEncoder (text_encoder) gives 128, got 64"),
    (
        {"text_encoder._target_": f"{TEXT}.NullTextEncoder"},
        "backbone.context_dim: NullTextEncoder (text_encoder) gives none, got 128",
    ),
    (
        {"text_encoder._target_": f"{TEXT}.ClassEncoder"},
        "backbone.context_dim: ClassEncoder (text_encoder) gives none, got 128",
    ),
    (
        {"text_encoder": {"_target_": "ldm.models.clip.ClipTextEncoder", "width": 768}},
        "backbone.context_dim: ClipTextEncoder (text_encoder) gives 768, got 128",
    ),
    (
        {"backbone.in_channels": 33},
        "backbone.in_channels: 33 make an inpainting net, which task=latent_diffusion cannot train",
    ),
    (
        {"trainer.accumulate_grad_batches": 3},
        "data.batch_size: must be a multiple of trainer.devices x num_nodes x accumulate_grad_batches, got",
    ),
    (
        {"task.caption_dropout": 0.0},
        "sampling.guidance_scale: must be 1 when trained without caption dropout (task.caption_dropout=0)",
    ),
    (
        {"task.cache_latents": True, "data.flip": 0.5},
        "task.cache_latents: must be false where data.flip=0.5 changes an image from visit to visit",
    ),
    (
        {"task.cache_latents": True, "data.crop": "random"},
        "task.cache_latents: must be false where data.crop=random changes an image from visit to visit",
    ),
    (
        {"data.buckets": {"multiple": 64}, "backbone.position_size": 8},
        "backbone.position_size: must be null where data.buckets gives images of many shapes, got 8",
    ),
    (
        {"data.buckets": {"multiple": 16}, "autoencoder.channels": [1] * 4, "backbone.channels": [1] * 3},
        "data.buckets.multiple: autoencoder and backbone halve the sides 5 times, got 16",
    ),
    (
        {"data.buckets": [[64, 64], [64, 72]], "backbone.channels": [1] * 5},
        "data.buckets: autoencoder and backbone halve the sides 4 times, got 72",
    ),
    (
        {"sampling.guidance._target_": "ldm.guidance.autoguidance.Autoguidance"},
        "weak_checkpoint: sampling.guidance=autoguidance needs the checkpoint of a weaker net, got none",
    ),
    (
        {"callbacks.ema.every_n_images": 10, "task.power_ema": []},
        "task.power_ema: must name the averages that callbacks.ema is to keep, got none",
    ),
    (
        {
            "diffusion.schedule._target_": "ldm.diffusion.continuous.FlowMatching",
            "diffusion.prediction._target_": "ldm.diffusion.prediction.Epsilon",
        },
        "diffusion.prediction: eps cannot be used with the zero terminal SNR of diffusion.schedule",
    ),
]


def test_good_config_keeps_all_laws():
    check_constraints(OmegaConf.create(GOOD))


@pytest.mark.parametrize(("changes", "message"), BROKEN)
def test_broken_law_names_its_keys(changes, message):
    cfg = OmegaConf.create(GOOD)
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value, merge=False)
    with pytest.raises(UserError) as caught:
        check_constraints(cfg)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("absent", GOOD)
def test_laws_are_silent_where_keys_are_absent(constraint, absent):
    assert constraint(OmegaConf.create({})) is None
    assert constraint(OmegaConf.create({k: v for k, v in GOOD.items() if k != absent})) is None


def test_devices_auto_is_no_number():
    cfg = OmegaConf.create({**GOOD, "trainer": {"devices": "auto"}})
    check_constraints(cfg)
