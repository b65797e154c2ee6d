"""A replay uses what is typed beside it, or refuses it."""

import pytest

from ldm.cli import replay
from ldm.cli.replay import replayed_path, replayed_request, typed_keys
from ldm.utils.errors import UserError

ITEMS = [{"prompt": p, "negative_prompt": None, "seed": 4, "number": i} for i, p in enumerate(("a", "b"))]
RECIPE = {
    **{"kind": "text2img", "checkpoint": "/old.safetensors", "lora": "/style.safetensors", "lora_scale": 1.0},
    **{
        "guidance_scale": 3.0,
        "height": 64,
        "scheduler": {"_target_": "ldm.schedulers.ddim.DDIM", "eta": 0.5},
    },
    **{"variant": None, "prediction": None, "ema": True, "dtype": "fp32", "vae_slicing": False},
    **{"sha256": {"checkpoint": "1", "lora": "2"}, "ldm": "1.0", "draws": 2, "scale": 1},
    **{**ITEMS[1], "batch": ITEMS, "index": 1},
}
GIVEN = {
    **{"kind": "text2img", "checkpoint": None, "lora": None, "lora_scale": 1.0, "guidance_scale": None},
    **{"height": None, "scheduler": None, "variant": None, "prediction": None, "ema": True, "dtype": "fp32"},
    **{"strict": True, "vae": None, "vae_slicing": False, "vae_tiling": False},
}
CONFIG = GIVEN | {"prompt": None, "negative_prompt": None, "seed": 0, "output": None, "replay": "x/a.png"}


def replayed(typed=(), **values):
    given = GIVEN | {name: value for name, value in values.items() if name in GIVEN}
    return replayed_request(RECIPE, CONFIG | values, given, [*typed, *values])


def test_without_settings_the_request_is_that_of_the_recipe():
    request, batch, index, digests = replayed()
    younger = {"strict": True, "vae": None, "vae_tiling": False}  # than the recipe: as given
    plain = {"prompt_weights": False, "long_prompts": "cut"}  # as all prompts were read then
    assert request == {k: RECIPE[k] for k in request.keys() - {*younger, *plain}} | younger | plain
    assert (batch, index, digests) == (ITEMS, 1, RECIPE["sha256"])


def test_prompt_and_seed_replace_those_of_the_image_alone():
    _, batch, index, _ = replayed(prompt="c, d", seed=0, negative_prompt="e")
    assert index == 1
    assert batch[0] == ITEMS[0]
    assert batch[1] == {"prompt": "c, d", "negative_prompt": "e", "seed": 0, "number": 1}
    assert replayed(prompt=["c"], seed=[2**64 - 1])[1][1]["seed"] == 2**64 - 1
    assert ITEMS[1]["prompt"] == "b"


def test_settings_replace_recorded_ones_also_with_their_default():
    request = replayed(guidance_scale=None, dtype="bf16", vae_tiling=True, height=32)[0]
    assert [request[name] for name in ("guidance_scale", "dtype", "vae_tiling", "height")] == [
        None,
        "bf16",
        True,
        32,
    ]


def test_settings_of_the_recorded_option_are_added_to_it_and_another_option_replaces_it():
    assert replayed(scheduler={"eta": 1.0})[0]["scheduler"] == RECIPE["scheduler"] | {"eta": 1.0}
    other = {"_target_": "ldm.schedulers.ddpm.DDPM"}
    assert replayed(scheduler=other)[0]["scheduler"] == other
    assert replayed(scheduler=None)[0]["scheduler"] is None


def test_a_file_given_in_place_of_a_recorded_one_must_have_its_digest():
    request, _, _, digests = replayed(checkpoint="/new.safetensors")
    assert (request["checkpoint"], digests) == ("/new.safetensors", {"checkpoint": "1", "lora": "2"})
    request, _, _, digests = replayed(lora=None)
    assert (request["lora"], digests) == (None, {"checkpoint": "1"})
    assert replayed(checkpoint=None)[3]["checkpoint"] == "1"  # that of `ldm` must be the one


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"prompts": "a.txt"}, "prompts: must be left out with replay=, which makes one image again"),
        ({"num_images_per_prompt": 2}, "num_images_per_prompt: must be left out with replay="),
        ({"batch_size": 2}, "batch_size: must be left out"),
        ({"prompt": ["a", "b"]}, r"prompt: must be one with replay=, got \['a', 'b'\]"),
        ({"prompt": None}, "prompt: must be one with replay=, got None"),
        ({"seed": [1, 2]}, r"seed: must be one with replay=, got \[1, 2\]"),
        ({"seed": -1}, r"seed must be in \[0, 2\^64\), got -1"),
        ({"kind": "img2img", "strength": 0.5}, "kind: must be left out or go with mode=text2img, which made"),
    ],
)
def test_what_means_nothing_for_one_image_is_refused(values, line):
    with pytest.raises(UserError, match=f"^{line}"):
        replayed(**values)


def test_settings_of_another_mode_are_refused():
    image = RECIPE | {"kind": "img2img"}
    with pytest.raises(
        UserError, match=r"^height: must be left out or go with mode=img2img, which made the image$"
    ):
        replayed_request(image, CONFIG | {"height": 8}, GIVEN | {"height": 8}, ["height"])


def test_keys_of_the_run_change_nothing():
    keys = ["output", "overwrite", "device", "threads", "replay", "paths", "mode"]
    assert replayed(keys) == replayed()


def test_typed_keys_are_the_first_parts_of_the_overrides(monkeypatch):
    words = ["seed=1", "+guidance.phi=2", "~scheduler", "+without=[timesteps,noise.x]", "prompt='a=b'"]
    monkeypatch.setattr(replay, "job_overrides", lambda: words)
    assert typed_keys() == {"seed", "guidance", "scheduler", "timesteps", "noise", "prompt"}
    monkeypatch.setattr(replay, "job_overrides", list)
    assert typed_keys() == set()


def test_the_image_is_written_below_outputs_or_where_output_says():
    assert str(replayed_path(CONFIG)) == "outputs/a.png"
    assert str(replayed_path(CONFIG | {"output": "b.png"})) == "b.png"
