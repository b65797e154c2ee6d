import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ldm.checkpoints import load_model, save_model
from ldm.utils.construct import construct

CONFIG: dict[str, Any] = {
    "autoencoder": {
        "_target_": "ldm.models.vae.AutoencoderKL",
        "latent_channels": 2,
        "channels": [4, 8],
        "layers_per_block": 1,
        "mid_attention": False,
        "norm_groups": 2,
        "scaling_factor": [0.5, 2.0],
        "shift_factor": [1.0, -1.0],
    },
    "text_encoder": {
        "_target_": "ldm.models.text_encoder.TinyTextEncoder",
        "width": 8,
        "layers": 1,
        "num_heads": 2,
        "max_length": 8,
        "token_dim": 2,
    },
    "backbone": {
        "_target_": "ldm.models.unet.UNet",
        "in_channels": 2,
        "out_channels": 2,
        "channels": [4, 8],
        "attention": ["none", "cross"],
        "num_heads": 2,
        "context_dim": 8,
        "norm_groups": 2,
        "position_size": 4,
    },
    "caption_dropout": 0.1,
}


@pytest.fixture(scope="module")
def components() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: construct(CONFIG[name], name) for name in ("autoencoder", "text_encoder", "backbone")}


@pytest.fixture
def path(tmp_path: Path, components: dict[str, nn.Module]) -> Path:
    save_model(tmp_path / "model.safetensors", components, CONFIG)
    return tmp_path / "model.safetensors"


def rewritten(path: Path, **metadata: str) -> Path:
    """The file again with other metadata."""
    with safe_open(path, framework="pt") as file:
        old = file.metadata()
    save_file(load_file(path), path, old | metadata)
    return path


def test_round_trip_is_exact(path: Path, components: dict[str, nn.Module]):
    loaded = load_model(path)
    assert loaded.config == CONFIG
    assert list(loaded.components) == list(components)
    for name, module in components.items():
        ours = loaded.components[name].state_dict()
        assert ours.keys() == module.state_dict().keys()
        assert all(torch.equal(ours[key], value) for key, value in module.state_dict().items())
        assert not loaded.components[name].training


def test_buffers_that_are_not_stored_come_from_the_config(path: Path):
    autoencoder = load_model(path).components["autoencoder"]
    assert autoencoder.scale.flatten().tolist() == [0.5, 2.0]
    assert autoencoder.shift.flatten().tolist() == [1.0, -1.0]
    assert all(not tensor.is_meta for tensor in autoencoder.buffers())


