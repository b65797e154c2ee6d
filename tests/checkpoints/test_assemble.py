"""A model is filled by every tensor of its source, byte for byte; those that do not fit are listed."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ldm.checkpoints import load_model
from ldm.checkpoints.assemble import LoadedModel, MismatchError, Source, assemble, build_empty
from ldm.checkpoints.diffusers_folder import split
from ldm.checkpoints.keymaps import DIFFUSERS, POINTWISE
from ldm.checkpoints.names import in_single_file, theirs
from ldm.checkpoints.tensors import TensorFiles

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
Make = Callable[..., LoadedModel]


class InMemory(TensorFiles):
    """Tensors that no file holds."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__([])
        self.shapes = {name: tuple(value.shape) for name, value in tensors.items()}
        self.get = lambda name, dtype=None: tensors[name]


def in_diffusers(component: str, node: dict[str, Any], keys: Any) -> dict[str, tuple[str, ...]]:
    return theirs(component, node, keys, DIFFUSERS)


@pytest.mark.parametrize("family", ["sd1", "inpaint", "sd2"])
@pytest.mark.parametrize("seeds", [range(8), pytest.param(range(8, 36), marks=pytest.mark.slow)])
def test_names_lead_there_and_back_for_every_tensor(
    weights: ModuleType, family: str, seeds: range, stable_diffusion: Make
):
    """Random configurations: ours -> diffusers -> ours and ours -> original -> ours, byte for byte."""
    for seed in seeds:
        model = stable_diffusion(family, seed)
        ours = weights.states(model)
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
            assert weights.identical(weights.states(assemble(source, "cpu", None)), ours)


def test_all_tensors_that_do_not_fit_are_listed_by_component(folder: Path):
    state = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    del state["conv_in.weight"]
    state["conv_out.bias"] = torch.zeros(7)
    state["extra.weight"] = torch.zeros(1)
    save_file(state, folder / "unet/diffusion_pytorch_model.safetensors")
    with pytest.raises(MismatchError, match="3 tensors do not fit") as error:
        load_model(folder)
    lines = str(error.value).splitlines()
    assert lines[1].strip() == "backbone:"
    assert lines[2].strip().startswith("missing conv_in.weight (")
    assert lines[3].strip() == "shape of conv_out.bias: expected (4,), got (7,)"
    assert [line.strip() for line in lines[4:]] == ["besides:", "unexpected extra.weight (1,)"]


def test_components_that_are_given_are_not_looked_for_in_the_files(draw_stable_diffusion: Any):
    config = draw_stable_diffusion("sd1", 0)
    given = {name: nn.Identity() for name in ("autoencoder", "text_encoder", "backbone")}
    source = Source(path=Path("memory"), config=config, files={}, names=in_diffusers)
    assert assemble(source, "cpu", None, given).components == given


def test_an_empty_net_has_shapes_alone_and_draws_nothing(draw_stable_diffusion: Any):
    before = torch.random.get_rng_state()
    net = build_empty(draw_stable_diffusion("sd1", 0)["backbone"] | {"_partial_": True}, "backbone")
    assert all(parameter.is_meta for parameter in net.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_component_that_is_no_module_is_an_error():
    with pytest.raises(ValueError, match=r"backbone: must be a module with a _target_, got dict"):
        build_empty({"channels": [4]}, "backbone")
