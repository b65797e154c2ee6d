"""What does not fit a pipeline is refused by name."""

from types import SimpleNamespace

import pytest

from ldm.pipelines.fit import (
    SETTINGS,
    check_complete,
    check_input_channels,
    check_same_latents,
    check_settings,
)
from ldm.utils.errors import UserError

COMPLETE = {"diffusion": {}, "sampling": dict.fromkeys(SETTINGS), "image_size": 8}


def test_a_complete_config_passes():
    check_settings(COMPLETE)


@pytest.mark.parametrize("key", COMPLETE)
def test_a_missing_section_is_named(key: str):
    with pytest.raises(UserError, match=f"the config of the model lacks '{key}'"):
        check_settings({name: value for name, value in COMPLETE.items() if name != key})


@pytest.mark.parametrize("key", SETTINGS)
def test_a_missing_setting_is_named(key: str):
    sampling = {name: None for name in SETTINGS if name != key}
    with pytest.raises(UserError, match=f"lacks {key} in 'sampling'"):
        check_settings(COMPLETE | {"sampling": sampling})


def test_nets_with_other_inputs_name_the_pipeline_that_fits():
    autoencoder = SimpleNamespace(latent_channels=4)
    check_input_channels(autoencoder, SimpleNamespace(in_channels=4), 0)
    check_input_channels(autoencoder, SimpleNamespace(in_channels=9), 5)
    with pytest.raises(UserError, match=r"9 input channels .* use InpaintPipeline"):
        check_input_channels(autoencoder, SimpleNamespace(in_channels=9), 0)
    with pytest.raises(UserError, match=r"7 input channels .* not supported"):
        check_input_channels(autoencoder, SimpleNamespace(in_channels=7), 5)


def test_two_nets_of_other_latents_are_refused():
    own = SimpleNamespace(in_channels=4, position_size=None)
    check_same_latents("weak", own, own)
    with pytest.raises(UserError, match="weak is not for the same latents: in_channels 8, not 4"):
        check_same_latents("weak", own, SimpleNamespace(in_channels=8, position_size=None))


def test_nets_of_other_families_get_no_advice_to_inpaint():
    autoencoder = SimpleNamespace(latent_channels=4)
    for channels, extra in ((5, 0), (8, 0), (8, 5)):
        with pytest.raises(UserError, match=f"{channels} input channels .* not supported") as error:
            check_input_channels(autoencoder, SimpleNamespace(in_channels=channels), extra)
        assert "inpaint" not in str(error.value).lower()


def test_parts_that_a_checkpoint_lacks_are_named():
    check_complete("a", ["autoencoder", "text_encoder", "backbone"])
    with pytest.raises(UserError, match="a is no complete model: it has no autoencoder, text_encoder, backb"):
        check_complete("a", [])
    with pytest.raises(UserError, match=r"a is no complete model: it has no text_encoder$"):
        check_complete("a", ["autoencoder", "backbone"])
    with pytest.raises(UserError, match="a holds an autoencoder alone: give it as vae="):
        check_complete("a", ["autoencoder"])
