"""Models of other families than Stable Diffusion 1.x and 2.x, recognised by the names in their files."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ldm.utils.errors import UserError

RUNS = "ldm runs Stable Diffusion 1.x and 2.x and its own models"

# Names of tensors -> what they belong to; the first that is found counts.
TENSORS: tuple[tuple[str, str], ...] = (
    (r"(^|\.)control_model\.|^controlnet_|^input_hint_block\.|^cond_embedding\.", "a ControlNet"),
    (r"(^|\.)lora_(up|down|A|B|unet|te)|\.lora\.|\.hada_w|\.lokr_w|lora_linear", "low-rank adapters: lora="),
    (r"^(string_to_param|emb_params|clip_[lg])$|^<.+>$", "an embedding of textual inversion"),
    (r"(^|\.)(ip_adapter|image_proj)\.", "an IP-Adapter"),
    (r"motion_modules\.", "a motion module of AnimateDiff"),
    (r"(time_stack|time_mixer|temporal_transformer_block)", "Stable Video Diffusion, a model of videos"),
    (r"conditioner\.embedders\.1\.|(^|\.)add_embedding\.", "SDXL (Stable Diffusion XL)"),
    (r"conditioner\.embedders\.0\.model\.", "the refiner of SDXL (Stable Diffusion XL)"),
    (r"(^|\.)noise_augmentor\.|^embedder\.model\.", "Stable unCLIP, which starts from images"),
    (r"(^|\.)depth_model\.", "the depth-to-image model of Stable Diffusion 2"),
    (r"(^|\.)low_scale_model\.|\.label_emb\.weight$", "the upscaler of Stable Diffusion"),
    (r"(^|\.)label_emb\.0\.", "SDXL (Stable Diffusion XL), or another model with a class embedding"),
    (r"(^|\.)joint_blocks\.|\.attn\.add_q_proj\.", "Stable Diffusion 3 (SD 3)"),
    (r"(^|\.)(double_blocks|single_transformer_blocks)\.", "Flux, or another transformer of its kind"),
    (r"(^|\.)(adaln_single|caption_projection)\.", "PixArt"),
    (r"(^|\.)(effnet_mapper|clip_txt_mapper)\.", "Stable Cascade (Würstchen)"),
    (r"(^|\.)quantize\.embedding", "a model with a vector-quantised autoencoder (VQ)"),
    (
        r"cond_stage_model\.(transformer\.token_emb|embedding)\.",
        "latent diffusion of before Stable Diffusion",
    ),
    (r"cond_stage_model\.(roberta|transformer\.roberta)\.", "AltDiffusion"),
    (
        r"^(params_ema\.)?(conv_first|body\.\d+|model\.0)\.|\.RDB\d\.|\.rdb\d\.",
        "a network of super-resolution",
    ),
    (r"^concept_embeds|^special_care_embeds", "the safety checker of Stable Diffusion"),
)
PARTS: tuple[tuple[str, str], ...] = (
    (r"(^|\.)(input_blocks\.0\.0|time_embedding\.linear_1)\.", "the U-Net"),
    (r"(^|\.)(text_model\.encoder|transformer\.resblocks|encoder\.layers)\.", "the text encoder"),
)
CHANNELS = {
    5: "the depth-to-image model of Stable Diffusion 2",
    7: "the upscaler of Stable Diffusion",
    8: "InstructPix2Pix or IC-Light, which edit images",
}
# Classes of diffusers' pipelines -> what they run; the first that is found counts.
PIPELINES: tuple[tuple[str, str], ...] = (
    (r"XL", "SDXL (Stable Diffusion XL)"),
    (r"StableDiffusion3", "Stable Diffusion 3 (SD 3)"),
    (r"Flux", "Flux"),
    (r"StableCascade|Wuerstchen", "Stable Cascade (Würstchen)"),
    (r"ControlNet", "ControlNet"),
    (r"Adapter", "T2I-Adapter"),
    (r"Upscale|SuperResolution", "an upscaler"),
    (r"Depth2Img", "the depth-to-image model"),
    (r"InstructPix2Pix", "InstructPix2Pix"),
    (r"[Uu]n[Cc][Ll][Ii][Pp]", "unCLIP, which starts from images"),
    (r"ImageVariation|VersatileDiffusion|PaintByExample", "a model that takes images as prompts"),
    (r"Video|AnimateDiff", "a model of videos"),
    (r"GLIGEN", "GLIGEN, which takes boxes"),
    (r"AltDiffusion", "AltDiffusion"),
    (r"Kandinsky", "Kandinsky"),
    (r"PixArt", "PixArt"),
    (r"^IF|DeepFloyd", "DeepFloyd IF"),
)
OWN_PARTS = {
    "vae": "AutoencoderKL",
    "unet": "UNet2DConditionModel",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
}
IDLE_PARTS = frozenset({"scheduler", "safety_checker", "feature_extractor", "image_encoder"})


def family_of(names: Iterable[str]) -> str | None:
    """Family of a foreign model by the names of its tensors; None if they are of no family known here."""
    everything = list(names)
    for pattern, family in TENSORS:
        found = re.compile(pattern)
        if any(found.search(name) for name in everything):
            return family
    return None


def part_of(names: Iterable[str]) -> str | None:
    """The part of Stable Diffusion that a file holds alone, by the names of its tensors; None for others."""
    everything = list(names)
    for pattern, part in PARTS:
        if any(re.search(pattern, name) for name in everything):
            return part
    return None


def check_family(names: Iterable[str]) -> None:
    """Raises ValueError naming the family of a foreign model, by the names of its tensors."""
    if family := family_of(names):
        raise UserError(f"this is {family}; {RUNS}")


def check_channels(in_channels: int, latent_channels: int) -> None:
    """Checks how many channels a denoising net reads: those of the latents or, to inpaint, twice + 1.

    Raises: ValueError naming the family that has another number.
    """
    if in_channels in (latent_channels, 2 * latent_channels + 1):
        return
    family = CHANNELS.get(in_channels) if latent_channels == 4 else None
    named = f": this is {family}" if family else ""
    raise UserError(
        f"a net with {in_channels} input channels for latents of {latent_channels} is not supported{named}"
    )


def check_pipeline(index: Mapping[str, Any]) -> None:
    """Checks that the pipeline of a folder of diffusers is one of Stable Diffusion.

    Args:
        index: its `model_index.json`.

    Raises: ValueError naming its family, or the part that is of another kind.
    """
    name = str(index.get("_class_name", ""))
    if family := next((family for pattern, family in PIPELINES if re.search(pattern, name)), None):
        raise UserError(f"this is a {name}, {family}; {RUNS}")
    for part, value in index.items():
        kind = value[1] if isinstance(value, list) and len(value) == 2 else None
        if part.startswith("_") or part in IDLE_PARTS or kind is None:
            continue
        wanted = OWN_PARTS.get(part)
        if wanted is None:
            raise UserError(f"{part} of a {name} ({kind}) has no place in Stable Diffusion; {RUNS}")
        if not str(kind).removeprefix("Flax").startswith(wanted):
            raise UserError(f"{part} must be a {wanted} for ldm, got {kind}; {RUNS}")
