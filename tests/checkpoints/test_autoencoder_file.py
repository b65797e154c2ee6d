"""Autoencoders alone, in every form they are published in, stand in the place of a model's own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm.checkpoints import convert_checkpoint, load_model, save_model
from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.converter import write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
VAE = "first_stage_model."
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, stable_diffusion: Callable[..., LoadedModel]) -> Path:
    """A model in each format; "other" has another autoencoder of its kind."""
    path = tmp_path_factory.mktemp("autoencoders")
    model = stable_diffusion("sd1", 0)
    write_checkpoint(model, path / "own.safetensors", "original")
    write_checkpoint(model, path / "own", "diffusers")
    state = {k: v + 0.5 for k, v in model.components["autoencoder"].state_dict().items()}
    model.components["autoencoder"].load_state_dict(state)
    write_checkpoint(model, path / "other.safetensors", "original")
    write_checkpoint(model, path / "other", "diffusers")
    save_model(path / "native.safetensors", model.components, model.config)
    tensors = {k: v for k, v in load_file(path / "other.safetensors").items() if k.startswith(VAE)}
    save_file({k.removeprefix(VAE): v for k, v in tensors.items()}, path / "bare.safetensors")
    save_file(tensors, path / "prefixed.safetensors")
    loss = {"loss.logvar": torch.zeros(3), "model_ema.decay": torch.ones(2)}
    bare = {k.removeprefix(VAE): v for k, v in tensors.items()}
    torch.save({"state_dict": bare | loss, "epoch": 3}, path / "vae.ckpt")
    save_file(load_file(path / "other" / "vae" / WEIGHTS), path / "diffusers.safetensors")
    lacking = {k: v for k, v in load_file(path / "own.safetensors").items() if not k.startswith(VAE)}
    save_file(lacking, path / "lacking.safetensors")
    shutil.copytree(path / "own", path / "lacking")
    shutil.rmtree(path / "lacking" / "vae")
    return path


def first(model: LoadedModel) -> Tensor:
    return model.components["autoencoder"].quant_conv.weight


FORMS = ["bare.safetensors", "prefixed.safetensors", "vae.ckpt", "diffusers.safetensors", "other.safetensors"]
FORMS += ["other", "other/vae", f"other/vae/{WEIGHTS}", "native.safetensors"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_autoencoder_takes_the_place_of_the_models_own(form: str, place: Path):
    own, other = load_model(place / "own.safetensors"), load_model(place / "other.safetensors")
    found = load_model(place / "own.safetensors", vae=place / form)
    assert found.config == own.config
    for name in ("text_encoder", "backbone"):
        for key, value in own.components[name].state_dict().items():
            assert torch.equal(found.components[name].state_dict()[key], value)
    for key, value in other.components["autoencoder"].state_dict().items():
        assert torch.equal(found.components["autoencoder"].state_dict()[key], value)
    assert not torch.equal(first(found), first(own))


@pytest.mark.parametrize("model", ["lacking.safetensors", "lacking"])
def test_a_model_without_an_autoencoder_asks_for_one_and_takes_it(model: str, place: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"has no .*(autoencoder|vae).*vae=FILE or FOLDER"):
        load_model(place / model)
    found = load_model(place / model, vae=place / "bare.safetensors")
    assert torch.equal(first(found), first(load_model(place / "other")))
    convert_checkpoint(place / model, tmp_path / "whole.safetensors", vae=place / "other/vae")
    assert torch.equal(first(load_model(tmp_path / "whole.safetensors")), first(found))


@pytest.mark.parametrize("form", [*FORMS[:4], "other/vae"])
def test_an_autoencoder_alone_is_a_model_of_one_part(form: str, place: Path):
    found = load_model(place / form)
    assert list(found.components) == ["autoencoder"]
    assert torch.equal(first(found), first(load_model(place / "other")))
    assert found.config["autoencoder"]["scaling_factor"] == 0.18215


def test_the_scale_of_a_folder_holds_and_that_of_a_file_is_the_models(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    shutil.copytree(place / "other/vae", tmp_path / "vae")
    config = json.loads((tmp_path / "vae/config.json").read_text())
    (tmp_path / "vae/config.json").write_text(json.dumps(config | {"scaling_factor": 0.5}))
    found = load_model(place / "own", vae=tmp_path / "vae")
    assert found.config["autoencoder"]["scaling_factor"] == 0.5
    assert "0.5" in caplog.text
    shutil.copytree(place / "own", tmp_path / "own")
    (tmp_path / "own/vae/config.json").write_text(json.dumps(config | {"scaling_factor": 0.3}))
    found = load_model(tmp_path / "own", vae=place / "bare.safetensors")
    assert found.config["autoencoder"]["scaling_factor"] == 0.3


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda place: {"w": torch.zeros(2)}, r"vae: .*is neither a model of ldm"),
        (
            lambda place: {
                k: v for k, v in load_file(place / "own.safetensors").items() if not k.startswith(VAE)
            },
            r"vae: .*(has no autoencoder|no autoencoder)",
        ),
        (lambda place: {"quantize.embedding.weight": torch.zeros(2)}, "vae: .*vector-quantised"),
    ],
)
def test_what_is_no_autoencoder_is_named(make: Any, says: str, place: Path, tmp_path: Path):
    save_file(make(place), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=says):
        load_model(place / "own", vae=tmp_path / "a.safetensors")
    with pytest.raises(FileNotFoundError, match=r"vae: no model file at .*absent\.pt"):
        load_model(place / "own", vae=tmp_path / "absent.pt")


def test_an_autoencoder_of_other_latents_is_refused(
    place: Path, tmp_path: Path, stable_diffusion: Callable[..., LoadedModel]
):
    write_checkpoint(stable_diffusion("sd1", 0, f8=True), tmp_path / "f8.safetensors", "original")
    with pytest.raises(
        ValueError, match="is not for the latents of this model: the number of levels must be"
    ):
        load_model(place / "own", vae=tmp_path / "f8.safetensors")