def test_loading_draws_no_random_numbers(path: Path):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    load_model(path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_loading_imports_no_compiler(path: Path):
    code = f"""
import sys
from ldm.checkpoints import load_model
load_model({str(path)!r})
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_has_the_permissions_of_any_other(path: Path):
    (path.parent / "other").touch()
    assert path.stat().st_mode == (path.parent / "other").stat().st_mode


def test_half_precision_halves_the_file_and_rounds_once(tmp_path: Path, components: dict[str, nn.Module]):
    for name, dtype in (("full", None), ("half", torch.float16)):
        save_model(tmp_path / f"{name}.safetensors", components, CONFIG, dtype=dtype)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    weight = load_model(tmp_path / "half.safetensors").components["backbone"].conv_in.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, components["backbone"].conv_in.weight.half().float())


def test_dtype_converts_weights_and_buffers(path: Path):
    loaded = load_model(path, dtype=torch.bfloat16)
    tensors = [t for m in loaded.components.values() for t in (*m.parameters(), *m.buffers())]
    assert {t.dtype for t in tensors} == {torch.bfloat16}


def test_components_without_weights_are_stored_by_their_config(tmp_path: Path):
    config = {
        "autoencoder": {"_target_": "ldm.models.identity.IdentityAutoencoder", "latent_channels": 3},
        "text_encoder": {"_target_": "ldm.models.text_encoder.NullTextEncoder"},
    }
    modules = {name: construct(node) for name, node in config.items()}
    save_model(tmp_path / "m.safetensors", modules, config)
    assert load_model(tmp_path / "m.safetensors").components["autoencoder"].latent_channels == 3


def test_a_partial_node_of_a_component_is_built(path: Path):
    config = CONFIG | {"backbone": CONFIG["backbone"] | {"_partial_": True}}
    loaded = load_model(rewritten(path, config=json.dumps(config)))
    assert isinstance(loaded.components["backbone"], nn.Module)


def test_only_the_whole_file_replaces_an_old_one(
    path: Path, components: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
):
    before = path.read_bytes()

    def full_disk(tensors: Any, name: Path, metadata: Any) -> None:
        name.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ldm.checkpoints.native.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_model(path, components, CONFIG)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_does_not_exist_is_an_os_error(tmp_path: Path, components: dict[str, nn.Module]):
    with pytest.raises(OSError, match="absent"):
        save_model(tmp_path / "absent" / "model.safetensors", components, CONFIG)


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path):
    autoencoder = construct(CONFIG["autoencoder"])
    autoencoder.quant_conv.weight.data[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"autoencoder\.quant_conv\.weight holds .* torch\.float16"):
        save_model(tmp_path / "m.safetensors", {"autoencoder": autoencoder}, CONFIG, dtype=torch.float16)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "'backbone'"),
        ({"backbone": CONFIG["backbone"], "path": Path("x")}, "plain types only"),
        ({"backbone": CONFIG["backbone"], "loss": float("nan")}, "plain types only"),
    ],
)
def test_a_config_that_cannot_be_read_again_is_refused(
    tmp_path: Path, components: dict[str, nn.Module], config: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=message):
        save_model(tmp_path / "m.safetensors", {"backbone": components["backbone"]}, config)
    assert not list(tmp_path.iterdir())


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no model file at .*absent\.safetensors"):
        load_model(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_file_is_one_clear_error(path: Path, kept: int):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="is not a whole safetensors file" if kept else "is empty"):
        load_model(path)


def test_lying_header_is_one_clear_error(path: Path):
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        load_model(path)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        (None, "is neither a model of ldm nor of Stable Diffusion: .* it holds weight"),
        ({"format": "pt"}, "is neither a model of ldm nor of Stable Diffusion"),
        ({"format": "ldm", "config": "{"}, "its config is not JSON"),
        ({"format": "ldm", "config": "{}"}, "its config has none of"),
    ],
)
def test_foreign_file_is_one_clear_error(tmp_path: Path, metadata: dict[str, str] | None, says: str):
    save_file({"weight": torch.zeros(2)}, tmp_path / "m.safetensors", metadata)
    with pytest.raises(ValueError, match=says):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "ldm.cli.train.main",
        "ldm.models.vae.torch.load",
        "ldm.models.vae.dataclass",
        "ldm.models.text_encoder.Path",
        "ldm.models.vae.Absent",
        "ldm.models.absent.Net",
        "ldm.models.text_encoder.CLIP_VOCABULARY",
        7,
    ],
)
def test_foreign_targets_are_refused_by_name(path: Path, target: Any):
    config = CONFIG | {"backbone": {"_target_": target}}
    with pytest.raises(ValueError, match=r"backbone\._target_: ") as error:
        load_model(rewritten(path, config=json.dumps(config)))
    assert repr(target) in str(error.value)


def test_unknown_arguments_name_their_component(path: Path):
    config = CONFIG | {"backbone": CONFIG["backbone"] | {"chanels": [4]}}
    with pytest.raises(ValueError, match=r"backbone\.chanels: unknown key"):
        load_model(rewritten(path, config=json.dumps(config)))


def test_all_keys_that_do_not_fit_are_reported(path: Path):
    state = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    del state["backbone.conv_in.weight"], state["autoencoder.quant_conv.bias"]
    state["backbone.extra"] = torch.zeros(3)
    state["backbone.conv_out.bias"] = torch.zeros(5)
    save_file(state, path, metadata)
    with pytest.raises(ValueError, match="4 tensors do not fit") as error:
        load_model(path)
    for line in (
        "missing autoencoder.quant_conv.bias (4,)",
        "missing backbone.conv_in.weight (4, 2, 3, 3)",
        "unexpected backbone.extra (3,)",
        "shape of backbone.conv_out.bias: expected (2,), got (5,)",
    ):
        assert line in str(error.value)
