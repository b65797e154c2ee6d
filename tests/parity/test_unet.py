"""Our U-Net computes what diffusers' U-Nets compute."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.diffusion.conditioning import Conditioning
from ldm.models.unet import UNet

pytestmark = pytest.mark.parity
diffusers = pytest.importorskip("diffusers")

RENAMES = [
    (r"^time_embedding\.linear_1", "time_embed.0"),
    (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^conv_norm_out", "norm_out"),
    (r"^mid_block\.", "mid."),
    (r"^(down|up)_blocks\.(\d+)\.", r"\1.\2."),
    (r"\.(down|up)samplers\.0\.", ".resample."),
    (r"\.time_emb_proj\.", ".embed."),
    (r"\.conv_shortcut\.", ".skip."),
    (r"\.transformer_blocks\.", ".blocks."),
    (r"\.ff\.net\.0\.", ".ff.0."),
    (r"\.ff\.net\.2\.", ".ff.1."),
    (r"\.to_out\.0\.", ".to_out."),
    (r"(attentions\.\d+)\.group_norm\.", r"\1.norm."),
    (r"(attentions\.\d+)\.(to_\w+)\.", r"\1.attention.\2."),
]
DOWN = {"none": "DownBlock2D", "self": "AttnDownBlock2D", "cross": "CrossAttnDownBlock2D"}


def draw(seed: int, kind: str) -> dict[str, Any]:
    """A random tiny configuration in our words."""
    rng = random.Random(seed)
    levels = rng.choice([1, 2, 3])
    groups = rng.choice([2, 4])
    channels = [groups * rng.choice([4, 6, 8]) for _ in range(levels)]
    return {
        "in_channels": rng.choice([3, 4, 9]),
        "out_channels": rng.choice([3, 4]),
        "channels": channels,
        "layers_per_block": rng.choice([1, 2]),
        "attention": [rng.choice(["none", kind]) for _ in range(levels)],
        "mid_attention": kind,
        "norm_groups": groups,
    }


def common(ours: dict[str, Any]) -> dict[str, Any]:
    """The same configuration in diffusers' words."""
    down = [DOWN[kind] for kind in ours["attention"]]
    return {
        "in_channels": ours["in_channels"],
        "out_channels": ours["out_channels"],
        "block_out_channels": ours["channels"],
        "layers_per_block": ours["layers_per_block"],
        "down_block_types": down,
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        "norm_num_groups": ours["norm_groups"],
    }


def inputs(ours: dict[str, Any], seed: int, odd: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    height, width = (5 + seed % 4, 9 + seed % 7) if odd else (12, 24)  # halving an odd size rounds up
    x_t = torch.randn(2, ours["in_channels"], height, width, generator=generator)
    return x_t, 1000.0 * torch.rand(2, generator=generator)


@pytest.mark.parametrize("seed", range(10))
def test_cross_attention_unet_equals_diffusers(
    seed: int, randomise: Callable[..., nn.Module], copy_weights: Callable[..., None], relative_error: Any
) -> None:
    """SD 1.x and 2.x: convolution and linear projections, heads per net or per level, some depth."""
    rng = random.Random(100 + seed)
    ours = draw(seed, "cross")
    heads = [rng.choice([1, 2]) for _ in ours["channels"]] if seed % 2 else rng.choice([1, 2])
    context_dim, linear, depth = rng.choice([5, 16]), rng.random() < 0.5, rng.choice([1, 2])
    theirs = diffusers.UNet2DConditionModel(
        **common(ours),
        cross_attention_dim=context_dim,
        attention_head_dim=heads,  # diffusers' name for the number of heads
        use_linear_projection=linear,
        transformer_layers_per_block=depth,
    )
    net = UNet(
        **ours, context_dim=context_dim, num_heads=heads, linear_projection=linear, transformer_depth=depth
    ).eval()
    copy_weights(randomise(theirs, seed), net, RENAMES)
    x_t, t = inputs(ours, seed, odd=True)
    context = torch.randn(2, 7, context_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        assert (
            relative_error(net(x_t, t, Conditioning(tokens=context)), theirs(x_t, t, context).sample) <= 1e-5
        )


@pytest.mark.parametrize("seed", range(10))
def test_self_attention_unet_equals_diffusers(
    seed: int, randomise: Callable[..., nn.Module], copy_weights: Callable[..., None], relative_error: Any
) -> None:
    """DDPM's U-Net, with one head per level or heads of a given width."""
    ours = draw(seed, "self")
    head_dim = random.Random(seed).choice([None, 2, 4])
    theirs = diffusers.UNet2DModel(
        **common(ours), attention_head_dim=head_dim, flip_sin_to_cos=True, freq_shift=0
    )
    net = UNet(**ours, num_heads=1, head_dim=head_dim).eval()
    copy_weights(randomise(theirs, seed), net, RENAMES)
    x_t, t = inputs(ours, seed)
    with torch.no_grad():
        assert relative_error(net(x_t, t, Conditioning()), theirs(x_t, t).sample) <= 1e-5


def test_gradients_equal_those_of_diffusers(
    randomise: Callable[..., nn.Module], copy_weights: Callable[..., None], relative_error: Any
) -> None:
    """The explicit attention of the training path has the gradients of the fused one."""
    ours = draw(3, "cross")
    theirs = diffusers.UNet2DConditionModel(**common(ours), cross_attention_dim=5, attention_head_dim=2)
    net = UNet(**ours, context_dim=5, num_heads=2).eval()
    copy_weights(randomise(theirs, 0), net, RENAMES)
    x_t, t = inputs(ours, 0)
    context = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    net(x_t, t, Conditioning(tokens=context)).square().sum().backward()
    theirs(x_t, t, context).sample.square().sum().backward()
    assert relative_error(net.conv_in.weight.grad, theirs.conv_in.weight.grad) <= 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_a_net_that_reads_the_guidance_scale_equals_diffusers(
    seed: int, randomise: Callable[..., nn.Module], copy_weights: Callable[..., None], relative_error: Any
) -> None:
    """Latent consistency models; the embedding is that of diffusers' pipeline, at w - 1."""
    ours, dim, scale = draw(seed, "cross"), 32 + seed, 1.0 + 3.5 * seed
    options = {"cross_attention_dim": 5, "attention_head_dim": 2, "time_cond_proj_dim": dim}
    theirs = diffusers.UNet2DConditionModel(**common(ours), **options)
    net = UNet(**ours, context_dim=5, num_heads=2, guidance_dim=dim).eval()
    copy_weights(randomise(theirs, seed), net, [(r"^time_embedding\.cond_proj", "guidance_embed"), *RENAMES])
    x_t, t = inputs(ours, seed, odd=True)
    context = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(seed))
    embed = diffusers.StableDiffusionPipeline.get_guidance_scale_embedding
    features = embed(None, torch.full((2,), scale - 1), embedding_dim=dim)
    cond = Conditioning(tokens=context, guidance=torch.full((2,), scale))
    with torch.no_grad():
        expected = theirs(x_t, t, context, timestep_cond=features).sample
        assert relative_error(net(x_t, t, cond), expected) <= 1e-5
