"""ldm-convert: every way, and its mistakes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm.checkpoints import load_model, save_model
from ldm.checkpoints.converter import write_checkpoint
from ldm.checkpoints.tensors import TensorFiles
from ldm.cli.convert import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def model(stable_diffusion, tmp_path, monkeypatch):
    """A small model in a file of ours, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    made = stable_diffusion("sd1", 0)
    save_model("a.safetensors", made.components, made.config)
    return made


def test_tensors_that_do_not_fit_are_listed_one_a_line(model, capsys):
    weights = model.components["backbone"]
    weights.conv_in.weight = torch.nn.Parameter(torch.zeros(32, 4, 5, 5))
    del weights.conv_in.bias
    weights.register_buffer("surprise", torch.zeros(3))
    save_model("broken.safetensors", model.components, model.config)
    assert main(["input=broken.safetensors", "output=b.safetensors"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("ldm-convert: broken.safetensors: 3 tensors do not fit")
    assert [line.strip().split(" (")[0] for line in lines[1:]] == [
        "backbone:",
        "missing backbone.conv_in.bias",
        "shape of backbone.conv_in.weight: expected",
        "besides:",
        "unexpected backbone.surprise",
    ]
    assert not Path("b.safetensors").exists()


def test_there_and_back(model, capsys):
    assert main(["input=a.safetensors", "output=folder", "format=diffusers"]) == 0
    assert main(["input=folder", "output=single.ckpt", "format=original"]) == 0
    assert main(["input=single.ckpt", "output=b.safetensors", "dtype=bf16"]) == 0
    assert capsys.readouterr().out.split() == ["folder", "single.ckpt", "b.safetensors"]
    loaded = load_model("b.safetensors", dtype=None)
    weight = loaded.components["backbone"].conv_in.weight
    assert torch.equal(weight, model.components["backbone"].conv_in.weight.bfloat16())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["output=b.safetensors"], "input: needs a value"),
        (["input=absent.ckpt", "output=b.safetensors"], "absent.ckpt"),
        (["input=a.safetensors", "output=b.safetensors", "format=onnx"], "format: must be one of"),
        (["input=a.safetensors", "output=a.safetensors"], "exists"),
        (["input=a.safetensors", "output=b.safetensors", "dtype=int8"], "dtype: must be one of"),
        (["input=a.safetensors", "output=b.safetensors", "fromat=ldm"], "did you mean 'format'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, says, model, capsys):
    before = Path("a.safetensors").read_bytes()
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert says in lines[0]
    assert [p.name for p in Path().iterdir()] == ["a.safetensors"]
    assert Path("a.safetensors").read_bytes() == before


def test_keys_named_as_groups_of_training_are_keys_here(stable_diffusion, tmp_path, monkeypatch, capsys):
    """conf/prediction and conf/ema are for ldm-train."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(stable_diffusion("sd2", 0), Path("a.ckpt"), "original")
    ways = ["input=a.ckpt", "output=b.safetensors"]
    assert main(ways) == 2
    assert "prediction must be given" in capsys.readouterr().err
    assert main([*ways, "prediction=v", "ema=false"]) == 0
    config = json.loads(TensorFiles([Path("b.safetensors")]).metadata["config"])
    assert config["diffusion"]["prediction"]["_target_"].endswith("Velocity")


def test_another_autoencoder_is_taken_and_foreign_tensors_are_left_out_on_request(model, capsys):
    write_checkpoint(model, Path("folder"), "diffusers")
    vae = load_file("folder/vae/diffusion_pytorch_model.safetensors")
    save_file({name: value + 1 for name, value in vae.items()}, "vae.safetensors")
    assert main(["input=folder", "output=b.safetensors", "vae=vae.safetensors"]) == 0
    weight = load_model("b.safetensors").components["autoencoder"].quant_conv.weight
    assert torch.equal(weight, model.components["autoencoder"].quant_conv.weight + 1)
    assert main(["input=folder", "output=c.safetensors", "vae=absent.safetensors"]) == 2
    assert "vae: no model file at absent.safetensors" in capsys.readouterr().err
    save_file(vae | {"surprise.weight": torch.ones(2)}, "folder/vae/diffusion_pytorch_model.safetensors")
    assert main(["input=folder", "output=d.safetensors"]) == 2
    assert "strict=false leaves these out" in capsys.readouterr().err
    assert main(["input=folder", "output=d.safetensors", "strict=false"]) == 0
