"""The architecture of an autoencoder by its tensors, in both spellings of their names."""

from collections.abc import Callable

import pytest

from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.names import theirs
from ldm.checkpoints.vae_shapes import SPELLINGS, autoencoder_of, count, spelling_of

Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(params=SPELLINGS, ids=["original", "diffusers"])
def shapes(request: pytest.FixtureRequest, stable_diffusion: Callable[..., LoadedModel]) -> Shapes:
    model = stable_diffusion("sd1", 0, f8=True)
    state = model.components["autoencoder"].state_dict()
    names = theirs("autoencoder", model.config["autoencoder"], list(state), request.param.column)
    return {names[key][0]: tuple(value.shape) for key, value in state.items()}


def test_the_shapes_tell_the_architecture(shapes: Shapes, stable_diffusion: Callable[..., LoadedModel]):
    spelling = spelling_of(shapes)
    assert spelling is not None
    assert autoencoder_of(shapes, spelling) == stable_diffusion("sd1", 0, f8=True).config["autoencoder"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoder.conv_in.weight": (32, 3, 3, 3, 3)}, "is one of videos"),
        ({"quant_conv.weight": None}, "has no quant_conv, as those of SD 3 and Flux"),
    ],
)
def test_autoencoders_of_other_families_are_named(change: dict, says: str, shapes: Shapes):
    changed = {name: shape for name, shape in {**shapes, **change}.items() if shape is not None}
    spelling = spelling_of(shapes)
    assert spelling is not None
    with pytest.raises(ValueError, match=says):
        autoencoder_of(changed, spelling)


def test_half_an_autoencoder_is_none(shapes: Shapes):
    assert spelling_of(name for name in shapes if name.startswith("encoder.")) is None


def test_numbers_are_counted():
    assert count(["a.0.b", "a.11.b", "c"], r"a\.(\d+)\.") == 12
    assert count(["c"], r"a\.(\d+)\.") == 0
