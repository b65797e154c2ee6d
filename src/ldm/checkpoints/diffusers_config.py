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
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
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
SCHEDULE_FIXED: Node = {"thresholding": False, "trained_betas": None}

ATTENTION = {"DownBlock2D": "none", "CrossAttnDownBlock2D": "cross"}
ACTIVATIONS = {"quick_gelu": True, "gelu": False}
BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = {"epsilon": "Epsilon", "v_prediction": "Velocity", "sample": "Sample"}


def _check_fixed(what: str, given: Mapping[str, Any], fixed: Node) -> None:
    for key, value in fixed.items():
        if given.get(key, value) != value:
            raise UserError(f"{key} of the {what} must be {value!r} for ldm, got {given[key]!r}")


def _one_of(what: str, key: str, value: Any, allowed: Mapping[Any, Any]) -> Any:
    if value not in allowed:
        raise UserError(f"{key} of the {what} must be one of {list(allowed)} for ldm, got {value!r}")
    return allowed[value]


def _uniform(what: str, key: str, value: Any) -> Any:
    """One number for all levels."""
    values = value if isinstance(value, list) else [value]
    if len(set(values)) != 1:
        raise UserError(f"{key} of the {what} must be one number for ldm, got {value!r}")
    return values[0]


def backbone_node(given: Mapping[str, Any]) -> Node:
    """Our U-Net's arguments from the config of a UNet2DConditionModel."""
    what = "unet"
    _check_fixed(what, given, UNET_FIXED)
    attention = [_one_of(what, "down_block_types", kind, ATTENTION) for kind in given["down_block_types"]]
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
        "channels": list(given["block_out_channels"]),
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
        "norm_groups": given["norm_num_groups"],
        "dropout": given.get("dropout", 0.0),
    }


def backbone_json(node: Node, image_size: int, downscale: int) -> Node:
    """The config of a UNet2DConditionModel from our U-Net's arguments."""
    down = {kind: name for name, kind in ATTENTION.items()}
    if node.get("pooled_dim") or node.get("position_size") or node["mid_attention"] != "cross":
        raise UserError("only U-Nets in Stable Diffusion's topology have a place in diffusers")
    names = [_one_of("backbone", "attention", kind, down) for kind in node["attention"]]
    channels = list(node["channels"])
    heads = node["num_heads"]
    if node.get("head_dim") is not None:
        heads = [max(c // node["head_dim"], 1) for c in channels]
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": image_size // downscale,
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
        **UNET_FIXED,
    }


def autoencoder_node(given: Mapping[str, Any]) -> Node:
    """Our autoencoder's arguments from the config of an AutoencoderKL."""
    _check_fixed("vae", given, VAE_FIXED)
    for key, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        for name in given[key]:
            _one_of("vae", key, name, {kind: None})
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
        "mid_attention": given.get("mid_block_add_attention", True),
        "norm_groups": given["norm_num_groups"],
        "scaling_factor": given.get("scaling_factor", 0.18215),
        "shift_factor": 0.0,
        "patch_shortcut": False,
    }


