"""A config that no reader could build is refused, by the key of what is wrong."""

from typing import Any

import pytest

from ldm.checkpoints.readable import check_readable, diffusion_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def config(draw_stable_diffusion: Any) -> dict[str, Any]:
    config: dict[str, Any] = draw_stable_diffusion("sd1", 0)
    return config


def test_a_config_of_stable_diffusion_can_be_read(config: dict[str, Any]):
    check_readable(config)


def test_weights_that_come_from_the_file_are_not_loaded(config: dict[str, Any]):
    text = config["text_encoder"] | {"pretrained": "/absent/model.safetensors"}
    check_readable(config | {"text_encoder": text})


def test_the_weighting_of_the_loss_need_not_be_built(config: dict[str, Any]):
    weighting = {"_target_": "ldm.diffusion.weighting.Absent"}
    diffusion = diffusion_of({"diffusion": config["diffusion"] | {"weighting": weighting}})
    assert type(diffusion.weighting).__name__ == "Uniform"
    assert diffusion.schedule.num_train_timesteps == 1000


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("backbone", {"chanels": [4]}, r"backbone\.chanels: unknown key"),
        ("diffusion", {"schedule": {"_target_": "os.system"}}, r"diffusion\.schedule\._target_: "),
        ("sampling", {"timesteps": {"_target_": "ldm.diffusion.timesteps.absent"}}, r"sampling\.timesteps"),
        ("text_encoder", {"width": float("nan")}, r"^the config of a model must hold plain types only"),
        ("text_encoder", {"width": {1}}, r"^the config of a model must hold plain types only"),
    ],
)
def test_what_a_reader_could_not_build_is_named(
    name: str, change: dict[str, Any], says: str, config: dict[str, Any]
):
    with pytest.raises(ValueError, match=says):
        check_readable(config | {name: config[name] | change})


def test_a_net_that_is_no_autoencoder_is_named_with_what_it_lacks(config: dict[str, Any]):
    with pytest.raises(ValueError, match=r"^autoencoder: .*latent_channels"):
        check_readable(config | {"autoencoder": {"_target_": "ldm.models.text_encoder.NullTextEncoder"}})
