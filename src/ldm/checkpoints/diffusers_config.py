"""Configs of Stable Diffusion's components in diffusers' words and in ours."""

import logging
from collections.abc import Mapping
from typing import Any

from ldm.models.tokenizer import END_OF_TEXT
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)

Node = dict[str, Any]

# Options of diffusers' classes that our nets have at one value only.
UNET_FIXED: Node = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_only_cross_attention": False,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "reverse_transformer_layers_per_block": None,
    "time_embedding_act_fn": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
VAE_FIXED: Node = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "shift_factor": None,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}
TEXT_FIXED: Node = {"layer_norm_eps": 1e-5}

ATTENTION = {"DownBlock2D": "none", "CrossAttnDownBlock2D": "cross"}
ACTIVATIONS = {"quick_gelu": True, "gelu": False}
# Other spellings of one value, besides numbers and null where the value is false or nothing.
SYNONYMS: dict[str, tuple[Any, ...]] = {
    "act_fn": ("swish",),
    "conv_in_kernel": ([3, 3],),
    "conv_out_kernel": ([3, 3],),
    "latents_std": ([1.0] * 4,),
}
# What fields are that a config leaves out.
UNET_DEFAULTS: Node = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2, "norm_num_groups": 32}
VAE_DEFAULTS: Node = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "mid_block_add_attention": True,
}
TEXT_DEFAULTS: Node = {
    "hidden_act": "quick_gelu",
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "vocab_size": 49_408,
}


def check_fixed(what: str, given: Mapping[str, Any], fixed: Node) -> None:
    """Raises ValueError for a field of diffusers that has another value than the only one of ldm."""
    for key, value in fixed.items():
        if not _same(given.get(key, value), value) and given[key] not in SYNONYMS.get(key, ()):
            raise UserError(f"{key} of the {what} must be {value!r} for ldm, got {given[key]!r}")


def _same(given: Any, value: Any) -> bool:
    """True for a value in any spelling: one a level, or null where it is nothing."""
    if isinstance(given, list):
        return all(_same(item, value) for item in given)
    return given == value or (not given and not value)


def one_of(what: str, key: str, value: Any, allowed: Mapping[Any, Any]) -> Any:
    """The meaning of a value.

    Raises: ValueError naming the allowed ones for any other.
    """
    if not isinstance(value, str) or value not in allowed:
        raise UserError(f"{key} of the {what} must be one of {list(allowed)} for ldm, got {value!r}")
    return allowed[value]


def _uniform(what: str, key: str, value: Any) -> Any:
    """One number for all levels."""
    values = value if isinstance(value, list) else [value]
    if not values or any(other != values[0] for other in values):
        raise UserError(f"{key} of the {what} must be one number for ldm, got {value!r}")
    return values[0]


def _number(what: str, given: Mapping[str, Any], key: str) -> int:
    """A whole number.

    Raises: ValueError for anything else.
    """
    if not isinstance(value := given[key], int) or value < 1:
        raise UserError(f"{key} of the {what} must be a whole number for ldm, got {value!r}")
    return value


def _check_class(what: str, given: Mapping[str, Any], name: str) -> None:
    """Raises ValueError for the config of another class than that of ours."""
    if given.get("_class_name", name) != name:
        raise UserError(f"the {what} must be a {name} for ldm, got {given['_class_name']}")


def image_size(sample_size: Any, downscale: int) -> int | list[int]:
    """The size of images in pixels, [height, width] where they differ, from that of the latents.

    Args:
        sample_size: of the unet: a number, [height, width] or null.
        downscale: pixels per latent, along each side.
    """
    sides = sample_size if isinstance(sample_size, list) else [sample_size or 64] * 2
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"sample_size of the unet must be one number or two, got {sample_size!r}")
    height, width = (side * downscale for side in sides)
    return height if height == width else [height, width]


def sample_size(size: int | list[int], downscale: int) -> int | list[int]:
    """The size of latents from that of images; inverse of `image_size`."""
    return size // downscale if isinstance(size, int) else [side // downscale for side in size]


