"""Parts that do not fit are named with their key, before anything is trained; nets of a user's own alike."""

import copy
import re

import pytest

from ldm.cli.compose import compose
from ldm.training.check_model import check_model
from ldm.utils.construct import user_modules
from ldm.utils.errors import UserError

TEXT = "ldm.models.text_encoder"
IDENTITY = {"_target_": "ldm.models.identity.IdentityAutoencoder", "latent_channels": 3}
BROKEN = [
    ({"backbone.in_channels": 4}, "backbone.in_channels: must equal autoencoder.latent_channels=8, got 4"),
    ({"backbone.out_channels": 4}, "backbone.out_channels: must equal autoencoder.latent_channels=8, got 4"),
    (
        {"backbone.in_channels": 17},
        "backbone.in_channels: 17 make an inpainting net, which cannot be trained",
    ),
    (
        {"autoencoder": IDENTITY, "first_stage.task": None},
        "backbone.in_channels: must equal autoencoder.latent_channels=3, got 8",
    ),
    ({"autoencoder": IDENTITY}, "autoencoder: IdentityAutoencoder cannot be trained as a first stage"),
    (
        {"backbone.context_dim": 768},
        "backbone.context_dim: text_encoder TinyTextEncoder gives 32, got 768; use backbone.context_dim=32",
    ),
    (
        {"text_encoder": {"_target_": f"{TEXT}.NullTextEncoder"}},
        "backbone.context_dim: text_encoder NullTextEncoder gives none, got 32; "
        "use backbone.context_dim=null",
    ),
    (
        {"text_encoder": {"_target_": f"{TEXT}.ClassEncoder", "captions": ["a"], "width": 32}},
        "backbone.context_dim: text_encoder ClassEncoder gives none, got 32",
    ),
    ({"backbone.pooled_dim": 64}, "backbone.pooled_dim: text_encoder TinyTextEncoder gives 32, got 64"),
    ({"backbone.position_size": 5}, "backbone.position_size: must be image_size / downscale = 16 / 4, got 5"),
    (
        {"data.buckets": [[16, 16], [16, 24]], "backbone.position_size": 4},
        "backbone.position_size: must be null where data.buckets gives images of many shapes, got 4",
    ),
    (
        {
            "data.buckets": [[64, 64], [64, 72]],
            "backbone.channels": [4, 4, 4],
            "backbone.attention": ["none"] * 3,
        },
        "data.buckets: sides must be multiples of 16, the downscale of autoencoder and backbone, got 72",
    ),
    (
        {"sampling.guidance": {"_target_": "ldm.guidance.pag.PAG"}, "backbone.mid_attention": "none"},
        "sampling.guidance: guidance must be a rule that this UNet supports, got PAG, which needs pag",
    ),
    (
        {"sampling.guidance": {"_target_": "ldm.guidance.autoguidance.Autoguidance"}},
        "sampling.guidance: guidance must be a rule that this UNet supports, got Autoguidance, which",
    ),
    (
        {"task.caption_dropout": 0.0, "sampling.guidance_scale": 3.0},
        "sampling.guidance_scale: must be 1 when trained without caption dropout (task.caption_dropout=0.0), "
        "got 3.0; use sampling.guidance_scale=1.0",
    ),
    ({"sampling.num_inference_steps": 2000}, "num_inference_steps"),
    (
        {
            "diffusion.prediction": {"_target_": "ldm.diffusion.prediction.Epsilon"},
            "diffusion.schedule": None,
        },
        "prediction",
    ),
    (
        {"data._target_": "ldm.data.latents.datamodule.LatentData"},
        "first_stage.checkpoint: latents need the autoencoder that they were made by, got none",
    ),
    (
        {"first_stage.data._target_": "ldm.data.latents.datamodule.LatentData"},
        "first_stage.data: latents hold no images to train an autoencoder on",
    ),
]
OWN = """
from torch import nn

class Own(nn.Module):
    in_channels = out_channels = {channels}
    context_dim = {context_dim}
    pooled_dim = position_size = None
    downscale = 1
    supports = frozenset()
    {more}

    def forward(self, x_t, t, cond):
        return x_t
"""


@pytest.fixture(scope="module")
def tiny():
    return compose("train", ["paths.run=/nowhere", "experiment=tiny"])


def changed(config, changes):
    config = copy.deepcopy(config)
    for key, value in changes.items():
        *parts, last = key.split(".")
        node = config
        for part in parts:
            node = node[part]
        node[last] = value
    if changes.get("diffusion.schedule", 1) is None:
        config["diffusion"]["schedule"] = {"_target_": "ldm.diffusion.continuous.FlowMatching"}
    return config


def test_parts_that_fit_are_accepted(tiny):
    check_model(tiny)


@pytest.mark.parametrize(("changes", "message"), BROKEN)
def test_parts_that_do_not_fit_are_one_line_with_the_key(tiny, changes, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        check_model(changed(tiny, changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("channels", "context_dim", "more", "message"),
    [
        (8, None, "", None),
        (4, None, "", "backbone.in_channels: must equal autoencoder.latent_channels=8, got 4"),
        (8, 7, "", "backbone.context_dim: text_encoder TinyTextEncoder gives 32, got 7"),
        (8, None, "del downscale", "backbone: Own lacks downscale; downscale: Factor by which"),
    ],
)
def test_a_net_of_the_users_own_is_checked_likewise(tiny, tmp_path, channels, context_dim, more, message):
    text = OWN.format(channels=channels, context_dim=context_dim, more=more)
    (tmp_path / "own_net.py").write_text(text)
    config = changed(tiny, {"backbone": {"_target_": "own_net.Own", "_partial_": True}})
    with user_modules(tmp_path):
        if message is None:
            check_model(config)
            return
        with pytest.raises(UserError, match=re.escape(message)):
            check_model(config)
