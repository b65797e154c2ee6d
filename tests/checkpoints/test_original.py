"""Original single files tell their architecture by names and shapes, or say what is missing."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from ldm.checkpoints import load_model
from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.converter import write_checkpoint
from ldm.checkpoints.original import config_of, heads

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
Make = Callable[..., LoadedModel]


@pytest.mark.parametrize("family", ["sd1", "inpaint", "sd2"])
def test_an_original_file_tells_its_architecture_by_its_shapes(
    weights: ModuleType, family: str, stable_diffusion: Make, tmp_path: Path
):
    for seed in range(3):
        model = stable_diffusion(family, seed)
        path = tmp_path / f"{seed}.ckpt"  # without metadata
        write_checkpoint(model, path, "original")
        said = model.config["diffusion"]["prediction"]["_target_"]
        found = load_model(path, prediction="v" if said.endswith("Velocity") else "eps")
        assert found.config == model.config
        assert weights.identical(weights.states(found), weights.states(model))


def test_a_file_of_2_x_must_be_told_what_it_predicts(stable_diffusion: Make, tmp_path: Path):
    write_checkpoint(stable_diffusion("sd2", 0), tmp_path / "a.ckpt", "original")
    with pytest.raises(
        ValueError, match=r"a\.ckpt: prediction must be given for a file of .* 2\.x, .*: eps .* or v"
    ):
        load_model(tmp_path / "a.ckpt")
    write_checkpoint(stable_diffusion("sd1", 0), tmp_path / "b.ckpt", "original")
    with pytest.raises(ValueError, match=r"prediction must be one of \['eps', 'v'\], got 'x0'"):
        load_model(tmp_path / "b.ckpt", prediction="x0")


def test_ema_weights_are_taken_unless_refused(stable_diffusion: Make, tmp_path: Path):
    model = stable_diffusion("sd1", 1)
    write_checkpoint(model, tmp_path / "plain.safetensors", "original")
    state = load_file(tmp_path / "plain.safetensors")
    prefix = "model.diffusion_model."
    shadows = {
        "model_ema." + key.removeprefix("model.").replace(".", ""): value + 1.0
        for key, value in state.items()
        if key.startswith(prefix)
    }
    beside = {
        "model_ema.decay": torch.tensor(0.9),
        "model_ema.num_updates": torch.tensor(3),
        "betas": torch.ones(9),
    }
    torch.save({"state_dict": state | shadows | beside, "global_step": 7}, tmp_path / "full.ckpt")
    torch.save({"state_dict": state | beside}, tmp_path / "counters.ckpt")
    weight = model.components["backbone"].conv_in.weight
    for name, options, expected in (
        ("full", {}, weight + 1.0),
        ("full", {"ema": False}, weight),
        ("counters", {}, weight),
    ):
        loaded = load_model(tmp_path / f"{name}.ckpt", **options)
        assert torch.equal(loaded.components["backbone"].conv_in.weight, expected)
        assert torch.equal(
            loaded.components["autoencoder"].quant_conv.weight,
            model.components["autoencoder"].quant_conv.weight,
        )


def test_parts_of_clip_that_the_model_does_not_use_are_left_out(stable_diffusion: Make, tmp_path: Path):
    model = stable_diffusion("sd2", 2)
    write_checkpoint(model, tmp_path / "a.safetensors", "original")
    tower, layers = "cond_stage_model.model.", model.config["text_encoder"]["layers"]
    state = load_file(tmp_path / "a.safetensors")
    last = f"{tower}transformer.resblocks.{layers - 1}."
    extra = {
        k.replace(last, f"{tower}transformer.resblocks.23."): v
        for k, v in state.items()
        if k.startswith(last)
    }
    between = {
        k.replace(last, f"{tower}transformer.resblocks.{i}."): v
        for i in range(layers, 23)
        for k, v in state.items()
        if k.startswith(last)
    }
    beside = {f"{tower}logit_scale": torch.ones(()), f"{tower}text_projection": torch.ones(2, 2)}
    torch.save(state | extra | between | beside, tmp_path / "b.ckpt")
    loaded = load_model(tmp_path / "b.ckpt", prediction="v")
    assert loaded.config["text_encoder"]["layers"] == 23  # of 24: the output of the layer before the last


def test_an_original_file_refuses_what_it_cannot_say(stable_diffusion: Make, tmp_path: Path):
    model = stable_diffusion("sd1", 3)
    for key, value, says in (
        (("backbone", "num_heads"), 4, r"num_heads must be 8, got 4"),
        (("text_encoder", "pad_token"), 0, r"text_encoder\.pad_token"),
    ):
        config = model.config | {key[0]: model.config[key[0]] | {key[1]: value}}
        changed = LoadedModel(config=config, components=model.components)
        with pytest.raises(ValueError, match=says):
            write_checkpoint(changed, tmp_path / "a.safetensors", "original")
    assert not list(tmp_path.iterdir())


def test_shapes_that_say_too_little_are_named(stable_diffusion: Make):
    shapes = {
        "first_stage_model.encoder.conv_in.weight": (4, 3, 3, 3),
        "cond_stage_model.model.ln_final.bias": (4,),
    }
    with pytest.raises(ValueError, match=r"token_embedding\.weight is missing"):
        config_of(shapes | {"model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3)}, {}, None)


def test_heads_are_8_in_1_x_and_of_64_channels_in_2_x():
    assert heads([320, 640, 1280, 1280], second=False) == 8
    assert heads([320, 640, 1280, 1280], second=True) == [5, 10, 20, 20]


SHADOW = "model_ema."
NET = "model.diffusion_model."


def shadows_of(state: dict) -> dict:
    return {
        SHADOW + k.removeprefix("model.").replace(".", ""): v + 1
        for k, v in state.items()
        if k.startswith(NET)
    }


@pytest.fixture
def single(model: LoadedModel, tmp_path: Path) -> dict:
    """The tensors of an original file."""
    write_checkpoint(model, tmp_path / "whole.safetensors", "original")
    return load_file(tmp_path / "whole.safetensors")


def test_ema_weights_alone_are_a_whole_net(
    weights: ModuleType, model: LoadedModel, single: dict, tmp_path: Path
):
    rest = {k: v for k, v in single.items() if not k.startswith(NET)}
    save_file(rest | shadows_of(single), tmp_path / "a.safetensors")
    found = load_model(tmp_path / "a.safetensors")
    for key, value in model.components["backbone"].state_dict().items():
        assert torch.equal(found.components["backbone"].state_dict()[key], value + 1)
    with pytest.raises(ValueError, match=r"EMA weights alone: ema=true takes them"):
        load_model(tmp_path / "a.safetensors", ema=False)


def test_half_of_the_ema_weights_is_refused(
    weights: ModuleType, model: LoadedModel, single: dict, tmp_path: Path
):
    half = dict(list(shadows_of(single).items())[::2])
    save_file(single | half, tmp_path / "a.safetensors")
    with pytest.raises(
        ValueError, match=rf"EMA weights for {len(half)} of the \d+ tensors .* not for model\..*ema=false"
    ):
        load_model(tmp_path / "a.safetensors")
    found = load_model(tmp_path / "a.safetensors", ema=False)
    assert torch.equal(weights.weight(found), weights.weight(model))
    rest = {k: v for k, v in single.items() if not k.startswith(NET)}
    save_file(rest | half, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"b\.safetensors"):
        load_model(tmp_path / "b.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_forward_module.model."])
def test_prefixes_of_wrappers_are_taken_away(prefix: str, weights: ModuleType, single: dict, tmp_path: Path):
    torch.save({"module": {prefix + k: v for k, v in single.items()}}, tmp_path / "a.pt")
    expected = weights.states(load_model(tmp_path / "whole.safetensors"))
    assert weights.identical(weights.states(load_model(tmp_path / "a.pt")), expected)


@pytest.mark.parametrize(
    "names", [("to_q", "to_k", "to_v", "to_out.0"), ("query", "key", "value", "proj_attn")]
)
def test_the_autoencoders_attention_is_read_under_the_names_of_old_converters(
    names: tuple[str, ...], weights: ModuleType, model: LoadedModel, single: dict, tmp_path: Path
):
    new = dict(zip(("q", "k", "v", "proj_out"), names, strict=True)) | {"norm": "group_norm"}
    pattern = r"(first_stage_model\..*\.mid\.attn_1\.)(q|k|v|proj_out|norm)\."
    renamed = {re.sub(pattern, lambda m: f"{m[1]}{new[m[2]]}.", k): v for k, v in single.items()}
    assert sum(name not in single for name in renamed) == 20
    flat = {k: v[:, :, 0, 0] if ".attn_1." in k and v.dim() == 4 else v for k, v in renamed.items()}
    save_file({k: v.contiguous() for k, v in flat.items()}, tmp_path / "a.safetensors")
    assert weights.identical(weights.states(load_model(tmp_path / "a.safetensors")), weights.states(model))


LEFT_OVERS = {
    "global_step": torch.tensor(3),
    "cond_stage_model.logit_scale": torch.tensor(4.6),
    "cond_stage_model.transformer.text_projection.weight": torch.zeros(2, 2),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    "cond_stage_model.transformer.vision_model.pre_layrnorm.bias": torch.zeros(2),
    "embedding_manager.string_to_param_dict.*": torch.zeros(1, 32),
    "first_stage_model.loss.logvar": torch.zeros(2),
    "model_ema.decay": torch.tensor(0.9),
    "any_counter": torch.tensor(7),
    "logit_scale": torch.zeros(1),
    "text_projection": torch.zeros(2, 2),
    "safety_checker.concept_embeds": torch.zeros(17, 2),
    "betas": torch.zeros(1000),
}


def test_left_overs_are_ignored_by_rule_and_unknown_tensors_unless_strict(
    weights: ModuleType, model: LoadedModel, single: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    save_file(single | LEFT_OVERS, tmp_path / "a.safetensors")
    assert weights.identical(weights.states(load_model(tmp_path / "a.safetensors")), weights.states(model))
    save_file(single | {"adapter.weight": torch.zeros(2)}, tmp_path / "b.safetensors")
    with pytest.raises(
        ValueError, match=r"unexpected adapter\.weight \(2,\)\s+strict=false leaves these out"
    ):
        load_model(tmp_path / "b.safetensors")
    assert "left out" not in caplog.text
    found = load_model(tmp_path / "b.safetensors", strict=False)
    assert weights.identical(weights.states(found), weights.states(model))
    assert "1 tensors are left out (strict): unexpected adapter.weight" in caplog.text
    lacking = {k: v for k, v in single.items() if not k.endswith("out.2.bias")}
    save_file(lacking | {"adapter.weight": torch.zeros(2)}, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match=r"missing .*out\.2\.bias"):
        load_model(tmp_path / "c.safetensors", strict=False)


def test_a_part_that_is_missing_is_named_with_the_remedy(single: dict, tmp_path: Path):
    for prefix, says in (
        ("first_stage_model.", r"has no autoencoder \(VAE, .*vae=FILE or FOLDER"),
        ("cond_stage_model.", r"has no text encoder \(cond_stage_model"),
        ("model.", r"has no U-Net \(model\.diffusion_model"),
    ):
        part = {k: v for k, v in single.items() if not k.startswith(prefix)}
        save_file(part, tmp_path / "part.safetensors")
        with pytest.raises(ValueError, match=rf"part\.safetensors.*{says}"):
            load_model(tmp_path / "part.safetensors")


def test_a_tensor_that_shows_the_architecture_is_named_in_full(single: dict, tmp_path: Path):
    for name in ("model.diffusion_model.out.2.weight", "first_stage_model.encoder.conv_in.weight"):
        save_file({k: v for k, v in single.items() if k != name}, tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match=rf"{re.escape(name)} is missing, which shows the architecture"):
            load_model(tmp_path / "a.safetensors")


def test_another_autoencoder_takes_the_place_of_a_damaged_one(single: dict, tmp_path: Path):
    damaged = {k: v for k, v in single.items() if not k.startswith("first_stage_model.encoder.conv_in.")}
    save_file(damaged, tmp_path / "a.safetensors")
    found = load_model(tmp_path / "a.safetensors", vae=tmp_path / "whole.safetensors")
    whole = load_model(tmp_path / "whole.safetensors")
    for name in ("autoencoder", "backbone"):
        assert_close(found.components[name].state_dict(), whole.components[name].state_dict(), rtol=0, atol=0)


def test_quantised_weights_are_named(single: dict, tmp_path: Path):
    name = "model.diffusion_model.out.2.weight"
    save_file(single | {name: single[name].to(torch.int8)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=rf"{re.escape(name)} holds int8, .* no quantised weights"):
        load_model(tmp_path / "a.safetensors")


def test_a_prediction_is_checked_against_what_a_model_records(model: LoadedModel, tmp_path: Path):
    write_checkpoint(model, tmp_path / "a.safetensors", "ldm")
    assert load_model(tmp_path / "a.safetensors", prediction="eps").config == model.config
    for prediction, says in (("v", "left out for this model, which records Epsilon"), ("epsilon", "one of")):
        with pytest.raises(ValueError, match=f"prediction must be {says}"):
            load_model(tmp_path / "a.safetensors", prediction=prediction)


def test_models_of_other_families_are_named(single: dict, tmp_path: Path):
    for name, family in (
        ("control_model.input_hint_block.0.weight", "ControlNet"),
        ("model.diffusion_model.label_emb.0.0.weight", "SDXL"),
        ("depth_model.model.w", "depth"),
    ):
        save_file(single | {name: torch.zeros(4, 4)}, tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match=rf"a\.safetensors: this is .*{family}"):
            load_model(tmp_path / "a.safetensors")
    first = "model.diffusion_model.input_blocks.0.0.weight"
    save_file(single | {first: torch.zeros(len(single[first]), 8, 3, 3)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="InstructPix2Pix"):
        load_model(tmp_path / "b.safetensors")


def test_metadata_of_the_modelspec_standard_are_believed(single: dict, tmp_path: Path):
    said = {"modelspec.prediction_type": "v_prediction", "modelspec.resolution": "768x512"}
    save_file(single, tmp_path / "a.safetensors", said)
    config = load_model(tmp_path / "a.safetensors").config
    assert config["diffusion"]["prediction"]["_target_"].endswith(".Velocity")
    assert config["image_size"] == [512, 768]
    given = load_model(tmp_path / "a.safetensors", prediction="eps").config
    assert given["diffusion"]["prediction"]["_target_"].endswith(".Epsilon")


def test_text_encoders_of_any_mlp_width_are_read(single: dict, tmp_path: Path):
    wide = {}
    for name, value in single.items():
        if ".mlp.fc1." in name:
            value = torch.cat([value, value[:8]])
        elif ".mlp.fc2.weight" in name:
            value = torch.cat([value, value[:, :8]], dim=1)
        wide[name] = value
    save_file(wide, tmp_path / "a.safetensors")
    found = load_model(tmp_path / "a.safetensors")
    node = found.config["text_encoder"]
    assert node["mlp_width"] == 4 * node["width"] + 8
    assert found.components["text_encoder"].encode(["a"]).tokens.isfinite().all()