def backbone_node(given: Mapping[str, Any]) -> Node:
    """Our U-Net's arguments from the config of a UNet2DConditionModel."""
    what = "unet"
    _check_class(what, given, "UNet2DConditionModel")
    given = {**UNET_DEFAULTS, **given}
    channels = list(given["block_out_channels"])
    check_fixed(what, given, UNET_FIXED)
    if given.get("time_embedding_dim") not in (None, 4 * channels[0]):
        given_dim = given["time_embedding_dim"]
        raise UserError(
            f"time_embedding_dim of the unet must be {4 * channels[0]} for ldm, got {given_dim!r}"
        )
    attention = [one_of(what, "down_block_types", kind, ATTENTION) for kind in given["down_block_types"]]
    expected = [name.replace("Down", "Up") for name in reversed(given["down_block_types"])]
    if list(given["up_block_types"]) != expected:
        raise UserError(
            f"up_block_types of the unet must be {expected} for ldm, got {given['up_block_types']}"
        )
    # diffusers' attention_head_dim is the number of heads, unless num_attention_heads is given
    heads = given.get("num_attention_heads") or given.get("attention_head_dim", 8)
    return {
        "_target_": "ldm.models.unet.UNet",
        "in_channels": given["in_channels"],
        "out_channels": given["out_channels"],
        "channels": channels,
        "layers_per_block": _uniform(what, "layers_per_block", given["layers_per_block"]),
        "attention": attention,
        "mid_attention": "cross",
        "num_heads": list(heads) if isinstance(heads, list) else heads,
        "head_dim": None,
        "context_dim": _uniform(what, "cross_attention_dim", given["cross_attention_dim"]),
        "transformer_depth": _uniform(
            what, "transformer_layers_per_block", given.get("transformer_layers_per_block", 1)
        ),
        "linear_projection": bool(given.get("use_linear_projection", False)),
        "norm_groups": _number(what, given, "norm_num_groups"),
        "dropout": given.get("dropout") or 0.0,
        **({"guidance_dim": guidance} if (guidance := given.get("time_cond_proj_dim")) else {}),
    }


def backbone_json(node: Node, size: int | list[int], downscale: int) -> Node:
    """The config of a UNet2DConditionModel from our U-Net's arguments."""
    down = {kind: name for name, kind in ATTENTION.items()}
    if node.get("pooled_dim") or node.get("position_size") or node["mid_attention"] != "cross":
        raise UserError("only U-Nets in Stable Diffusion's topology have a place in diffusers")
    names = [one_of("backbone", "attention", kind, down) for kind in node["attention"]]
    channels = list(node["channels"])
    heads = node["num_heads"]
    if node.get("head_dim") is not None:
        heads = [max(c // node["head_dim"], 1) for c in channels]
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size(size, downscale),
        "in_channels": node["in_channels"],
        "out_channels": node["out_channels"],
        "block_out_channels": channels,
        "layers_per_block": node["layers_per_block"],
        "down_block_types": names,
        "up_block_types": [name.replace("Down", "Up") for name in reversed(names)],
        "attention_head_dim": heads,
        "cross_attention_dim": node["context_dim"],
        "transformer_layers_per_block": node["transformer_depth"],
        "use_linear_projection": node["linear_projection"],
        "norm_num_groups": node["norm_groups"],
        "dropout": node["dropout"],
        "time_cond_proj_dim": node.get("guidance_dim"),
        **UNET_FIXED,
    }


def autoencoder_node(given: Mapping[str, Any]) -> Node:
    """Our autoencoder's arguments from the config of an AutoencoderKL."""
    _check_class("vae", given, "AutoencoderKL")
    given = {**VAE_DEFAULTS, **given}
    check_fixed("vae", given, VAE_FIXED)
    for key, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        for name in given[key]:
            one_of("vae", key, name, {kind: None})
    if given["in_channels"] != given["out_channels"]:
        raise UserError(
            f"out_channels of the vae must equal in_channels for ldm, got {given['out_channels']}"
        )
    return {
        "_target_": "ldm.models.vae.AutoencoderKL",
        "in_channels": given["in_channels"],
        "latent_channels": given["latent_channels"],
        "channels": list(given["block_out_channels"]),
        "layers_per_block": given["layers_per_block"],
        "mid_attention": bool(given["mid_block_add_attention"]),
        "norm_groups": _number("vae", given, "norm_num_groups"),
        "scaling_factor": given["scaling_factor"],
        "shift_factor": 0.0,
        "patch_shortcut": False,
    }


def autoencoder_json(node: Node, size: int | list[int]) -> Node:
    """The config of an AutoencoderKL from our autoencoder's arguments."""
    if (
        node.get("patch_shortcut")
        or node.get("shift_factor")
        or not isinstance(node["scaling_factor"], float | int)
    ):
        raise UserError("an autoencoder with a shortcut or a shift of its latents has no place in diffusers")
    levels = len(node["channels"])
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": size if isinstance(size, int) else max(size),
        "in_channels": node["in_channels"],
        "out_channels": node["in_channels"],
        "latent_channels": node["latent_channels"],
        "block_out_channels": list(node["channels"]),
        "layers_per_block": node["layers_per_block"],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "mid_block_add_attention": node["mid_attention"],
        "norm_num_groups": node["norm_groups"],
        "scaling_factor": node["scaling_factor"],
        **VAE_FIXED,
    }