def autoencoder_json(node: Node, image_size: int) -> Node:
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
        "sample_size": image_size,
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
    """Our text encoder's arguments from the config of a CLIPTextModel.

    Args:
        given: its config.
        pad_token: id of the tokenizer's padding; None: what Stable Diffusion with such an activation has.
    """
    what = "text encoder"
    _check_fixed(what, given, TEXT_FIXED | {"intermediate_size": 4 * given["hidden_size"]})
    quick_gelu = _one_of(what, "hidden_act", given["hidden_act"], ACTIVATIONS)
    return {
        "_target_": "ldm.models.clip.ClipTextEncoder",
        "width": given["hidden_size"],
        "layers": given["num_hidden_layers"],
        "num_heads": given["num_attention_heads"],
        "quick_gelu": quick_gelu,
        "pad_token": (END_OF_TEXT if quick_gelu else 0) if pad_token is None else pad_token,
        "max_length": given["max_position_embeddings"],
        "vocabulary_size": given["vocab_size"],
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
        "intermediate_size": 4 * node["width"],
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


def diffusion_nodes(given: Mapping[str, Any]) -> tuple[Node, Node]:
    """Diffusion and sampling settings from the config of a diffusers scheduler: DDIM on its grid."""
    what = "scheduler"
    _check_fixed(what, given, SCHEDULE_FIXED)
    name = _one_of(what, "beta_schedule", given.get("beta_schedule", "linear"), BETAS)
    schedule: Node = {
        "_target_": f"ldm.diffusion.schedule.{name}",
        "num_train_timesteps": given.get("num_train_timesteps", 1000),
    }
    if name != "cosine":
        schedule |= {key: given.get(key, value) for key, value in (("beta_start", 1e-4), ("beta_end", 0.02))}
    if given.get("rescale_betas_zero_snr", False):
        schedule = {"_target_": "ldm.diffusion.schedule.zero_snr", "base": schedule}
    prediction = _one_of(what, "prediction_type", given.get("prediction_type", "epsilon"), PREDICTIONS)
    spacing = _one_of(
        what, "timestep_spacing", given.get("timestep_spacing", "leading"), {s: s for s in SPACINGS}
    )
    to_one = given.get("set_alpha_to_one", given.get("_class_name") != "PNDMScheduler")
    grid: Node = {
        "_target_": f"ldm.diffusion.timesteps.{spacing}",
        "_partial_": True,
        "final": -1.0 if to_one else 0.0,
    }
    if spacing == "leading":
        grid["offset"] = given.get("steps_offset", 0)
    clipped = given.get("clip_sample", given.get("_class_name") in ("DDIMScheduler", "DDPMScheduler"))
    bound = given.get("clip_sample_range", 1.0) if clipped else None
    return diffusion_node(schedule, prediction), sampling_node(grid, bound)


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


def scheduler_json(diffusion: Node, sampling: Node) -> Node:
    """The config of a DDIMScheduler from our diffusion and sampling settings.

    Its words cannot say every grid and thresholding of ours; those are left out with a warning.

    Raises: ValueError for a schedule or prediction that no such scheduler has.
    """
    schedule = diffusion["schedule"]
    zero_snr = schedule["_target_"].endswith(".zero_snr")
    schedule = schedule["base"] if zero_snr else schedule
    names = {ours: theirs for theirs, ours in BETAS.items()}
    predictions = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    betas = {key: schedule[key] for key in ("beta_start", "beta_end") if key in schedule}
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": schedule.get("num_train_timesteps", 1000),
        "beta_schedule": _one_of("folder", "schedule", _name_of(schedule), names),
        **betas,
        "prediction_type": _one_of("folder", "prediction", _name_of(diffusion["prediction"]), predictions),
        "rescale_betas_zero_snr": zero_snr,
        **_sampling_words(sampling),
        **SCHEDULE_FIXED,
    }


def _name_of(node: Node) -> str:
    """The last part of a node's target."""
    return str(node["_target_"]).rpartition(".")[2]


def _sampling_words(sampling: Node) -> Node:
    """Grid and clipping of a DDIMScheduler."""
    grid, rule = sampling["timesteps"], sampling.get("thresholding")
    spacing, final = _name_of(grid), grid.get("final", -1.0)
    if spacing not in SPACINGS or final not in (-1.0, 0.0):
        log.warning("timesteps=%s (final=%g) has no words in diffusers: trailing is written", spacing, final)
        spacing, final = "trailing", -1.0
    if rule is not None and _name_of(rule) != "Clip":
        log.warning("thresholding=%s is not written: only clip has words here", _name_of(rule))
        rule = None
    return {
        "timestep_spacing": spacing,
        "steps_offset": grid.get("offset", 0) if spacing == "leading" else 0,
        "set_alpha_to_one": final < 0,
        "clip_sample": rule is not None,
        "clip_sample_range": 1.0 if rule is None else rule.get("bound", 1.0),
    }
