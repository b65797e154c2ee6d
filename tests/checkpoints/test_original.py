"""Original single files tell their architecture by names and shapes, or say what is missing."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

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
    with pytest.raises(ValueError, match=r"token_embedding\.weight is missing"):
        config_of({"model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3)}, {}, None)


def test_heads_are_8_in_1_x_and_of_64_channels_in_2_x():
    assert heads([320, 640, 1280, 1280], linear=False) == 8
    assert heads([320, 640, 1280, 1280], linear=True) == [5, 10, 20, 20]
