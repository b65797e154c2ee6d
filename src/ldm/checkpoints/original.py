"""Original single files (CompVis, Stability), identified by names and shapes of their tensors."""

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ldm.checkpoints.diffusers_config import (
    READ_SCALE,
    diffusion_node,
    distilled_node,
    lcm_node,
    sampling_node,
)
from ldm.checkpoints.ema_names import PREFIX, ema_name, parameter_name
from ldm.checkpoints.families import check_channels, check_family
from ldm.checkpoints.keymaps import ORIGINAL, PREFIXES
from ldm.checkpoints.modelspec import image_size_of, prediction_of
from ldm.checkpoints.names import unused, vae_attention_name
from ldm.checkpoints.tensors import TensorFiles
from ldm.checkpoints.vae_shapes import NORM_GROUPS, SCALING_FACTOR, autoencoder_of, count
from ldm.models.tokenizer import END_OF_TEXT
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]
HEADS_1, HEAD_DIM, WIDTH_2 = 8, 64, 1024  # what the original code has and its files do not record
VIT_H_LAYERS = 24  # in the files; Stable Diffusion 2.x reads the output of the layer before the last
UNET, VAE = PREFIXES["backbone"], PREFIXES["autoencoder"]
EMA_NET = f"{PREFIX}diffusion_model"
TEXT_1, TEXT_2 = PREFIXES["text_encoder_1"], PREFIXES["text_encoder_2"]
PREDICTIONS = {"eps": "Epsilon", "v": "Velocity"}
SCHEDULE = {
    "_target_": "ldm.diffusion.schedule.scaled_linear",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
GRID = {"_target_": "ldm.diffusion.timesteps.leading", "_partial_": True, "offset": 1, "final": 0.0}


def is_original(shapes: Shapes) -> bool:
    """True if there are tensors under the names of an original single file's U-Net or its EMA weights."""
    return any(name.startswith((UNET, EMA_NET)) or f".{UNET}input_blocks." in f".{name}" for name in shapes)


def prepare(files: TensorFiles, ema: bool) -> None:
    """Leaves the model's tensors only, under their usual names.

    Args:
        files: an original file.
        ema: take the EMA weights of the U-Net where the file has them besides.

    Raises: ValueError if the EMA weights are asked for, or are all there is, and are not complete.
    """
    unwrap(files, f"{UNET}input_blocks.0.0.weight")
    _take_ema(files, ema)
    layers = count(files.shapes, rf"{re.escape(TEXT_2)}transformer\.resblocks\.(\d+)\.")

    def change(name: str) -> str | None:
        if unused(name) or files.shapes[name] == ():
            return None
        if name.startswith("cond_stage_model.transformer.") and not name.startswith(TEXT_1):
            name = name.replace("cond_stage_model.transformer.", TEXT_1, 1)
        if name.startswith(VAE):
            name = vae_attention_name(name, ORIGINAL)
        last = layers == VIT_H_LAYERS and name.startswith(f"{TEXT_2}transformer.resblocks.{layers - 1}.")
        return None if last or unused(name) else name

    files.rename(change)


def unwrap(files: TensorFiles, known: str) -> None:
    """Takes away what wrappers ("module.", "_orig_mod.") put in front of all names.

    Args:
        files: to be renamed.
        known: the end of a name that the file has.
    """
    prefix = next((n.removesuffix(known) for n in files.shapes if n.endswith(f".{known}")), "")
    if prefix:
        files.rename(lambda name: name.removeprefix(prefix))


def _take_ema(files: TensorFiles, ema: bool) -> None:
    """Puts the EMA weights of the U-Net in its place, if asked for or if there is nothing else."""
    shadows = {
        name.removeprefix(PREFIX).replace(".", ""): name for name in files.shapes if name.startswith(EMA_NET)
    }
    net = [name for name in files.shapes if name.startswith(UNET)]
    if not shadows or (net and not ema):
        return
    if not ema:
        raise UserError("its U-Net has EMA weights alone: ema=true takes them")
    lacking = [name for name in net if ema_name(name) not in shadows]
    if lacking:
        raise UserError(
            f"it has EMA weights for {len(net) - len(lacking)} of the {len(net)} tensors of its U-Net, not "
            f"for {lacking[0]}: ema=false takes the weights of the training"
        )
    names = {there: parameter_name(shadow) or there for shadow, there in shadows.items()}
    files.rename(lambda name: None if name.startswith(UNET) else name)
    files.rename(lambda name: names.get(name, name))
    log.info("took the EMA weights of the U-Net (ema)")


def _backbone(shapes: Shapes, second: bool) -> dict[str, Any]:
    """Our U-Net's arguments, of 1.x or of the second generation."""
    unet = {name.removeprefix(UNET): shape for name, shape in shapes.items() if name.startswith(UNET)}
    blocks = count(unet, r"input_blocks\.(\d+)\.")
    halved = sorted(i for i in range(blocks) if f"input_blocks.{i}.0.op.weight" in unet)
    layers = (halved[0] if halved else blocks) - 1
    first = [1 + i * (layers + 1) for i in range(len(halved) + 1)]  # first residual block of each level
    channels = [unet[f"input_blocks.{n}.0.out_layers.3.weight"][0] for n in first]
    middle = "middle_block.1.transformer_blocks"
    has = [f"input_blocks.{n}.1.transformer_blocks.0.attn2.to_k.weight" in unet for n in first]
    return {
        "_target_": "ldm.models.unet.UNet",
        "in_channels": unet["input_blocks.0.0.weight"][1],
        "out_channels": unet["out.2.weight"][0],
        "channels": channels,
        "layers_per_block": layers,
        "attention": ["cross" if cross else "none" for cross in has],
        "mid_attention": "cross",
        "num_heads": heads(channels, second),
        "head_dim": None,
        "context_dim": unet[f"{middle}.0.attn2.to_k.weight"][1],
        "transformer_depth": count(unet, rf"{re.escape(middle)}\.(\d+)\."),
        "linear_projection": len(unet["middle_block.1.proj_in.weight"]) == 2,
        "norm_groups": NORM_GROUPS,
        "dropout": 0.0,
        **(
            {"guidance_dim": unet[guidance][1]} if (guidance := "time_embed.cond_proj.weight") in unet else {}
        ),
    }


def heads(channels: list[int], second: bool) -> int | list[int]:
    """Attention heads in the original code: 8 in 1.x, of 64 channels each in 2.x."""
    return [max(c // HEAD_DIM, 1) for c in channels] if second else HEADS_1


def _text_encoder(shapes: Shapes) -> dict[str, Any]:
    first = f"{TEXT_1}embeddings.token_embedding.weight" in shapes
    prefix = TEXT_1 if first else TEXT_2
    tokens = f"{prefix}embeddings.token_embedding.weight" if first else f"{prefix}token_embedding.weight"
    positions = "embeddings.position_embedding.weight" if first else "positional_embedding"
    blocks = "encoder.layers" if first else "transformer.resblocks"
    vocabulary, width = shapes[tokens]
    if first and width == WIDTH_2:
        raise UserError("its text encoder is that of 2.x under the names of 1.x, which ldm does not read")
    mlp_width = shapes[f"{prefix}{blocks}.0.mlp.{'fc1' if first else 'c_fc'}.weight"][0]
    return {
        "_target_": "ldm.models.clip.ClipTextEncoder",
        "width": width,
        "layers": count(shapes, rf"{re.escape(prefix + blocks)}\.(\d+)\."),
        "num_heads": max(width // HEAD_DIM, 1),
        "quick_gelu": first,
        "pad_token": END_OF_TEXT if first else 0,
        "max_length": shapes[prefix + positions][0],
        "vocabulary_size": vocabulary,
        **({} if mlp_width == 4 * width else {"mlp_width": mlp_width}),
    }


def _check_parts(names: Iterable[str], given: Collection[str]) -> None:
    """Raises ValueError naming the parts that a file lacks.

    Args:
        names: of its tensors.
        given: parts that come from elsewhere.
    """
    prefixes = {
        "autoencoder": ((VAE,), "autoencoder (VAE, first_stage_model.*)", "vae=FILE or FOLDER adds one"),
        "text_encoder": (
            (TEXT_1, TEXT_2),
            "text encoder (cond_stage_model.*)",
            "take a file of the whole model, or a folder of diffusers",
        ),
    }
    for part, (starts, title, remedy) in prefixes.items():
        if part not in given and not any(name.startswith(starts) for name in names):
            raise UserError(f"it has no {title}: {remedy}")


@contextmanager
def _architecture(prefix: str = "") -> Iterator[None]:
    """Reports a tensor that is missing under its whole name."""
    try:
        yield
    except KeyError as error:
        raise UserError(f"{prefix}{error.args[0]} is missing, which shows the architecture") from error


def _autoencoder(shapes: Shapes, given: Collection[str]) -> dict[str, Any]:
    """The node of the autoencoder; none for one that is damaged or foreign where another takes its place."""
    vae = {name.removeprefix(VAE): shape for name, shape in shapes.items() if name.startswith(VAE)}
    try:
        with _architecture(VAE):
            return {"autoencoder": autoencoder_of(vae)} if vae else {}
    except UserError:
        if "autoencoder" in given:
            return {}
        raise


def config_of(
    shapes: Shapes, metadata: Mapping[str, str], prediction: str | None, given: Collection[str] = ()
) -> dict[str, Any]:
    """The config of the model in an original file, by the shapes of its tensors.

    Args:
        shapes: of its tensors, prepared.
        metadata: of the file; its prediction type and resolution by the modelspec standard are believed.
        prediction: "eps" or "v"; None: what the file records. 1.x predicts eps.
        given: parts that come from elsewhere, and have no node unless the file has them.

    Raises: ValueError if something is missing, or for a model of another family.
    """
    check_family(shapes)
    _check_parts(shapes, given)
    with _architecture():
        text = _text_encoder(shapes)
    with _architecture(UNET):
        backbone = _backbone(shapes, second=not text["quick_gelu"])
    autoencoder = _autoencoder(shapes, given)
    check_channels(backbone["in_channels"], backbone["out_channels"])
    recorded = prediction or prediction_of(metadata)
    if recorded is None and not text["quick_gelu"]:
        raise UserError(
            "prediction must be given for a file of Stable Diffusion 2.x, which does not record it: eps "
            "(512 pixels, base) or v (768 pixels)"
        )
    if (recorded := recorded or "eps") not in PREDICTIONS:
        raise UserError(f"prediction must be one of {list(PREDICTIONS)}, got {recorded!r}")
    return {
        **autoencoder,
        "text_encoder": text,
        "backbone": backbone,
        "diffusion": diffusion_node(SCHEDULE, PREDICTIONS[recorded]),
        "sampling": _sampling(backbone),
        "image_size": image_size_of(metadata) or (768 if recorded == "v" and not text["quick_gelu"] else 512),
        "caption_dropout": 0.1,
    }


def _sampling(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling settings: those of latent consistency models for a net that reads the guidance scale."""
    if "guidance_dim" not in backbone:
        return sampling_node(GRID)
    return distilled_node(lcm_node()) | {"guidance_scale": READ_SCALE}


def check_expressible(config: Mapping[str, Any]) -> None:
    """Checks that an original file, which holds no config, would be read back as this model.

    Raises: ValueError naming what such a file cannot say.
    """
    backbone, text = config["backbone"], config["text_encoder"]
    channels = list(backbone["channels"])
    wanted = heads(channels, second=not text["quick_gelu"])
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
        (not text.get("added_tokens"), "text_encoder.added_tokens have no place in it"),
        (config["diffusion"]["schedule"] == SCHEDULE, "diffusion.schedule must be Stable Diffusion's"),
    ]
    checks += [
        (config[name]["norm_groups"] == NORM_GROUPS, f"{name}.norm_groups must be {NORM_GROUPS}")
        for name in ("backbone", "autoencoder")
    ]
    if wrong := [text for right, text in checks if not right]:
        raise UserError(f"an original file cannot hold this model: {'; '.join(wrong)}")
