"""Models of other families are named, and the published parts of Stable Diffusion are of none."""

import re
from typing import Any

import pytest

from ldm.checkpoints.families import TENSORS, check_channels, check_family, check_pipeline, family_of, part_of

UNET = "model.diffusion_model."
FOREIGN = {
    "control_model.input_hint_block.0.weight": "ControlNet",
    "controlnet_cond_embedding.conv_in.weight": "ControlNet",
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": "adapters: lora=",
    "unet.down_blocks.0.attentions.0.proj_in.lora_A.weight": "adapters",
    "emb_params": "textual inversion",
    "<cat-toy>": "textual inversion",
    "conditioner.embedders.1.model.token_embedding.weight": "SDXL",
    f"{UNET}label_emb.0.0.weight": "SDXL",
    "conditioner.embedders.0.model.ln_final.weight": "refiner",
    f"{UNET}joint_blocks.0.context_block.attn.qkv.weight": "Stable Diffusion 3",
    f"{UNET}double_blocks.0.img_attn.qkv.weight": "Flux",
    "single_transformer_blocks.0.attn.to_q.weight": "Flux",
    f"{UNET}input_blocks.1.0.time_stack.in_layers.0.weight": "Video",
    "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": "AnimateDiff",
    "depth_model.model.pretrained.cls_token": "depth",
    f"{UNET}label_emb.weight": "upscaler",
    "first_stage_model.quantize.embedding.weight": "vector-quantised",
    "cond_stage_model.transformer.token_emb.weight": "before Stable Diffusion",
    "cond_stage_model.roberta.embeddings.LayerNorm.weight": "AltDiffusion",
    "body.0.rdb1.conv1.weight": "super-resolution",
    "image_proj.latents": "IP-Adapter",
    "noise_augmentor.data_mean": "unCLIP",
    "adaln_single.linear.weight": "PixArt",
    "effnet_mapper.0.weight": "Cascade",
    "concept_embeds_weights": "safety checker",
}


@pytest.mark.parametrize(("name", "family"), FOREIGN.items())
def test_a_family_is_known_by_a_name(name: str, family: str):
    with pytest.raises(
        ValueError, match=rf"this is .*{re.escape(family)}.*ldm runs Stable Diffusion 1\.x and 2\.x"
    ):
        check_family([f"{UNET}input_blocks.0.0.weight", name])


def test_each_family_has_a_name_here_that_it_alone_explains():
    assert {family_of([name]) for name in FOREIGN} == {family for _, family in TENSORS}
    assert family_of(["betas", f"{UNET}out.2.bias", "first_stage_model.quant_conv.bias"]) is None


def test_a_part_alone_is_named():
    assert part_of(["time_embedding.linear_1.weight"]) == "the U-Net"
    assert part_of(["text_model.encoder.layers.0.mlp.fc1.weight"]) == "the text encoder"
    assert part_of(["w"]) is None


@pytest.mark.parametrize(
    ("channels", "family"), [(5, "depth-to-image"), (7, "upscaler"), (8, "Pix2Pix"), (6, "")]
)
def test_other_numbers_of_input_channels_are_refused_without_advice_to_inpaint(channels: int, family: str):
    for allowed in (4, 9):
        check_channels(allowed, 4)
    with pytest.raises(ValueError, match=f"{channels} input channels .* not supported.*{family}") as error:
        check_channels(channels, 4)
    assert "inpaint" not in str(error.value).lower()


SD: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.32.0",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": [None, None],
    "requires_safety_checker": True,
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"_class_name": "StableDiffusionImg2ImgPipeline", "vae": [None, None]},
        {"_class_name": "StableDiffusionInpaintPipeline", "tokenizer": ["transformers", "CLIPTokenizerFast"]},
        {"_class_name": "LatentConsistencyModelPipeline"},
        {"_class_name": "StableDiffusionLongPromptWeightingPipeline"},
    ],
)
def test_pipelines_of_stable_diffusion_pass(change: dict[str, Any]):
    check_pipeline(SD | change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"_class_name": "StableDiffusionXLPipeline"}, "StableDiffusionXLPipeline, SDXL"),
        ({"_class_name": "StableDiffusionXLInpaintPipeline"}, "SDXL"),
        ({"_class_name": "StableDiffusion3Pipeline"}, r"SD 3\)"),
        ({"_class_name": "FluxPipeline"}, "Flux"),
        ({"_class_name": "StableDiffusionControlNetPipeline"}, "ControlNet"),
        ({"_class_name": "StableDiffusionUpscalePipeline"}, "upscaler"),
        ({"_class_name": "StableDiffusionDepth2ImgPipeline"}, "depth-to-image"),
        ({"_class_name": "StableDiffusionInstructPix2PixPipeline"}, "InstructPix2Pix"),
        ({"_class_name": "StableUnCLIPPipeline"}, "unCLIP"),
        ({"_class_name": "StableVideoDiffusionPipeline"}, "videos"),
        ({"_class_name": "KandinskyV22Pipeline"}, "Kandinsky"),
        ({"transformer": ["diffusers", "SD3Transformer2DModel"]}, "transformer of a StableDiffusionPipeline"),
        ({"text_encoder_2": ["transformers", "T5EncoderModel"]}, "text_encoder_2"),
        ({"text_encoder": ["transformers", "T5EncoderModel"]}, "text_encoder must be a CLIPTextModel"),
        (
            {"vae": ["diffusers", "AutoencoderTiny"]},
            "vae must be a AutoencoderKL for ldm, got AutoencoderTiny",
        ),
        ({"unet": ["diffusers", "UNetSpatioTemporalConditionModel"]}, "unet must be a UNet2DConditionModel"),
    ],
)
def test_other_pipelines_are_named(change: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        check_pipeline(SD | change)
