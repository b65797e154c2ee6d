"""Folders of diffusers in all the forms they have on disks; what is missing there is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm.checkpoints import load_model
from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.converter import write_checkpoint
from ldm.checkpoints.diffusers_folder import split

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
Make = Callable[..., LoadedModel]
UNET = "unet/diffusion_pytorch_model"


def test_weights_of_a_folder_may_be_pickles(weights: ModuleType, folder: Path, model: LoadedModel):
    for name, bin in (
        (UNET, UNET),
        ("vae/diffusion_pytorch_model",) * 2,
        ("text_encoder/model", "text_encoder/pytorch_model"),
    ):
        state = load_file(folder / f"{name}.safetensors")
        (folder / f"{name}.safetensors").unlink()
        torch.save(state, folder / f"{bin}.bin")
    loaded = load_model(folder)
    assert torch.equal(weights.weight(loaded), weights.weight(model))


def test_a_variant_is_taken_when_asked_for_or_alone(weights: ModuleType, folder: Path, model: LoadedModel):
    state = load_file(folder / f"{UNET}.safetensors")
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        half = {k: v.half() for k, v in load_file(folder / part / f"{stem}.safetensors").items()}
        save_file(half, folder / part / f"{stem}.fp16.safetensors")
    assert weights.weight(load_model(folder, dtype=None)).dtype == torch.float32
    assert weights.weight(load_model(folder, dtype=None, variant="fp16")).dtype == torch.float16
    (folder / f"{UNET}.safetensors").unlink()
    assert torch.equal(weights.weight(load_model(folder)), state["conv_in.weight"].half().float())
    with pytest.raises(
        FileNotFoundError, match=r"no weights of the variant 'bf16' in .*unet, where there is"
    ):
        load_model(folder, variant="bf16")


def test_sharded_weights_are_put_together(weights: ModuleType, folder: Path, model: LoadedModel):
    state = load_file(folder / f"{UNET}.safetensors")
    (folder / f"{UNET}.safetensors").unlink()
    names = sorted(state)
    shards = {f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for name, keys in shards.items():
        save_file({key: state[key] for key in keys}, folder / "unet" / name)
    index = {"weight_map": {key: name for name, keys in shards.items() for key in keys}}
    (folder / f"{UNET}.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(weights.weight(load_model(folder)), weights.weight(model))
    (folder / "unet" / next(iter(shards))).unlink()
    with pytest.raises(FileNotFoundError, match="00001-of-00002"):
        load_model(folder)


@pytest.mark.parametrize(
    ("file", "key", "value", "says"),
    [
        (
            "unet/config.json",
            "class_embed_type",
            "timestep",
            r"class_embed_type of the unet must be None .*'timestep'",
        ),
        (
            "unet/config.json",
            "down_block_types",
            ["AttnDownBlock2D"],
            r"down_block_types of the unet must be one of",
        ),
        ("vae/config.json", "act_fn", "relu", r"act_fn of the vae must be 'silu' for ldm, got 'relu'"),
        ("text_encoder/config.json", "hidden_act", "relu", r"hidden_act of the text encoder must be one of"),
        (
            "scheduler/scheduler_config.json",
            "prediction_type",
            "flow",
            r"prediction_type of the scheduler must be one",
        ),
        (
            "scheduler/scheduler_config.json",
            "thresholding",
            True,
            r"thresholding of the scheduler must be False",
        ),
    ],
)
def test_options_that_our_nets_do_not_have_are_named(
    file: str, key: str, value: Any, says: str, folder: Path
):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=says):
        load_model(folder)


def test_a_config_that_lacks_something_is_named(folder: Path):
    path = folder / "unet" / "config.json"
    config = json.loads(path.read_text())
    del config["block_out_channels"]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"folder: its config lacks or garbles 'block_out_channels'"):
        load_model(folder)


def test_older_names_of_the_autoencoders_attention_are_understood(
    weights: ModuleType, stable_diffusion: Make, tmp_path: Path
):
    model = stable_diffusion("sd1", 0)
    write_checkpoint(model, tmp_path / "a", "diffusers")
    path = tmp_path / "a" / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(name: str) -> str:
        for new, before in old.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{before}.")
        return name

    state = {renamed(name): value for name, value in load_file(path).items()}
    assert any(".query." in name for name in state)
    save_file(state, path)
    assert weights.identical(weights.states(load_model(tmp_path / "a")), weights.states(model))


def test_query_key_and_value_are_split_where_they_are_apart():
    joined = torch.arange(12.0).reshape(6, 2)
    names = {"in_proj": ("q", "k", "v"), "bias": ("b",)}
    parts = split({"in_proj": joined, "bias": torch.ones(3)}, names)
    assert list(parts) == ["q", "k", "v", "b"]
    assert parts["k"].tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert all(part.is_contiguous() for part in parts.values())


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_of_another_family_is_named(folder: Path):
    edit(folder / "model_index.json", _class_name="StableDiffusionXLPipeline")
    with pytest.raises(ValueError, match=r"folder: this is a StableDiffusionXLPipeline, SDXL"):
        load_model(folder)


def test_other_numbers_of_input_channels_are_refused_by_name(folder: Path):
    for channels, family in ((5, "depth"), (8, "InstructPix2Pix")):
        edit(folder / "unet/config.json", in_channels=channels)
        with pytest.raises(ValueError, match=f"{channels} input channels .*{family}"):
            load_model(folder)


@pytest.mark.parametrize(("part", "says"), [("unet", "no folder unet"), ("vae", "no folder vae.*vae=FILE")])
def test_a_part_that_is_missing_is_named(part: str, says: str, folder: Path):
    shutil.rmtree(folder / part)
    with pytest.raises(ValueError, match=says):
        load_model(folder)


def test_folders_that_hold_no_pipeline_say_what_to_give(folder: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds a UNet2DConditionModel alone: give .*folder"):
        load_model(folder / "unet")
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.ckpt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"has no model_index\.json: give one of its files \(model\.ckpt\)"):
        load_model(other)
    (other / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds low-rank adapters: give it as lora="):
        load_model(other)
    (other / "adapter_config.json").unlink()
    (other / "archive").mkdir()
    (other / "archive" / "data.pkl").write_bytes(b"x")
    with pytest.raises(ValueError, match="a checkpoint of torch that was unpacked"):
        load_model(other)


def test_a_rectangular_size_is_that_of_the_images(folder: Path, tmp_path: Path):
    edit(folder / "unet/config.json", sample_size=[48, 64])
    model = load_model(folder)
    factor = model.components["autoencoder"].downscale
    assert model.config["image_size"] == [48 * factor, 64 * factor]
    write_checkpoint(model, tmp_path / "again", "diffusers")
    assert load_model(tmp_path / "again").config == model.config


def test_the_index_names_the_scheduler_where_its_config_does_not(folder: Path):
    path = folder / "scheduler/scheduler_config.json"
    config = {k: v for k, v in json.loads(path.read_text()).items() if k != "_class_name"}
    path.write_text(json.dumps(config | {"set_alpha_to_one": False}))
    edit(folder / "model_index.json", scheduler=["diffusers", "EulerDiscreteScheduler"])
    assert load_model(folder).config["sampling"]["timesteps"]["final"] == -1.0


def test_the_rest_of_clip_is_left_out(weights: ModuleType, folder: Path, model: LoadedModel):
    path = folder / "text_encoder/model.safetensors"
    state = load_file(path)
    rest = {"logit_scale": torch.ones(()), "text_projection.weight": torch.ones(2, 2)}
    rest |= {"vision_model.embeddings.class_embedding": torch.ones(2)}
    rest |= {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(state | rest, path)
    assert weights.identical(weights.states(load_model(folder)), weights.states(model))
    save_file(state | {"surprise.weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"unexpected surprise\.weight"):
        load_model(folder)
    assert weights.identical(weights.states(load_model(folder, strict=False)), weights.states(model))


def test_a_distilled_net_has_the_settings_of_its_paper(folder: Path, tmp_path: Path):
    edit(folder / "unet/config.json", time_cond_proj_dim=16)
    edit(folder / "scheduler/scheduler_config.json", _class_name="LCMScheduler")
    state = load_file(folder / f"{UNET}.safetensors")
    width = len(state["time_embedding.linear_1.weight"]) // 4
    extra = {"time_embedding.cond_proj.weight": torch.randn(width, 16)}
    save_file(state | extra, folder / f"{UNET}.safetensors")
    model = load_model(folder)
    sampling = model.config["sampling"]
    assert (sampling["num_inference_steps"], sampling["guidance_scale"]) == (4, 8.5)
    assert torch.equal(model.components["backbone"].guidance_embed.weight, next(iter(extra.values())))
    for target, format in (("again", "diffusers"), ("one.safetensors", "original")):
        write_checkpoint(model, tmp_path / target, format)
        assert load_model(tmp_path / target).components["backbone"].guidance_dim == 16
