"""From each format to each other and back, every tensor keeps its bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ldm.checkpoints import convert_checkpoint, convert_diffusers_checkpoint, load_model, save_model
from ldm.checkpoints.assemble import COMPONENTS, LoadedModel, Source, assemble
from ldm.checkpoints.converter import write_checkpoint
from ldm.checkpoints.diffusers_folder import split
from ldm.checkpoints.keymaps import DIFFUSERS, POINTWISE
from ldm.checkpoints.names import in_single_file, theirs
from ldm.checkpoints.original import config_of
from ldm.checkpoints.tensors import TensorFiles

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FAMILIES = ("sd1", "inpaint", "sd2")
Make = Callable[..., LoadedModel]


class InMemory(TensorFiles):
    """Tensors that no file holds."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__([])
        self.shapes = {name: tuple(value.shape) for name, value in tensors.items()}
        self.get = lambda name, dtype=None: tensors[name]


def in_diffusers(component: str, node: dict[str, Any], keys: Any) -> dict[str, tuple[str, ...]]:
    return theirs(component, node, keys, DIFFUSERS)


def states(model: LoadedModel) -> dict[str, Tensor]:
    return {f"{c}.{k}": v for c, module in model.components.items() for k, v in module.state_dict().items()}


def identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """The same names, shapes, dtypes and bytes."""
    same = [
        a[k].shape == b[k].shape and a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a if k in b
    ]
    return a.keys() == b.keys() and all(same)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("block", range(4))
def test_names_lead_there_and_back_for_every_tensor(family: str, block: int, stable_diffusion: Make):
    """9 x 12 random configurations: ours -> diffusers -> ours and ours -> original -> ours, byte for byte."""
    for seed in range(9 * block, 9 * block + 9):
        model = stable_diffusion(family, seed)
        ours = states(model)
        for names in (in_diffusers, in_single_file):
            files: dict[str, InMemory] = {}
            for component, module in model.components.items():
                state = module.state_dict()
                tensors = split(state, names(component, model.config[component], list(state)))
                assert sum(t.numel() for t in tensors.values()) == sum(t.numel() for t in state.values())
                for name in tensors:
                    if name.endswith(POINTWISE):
                        tensors[name] = tensors[name][:, :, None, None]
                files[component] = InMemory(tensors)
            source = Source(path=Path("memory"), config=model.config, files=files, names=names)
            assert identical(states(assemble(source, "cpu", None)), ours)


@pytest.mark.parametrize("family", FAMILIES)
def test_files_lead_there_and_back(family: str, stable_diffusion: Make, tmp_path: Path):
    """Every ordered pair of formats; the files of the third are those of the first, byte for byte."""
    model = stable_diffusion(family, 0)
    names = {"ldm": "a.safetensors", "original": "b.safetensors", "diffusers": "c"}
    for first in names:
        start = tmp_path / f"{first}-{names[first]}"
        write_checkpoint(model, start, first)
        for second in names.keys() - {first}:
            between = tmp_path / f"{first}-{second}-{names[second]}"
            back = tmp_path / f"{first}-{second}-{first}-{names[first]}"
            convert_checkpoint(start, between, format=second)
            convert_checkpoint(between, back, format=first)
            for path in [start] if start.is_file() else sorted(start.rglob("*")):
                twin = back / path.relative_to(start)
                if path.suffix == ".safetensors":
                    assert identical(load_file(path), load_file(twin))
                elif path.is_file():
                    assert path.read_bytes() == twin.read_bytes()
        assert load_model(back).config == load_model(start).config


@pytest.mark.parametrize("family", FAMILIES)
def test_an_original_file_tells_its_architecture_by_its_shapes(
    family: str, stable_diffusion: Make, tmp_path: Path
):
    for seed in range(3):
        model = stable_diffusion(family, seed)
        path = tmp_path / f"{seed}.ckpt"  # without metadata
        write_checkpoint(model, path, "original")
        said = model.config["diffusion"]["prediction"]["_target_"]
        found = load_model(path, prediction="v" if said.endswith("Velocity") else "eps")
        assert found.config == model.config
        assert identical(states(found), states(model))


def test_a_file_of_2_x_must_be_told_what_it_predicts(stable_diffusion: Make, tmp_path: Path):
    write_checkpoint(stable_diffusion("sd2", 0), tmp_path / "a.ckpt", "original")
    with pytest.raises(
        ValueError, match=r"a\.ckpt: a file of .* 2\.x does not say .*give eps .*\(prediction\)"
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


def test_older_names_of_the_autoencoders_attention_are_understood(stable_diffusion: Make, tmp_path: Path):
    from safetensors.torch import save_file

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
    assert identical(states(load_model(tmp_path / "a")), states(model))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_converts_every_weight(dtype: torch.dtype, stable_diffusion: Make, tmp_path: Path):
    model = stable_diffusion("sd1", 0)
    save_model(tmp_path / "a.safetensors", model.components, model.config)
    convert_checkpoint(tmp_path / "a.safetensors", tmp_path / "b", format="diffusers", dtype=dtype)
    half = load_model(tmp_path / "b", dtype=None)
    assert {p.dtype for c in COMPONENTS for p in half.components[c].parameters()} == {dtype}
    convert_diffusers_checkpoint(diffusers_path=tmp_path / "b", output_path=tmp_path / "c.safetensors")
    assert identical(states(load_model(tmp_path / "c.safetensors", dtype=None)), states(half))
    assert identical(states(half), {k: v.to(dtype) for k, v in states(model).items()})


@pytest.mark.parametrize(
    ("target", "options", "says"),
    [
        ("x.bin", {}, r"format=ldm writes a file \.safetensors, got "),
        ("x.safetensors", {"format": "diffusers"}, r"format=diffusers writes a folder, got "),
        ("x.safetensors", {"format": "onnx"}, r"format must be one of .*, got 'onnx'"),
        ("there.safetensors", {}, r"there\.safetensors exists: .*overwrite=true"),
        ("full", {"format": "diffusers"}, r"full exists"),
        ("nowhere/x.safetensors", {}, r"no folder .*nowhere"),
    ],
)
def test_targets_are_checked_before_anything_is_read(
    target: str, options: dict[str, Any], says: str, tmp_path: Path
):
    (tmp_path / "there.safetensors").write_text("kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises((ValueError, OSError), match=says):
        convert_checkpoint(tmp_path / "absent", tmp_path / target, **options)
    assert (tmp_path / "there.safetensors").read_text() == "kept"


def test_a_model_of_another_topology_has_no_place_elsewhere(tmp_path: Path):
    from ldm.pipelines.shipped import shipped_model

    with shipped_model() as path:
        for format, name in (("diffusers", "a"), ("original", "a.safetensors")):
            with pytest.raises(ValueError, match=r"topology|shortcut"):
                convert_checkpoint(path, tmp_path / name, format=format)
    assert not list(tmp_path.iterdir())


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
