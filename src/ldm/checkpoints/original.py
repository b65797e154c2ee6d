"""Original single files (CompVis, Stability), identified by names and shapes of their tensors."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from ldm.checkpoints.diffusers_config import diffusion_node, sampling_node
from ldm.checkpoints.keymaps import PREFIXES
from ldm.checkpoints.names import unused
from ldm.checkpoints.tensors import TensorFiles
from ldm.models.tokenizer import END_OF_TEXT
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]
NORM_GROUPS, HEADS_1, HEAD_DIM = 32, 8, 64  # what the original code has and its files do not say
SCALING_FACTOR = 0.18215
VIT_H_LAYERS = 24  # in the files; Stable Diffusion 2.x reads the output of the layer before the last
UNET, VAE = PREFIXES["backbone"], PREFIXES["autoencoder"]
TEXT_1, TEXT_2 = PREFIXES["text_encoder_1"], PREFIXES["text_encoder_2"]
PREDICTIONS = {"eps": "Epsilon", "v": "Velocity"}
MODELSPEC = {"epsilon": "eps", "v": "v"}
SCHEDULE = {
    "_target_": "ldm.diffusion.schedule.scaled_linear",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
GRID = {"_target_": "ldm.diffusion.timesteps.leading", "_partial_": True, "offset": 1, "final": 0.0}


def is_original(shapes: Shapes) -> bool:
    """True if the names are those of an original single file."""
    return f"{UNET}input_blocks.0.0.weight" in shapes and f"{VAE}encoder.conv_in.weight" in shapes


def prepare(files: TensorFiles, ema: bool) -> None:
    """Leaves the model's tensors only, under their usual names.

    Args:
        files: an original file.
        ema: take the EMA weights of the U-Net where the file has them besides.
    """
    shadows = {name for name in files.shapes if name.startswith("model_ema.")}
    if ema and len(shadows) > 2:  # not only its counters
        names = {_shadow(name): name for name in files.shapes if name.startswith(UNET)}
        files.rename(lambda name: None if name.startswith(UNET) and _shadow(name) in shadows else name)
        files.rename(lambda name: names.get(name, name))
        log.info("took the EMA weights of the U-Net (ema)")
    layers = _count(files.shapes, rf"{re.escape(TEXT_2)}transformer\.resblocks\.(\d+)\.")

    def change(name: str) -> str | None:
        if name.startswith("cond_stage_model.transformer.") and not name.startswith(TEXT_1):
            name = name.replace("cond_stage_model.transformer.", TEXT_1, 1)
        last = layers == VIT_H_LAYERS and name.startswith(f"{TEXT_2}transformer.resblocks.{layers - 1}.")
        return None if last or unused(name) else name

    files.rename(change)


def _shadow(name: str) -> str:
    """The name of the EMA weight of a parameter."""
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that the pattern finds in a name; 0 when it finds none."""
    found = [int(match[1]) for name in shapes if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1


def _backbone(shapes: Shapes) -> dict[str, Any]:
    unet = {name.removeprefix(UNET): shape for name, shape in shapes.items() if name.startswith(UNET)}
    blocks = _count(unet, r"input_blocks\.(\d+)\.")
    halved = sorted(i for i in range(blocks) if f"input_blocks.{i}.0.op.weight" in unet)
    layers = (halved[0] if halved else blocks) - 1
    first = [1 + i * (layers + 1) for i in range(len(halved) + 1)]  # first residual block of each level
    channels = [unet[f"input_blocks.{n}.0.out_layers.3.weight"][0] for n in first]
    middle = "middle_block.1.transformer_blocks"
    linear = len(unet["middle_block.1.proj_in.weight"]) == 2
    has = [f"input_blocks.{n}.1.transformer_blocks.0.attn2.to_k.weight" in unet for n in first]
    return {
        "_target_": "ldm.models.unet.UNet",
        "in_channels": unet["input_blocks.0.0.weight"][1],
        "out_channels": unet["out.2.weight"][0],
        "channels": channels,
        "layers_per_block": layers,
        "attention": ["cross" if cross else "none" for cross in has],
        "mid_attention": "cross",
        "num_heads": heads(channels, linear),
        "head_dim": None,
        "context_dim": unet[f"{middle}.0.attn2.to_k.weight"][1],
        "transformer_depth": _count(unet, rf"{re.escape(middle)}\.(\d+)\."),
        "linear_projection": linear,
        "norm_groups": NORM_GROUPS,
        "dropout": 0.0,
    }


def heads(channels: list[int], linear: bool) -> int | list[int]:
    """Attention heads in the original code: 8 in 1.x, of 64 channels each in 2.x."""
    return [max(c // HEAD_DIM, 1) for c in channels] if linear else HEADS_1


def _autoencoder(shapes: Shapes) -> dict[str, Any]:
    vae = {name.removeprefix(VAE): shape for name, shape in shapes.items() if name.startswith(VAE)}
    levels = _count(vae, r"encoder\.down\.(\d+)\.")
    return {
        "_target_": "ldm.models.vae.AutoencoderKL",
        "in_channels": vae["encoder.conv_in.weight"][1],
        "latent_channels": vae["post_quant_conv.weight"][0],
        "channels": [vae[f"encoder.down.{i}.block.0.conv2.weight"][0] for i in range(levels)],
        "layers_per_block": _count(vae, r"encoder\.down\.0\.block\.(\d+)\."),
        "mid_attention": "encoder.mid.attn_1.q.weight" in vae,
        "norm_groups": NORM_GROUPS,
        "scaling_factor": SCALING_FACTOR,
        "shift_factor": 0.0,
        "patch_shortcut": False,
    }


def _text_encoder(shapes: Shapes) -> dict[str, Any]:
    first = f"{TEXT_1}embeddings.token_embedding.weight" in shapes
    prefix = TEXT_1 if first else TEXT_2
    tokens = f"{prefix}embeddings.token_embedding.weight" if first else f"{prefix}token_embedding.weight"
    positions = "embeddings.position_embedding.weight" if first else "positional_embedding"
    blocks = r"encoder\.layers" if first else r"transformer\.resblocks"
    vocabulary, width = shapes[tokens]
    return {
        "_target_": "ldm.models.clip.ClipTextEncoder",
        "width": width,
        "layers": _count(shapes, rf"{re.escape(prefix)}{blocks}\.(\d+)\."),
        "num_heads": max(width // HEAD_DIM, 1),
        "quick_gelu": first,
        "pad_token": END_OF_TEXT if first else 0,
        "max_length": shapes[prefix + positions][0],
        "vocabulary_size": vocabulary,
    }


def config_of(shapes: Shapes, metadata: Mapping[str, str], prediction: str | None) -> dict[str, Any]:
    """The config of the model in an original file, by the shapes of its tensors.

    Args:
        shapes: of its tensors, prepared.
        metadata: of the file; a "modelspec.prediction_type" is believed.
        prediction: "eps" or "v"; None: what the file says. 1.x predicts eps.

    Raises: ValueError if a tensor that tells the architecture is missing, or if a 2.x file does not say what
        it predicts.
    """
    try:
        text, backbone, autoencoder = _text_encoder(shapes), _backbone(shapes), _autoencoder(shapes)
    except KeyError as error:
        raise UserError(f"{error.args[0]} is missing, which tells the architecture") from error
    said = prediction or MODELSPEC.get(metadata.get("modelspec.prediction_type", ""))
    if said is None and not text["quick_gelu"]:
        raise UserError(
            "prediction must be given for a file of Stable Diffusion 2.x, which does not record it: eps "
            "(512 pixels, base) or v (768 pixels)"
        )
    said = said or "eps"
    if said not in PREDICTIONS:
        raise UserError(f"prediction must be one of {list(PREDICTIONS)}, got {said!r}")
    return {
        "autoencoder": autoencoder,
        "text_encoder": text,
        "backbone": backbone,
        "diffusion": diffusion_node(SCHEDULE, PREDICTIONS[said]),
        "sampling": sampling_node(GRID),
        "image_size": 768 if said == "v" else 512,
        "caption_dropout": 0.1,
    }


def check_expressible(config: Mapping[str, Any]) -> None:
    """Checks that an original file, which holds no config, would be read back as this model.

    Raises: ValueError naming what such a file cannot say.
    """
    backbone, text = config["backbone"], config["text_encoder"]
    channels = list(backbone["channels"])
    wanted = heads(channels, backbone["linear_projection"])
    given: Any = backbone["num_heads"]
    if backbone.get("head_dim") is not None:
        given = [max(c // backbone["head_dim"], 1) for c in channels]
    spread = {tuple(h) if isinstance(h, list) else (h,) * len(channels) for h in (wanted, given)}
    checks = [
        (len(spread) == 1, f"backbone.num_heads must be {wanted}, got {given}"),
        (
            text["num_heads"] == max(text["width"] // HEAD_DIM, 1),
            "text_encoder.num_heads must make heads of 64 channels",
        ),
        (text["quick_gelu"] != backbone["linear_projection"], "text_encoder.quick_gelu must be of 1.x only"),
        (
            text["pad_token"] == (END_OF_TEXT if text["quick_gelu"] else 0),
            "text_encoder.pad_token must be that of the release",
        ),
        (
            config["autoencoder"]["scaling_factor"] == SCALING_FACTOR,
            f"autoencoder.scaling_factor must be {SCALING_FACTOR}",
        ),
        (config["diffusion"]["schedule"] == SCHEDULE, "diffusion.schedule must be Stable Diffusion's"),
    ]
    checks += [
        (config[name]["norm_groups"] == NORM_GROUPS, f"{name}.norm_groups must be {NORM_GROUPS}")
        for name in ("backbone", "autoencoder")
    ]
    if wrong := [text for right, text in checks if not right]:
        raise UserError(f"an original file cannot hold this model: {'; '.join(wrong)}")