def text_encoder_node(given: Mapping[str, Any], pad_token: int | None = None) -> Node:
    """Our text encoder's arguments from the config of a CLIPTextModel, or of the CLIPModel it belongs to.

    Args:
        given: its config.
        pad_token: id of the tokenizer's padding; None: what Stable Diffusion with such an activation has.
    """
    what = "text encoder"
    given = {**TEXT_DEFAULTS, **(given.get("text_config") or given)}
    check_fixed(what, given, TEXT_FIXED)
    quick_gelu, width = one_of(what, "hidden_act", given["hidden_act"], ACTIVATIONS), given["hidden_size"]
    mlp_width = given["intermediate_size"]
    return {
        "_target_": "ldm.models.clip.ClipTextEncoder",
        "width": width,
        "layers": given["num_hidden_layers"],
        "num_heads": given["num_attention_heads"],
        "quick_gelu": quick_gelu,
        "pad_token": (END_OF_TEXT if quick_gelu else 0) if pad_token is None else pad_token,
        "max_length": given["max_position_embeddings"],
        "vocabulary_size": given["vocab_size"],
        **({} if mlp_width == 4 * width else {"mlp_width": mlp_width}),
    }


def text_encoder_json(node: Node) -> Node:
    """The config of a CLIPTextModel from our text encoder's arguments."""
    if not node["_target_"].endswith(".ClipTextEncoder"):
        raise UserError(f"only CLIP text encoders have a place in diffusers, got {node['_target_']}")
    names = {value: name for name, value in ACTIVATIONS.items()}
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_size": node["width"],
        "intermediate_size": node.get("mlp_width") or 4 * node["width"],
        "num_hidden_layers": node["layers"],
        "num_attention_heads": node["num_heads"],
        "hidden_act": names[node["quick_gelu"]],
        "max_position_embeddings": node["max_length"],
        "vocab_size": node["vocabulary_size"],
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "projection_dim": node["width"],
        **TEXT_FIXED,
    }


def diffusion_node(schedule: Node, prediction: str) -> Node:
    """The config of a diffusion of a schedule and a prediction, by its class."""
    return {
        "_target_": "ldm.diffusion.process.Diffusion",
        "schedule": schedule,
        "prediction": {"_target_": f"ldm.diffusion.prediction.{prediction}"},
        "weighting": {"_target_": "ldm.diffusion.weighting.Uniform"},
    }


def sampling_node(timesteps: Node, bound: float | None = None) -> Node:
    """Stable Diffusion's sampling settings: 50 steps of DDIM, guidance 7.5; x0 is clipped to the bound.

    Prompts are read by the rules of the web UI.
    """
    clip = {"_target_": "ldm.diffusion.thresholding.Clip", "bound": bound}
    return {
        "scheduler": {"_target_": "ldm.schedulers.ddim.DDIM", "eta": 0.0},
        "timesteps": timesteps,
        "thresholding": None if bound is None else clip,
        "num_inference_steps": 50,
        "guidance_scale": 7.5,
        "prompt_weights": True,
        "long_prompts": "chunks",
    }


READ_SCALE = 8.5  # guidance scale of distilled nets that read it, in diffusers' pipeline


def distilled_node(scheduler: Node, original_steps: int = 50, bound: float | None = None) -> Node:
    """Sampling settings of a net distilled for a solver: 4 steps of that, without guidance.

    Args:
        scheduler: the solver.
        original_steps: steps of the solver that the net was distilled from.
        bound: to which x0 is clipped; None for no clipping.
    """
    grid = {
        "_target_": "ldm.diffusion.timesteps.distilled",
        "_partial_": True,
        "original_steps": original_steps,
        "final": -1.0,
    }
    return sampling_node(grid, bound) | {
        "scheduler": scheduler,
        "num_inference_steps": 4,
        "guidance_scale": 1.0,
    }


def lcm_node(time_scale: float = 10.0) -> Node:
    """The solver of latent consistency models."""
    return {"_target_": "ldm.schedulers.consistency.LCM", "sigma_data": 0.5, "time_scale": time_scale}
