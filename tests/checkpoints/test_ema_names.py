"""The names of EMA weights lead back to the parameters that they belong to."""

from collections.abc import Callable

import pytest

from ldm.checkpoints.assemble import LoadedModel, build_empty
from ldm.checkpoints.ema_names import ema_name, parameter_name
from ldm.checkpoints.names import in_single_file


def names_of(config: dict, module: object) -> list[str]:
    names = in_single_file("backbone", config["backbone"], list(module.state_dict()))  # type: ignore[attr-defined]
    return [name for (name,) in names.values()]


@pytest.mark.parametrize("family", ["sd1", "sd2", "inpaint"])
def test_names_without_dots_lead_back(family: str, stable_diffusion: Callable[..., LoadedModel]):
    for seed in range(3):
        model = stable_diffusion(family, seed)
        for name in names_of(model.config, model.components["backbone"]):
            assert parameter_name(ema_name(name)) == name


def test_those_of_the_published_net_lead_back():
    """12 blocks each way: two digits in front of another one."""
    node = {
        "_target_": "ldm.models.unet.UNet",
        "in_channels": 4,
        "out_channels": 4,
        "channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "attention": ["cross", "cross", "cross", "none"],
        "context_dim": 768,
        "guidance_dim": 256,
    }
    names = names_of({"backbone": node}, build_empty(node, "backbone"))
    assert len(names) == 687
    assert [parameter_name(ema_name(name)) for name in names] == names


def test_other_names_lead_nowhere():
    for name in (
        "decay",
        "num_updates",
        "diffusion_modellabel_emb00weight",
        "first_stage_modelencoderconv_inweight",
    ):
        assert parameter_name(name) is None
