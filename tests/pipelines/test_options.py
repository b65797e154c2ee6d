"""Keyword arguments of a call: names of options, and diffusers' names."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ldm.diffusion.level_grids import karras
from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.thresholding import Dynamic
from ldm.diffusion.timesteps import times_of
from ldm.generation.settings import Settings
from ldm.guidance import APG, CFGRescale
from ldm.pipelines.options import ADVICE, KINDS, StepEnd, call_settings, rule
from ldm.schedulers import DDIM
from ldm.utils.errors import UserError
from ldm.utils.options import node, options

NOBODY = SimpleNamespace()


def of(**given: Any) -> Settings:
    return call_settings(NOBODY, given)


@pytest.mark.parametrize("kind", KINDS)
def test_all_options_of_the_command_line_are_taken_by_name(kind: str):
    for name, wanted in options(kind).items():
        found = getattr(of(**{kind: name}), kind)
        if kind == "timesteps":
            assert (found.func, found.keywords) == (wanted.func, wanted.keywords)
        else:
            assert found == wanted


def test_objects_nodes_and_none_are_taken_as_they_are():
    assert rule("scheduler", DDIM(eta=0.5)) == DDIM(eta=0.5)
    assert rule("scheduler", node("scheduler", "ddim")) == DDIM()
    assert rule("timesteps", karras) is karras
    assert of(scheduler=None, guidance=None, timesteps=None, thresholding=None) == Settings()
    assert (of(guidance="apg").guidance, of(thresholding="dynamic").thresholding) == (APG(), Dynamic())


@pytest.mark.parametrize(
    "times", [[900, 500, 20], (900, 500, 20), np.array([900, 500, 20]), torch.tensor([900.0, 500.0, 20.0])]
)
def test_a_list_of_times_is_a_grid_with_as_many_steps(times: Any):
    given = of(timesteps=times)
    assert given.num_inference_steps == 3
    schedule = scaled_linear(num_train_timesteps=1000)
    assert times_of(given.timesteps, schedule, 3).tolist() == [900, 500, 20, -1]
    with pytest.raises(ValueError, match="the list has 3 entries for 5 steps"):
        times_of(of(timesteps=times, num_inference_steps=5).timesteps, schedule, 5)


def test_a_list_of_levels_is_a_grid():
    schedule = scaled_linear(num_train_timesteps=1000)
    given = of(sigmas=[10.0, 1.0, 0.1])
    times = times_of(given.timesteps, schedule, given.num_inference_steps)
    alpha, sigma = schedule(times[:-1], 1, torch.float64)
    assert torch.allclose(sigma / alpha, torch.tensor([10.0, 1.0, 0.1], dtype=torch.float64), rtol=1e-6)


class Theirs:
    """A scheduler of diffusers has a `step`, too."""

    __module__ = "diffusers.schedulers.scheduling_euler_discrete"

    def step(self) -> None: ...


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"scheduler": "eulera"}, "scheduler must be one of ddim, .* did you mean 'euler"),
        ({"scheduler": DDIM}, "scheduler must be an object of ldm or one of ddim, .*, got DDIM"),
        ({"scheduler": 3}, "scheduler must be an object of ldm or one of .*, got 3"),
        ({"scheduler": Theirs()}, "scheduler must be an object of ldm or one of .*Theirs"),
        ({"guidance": 7.5}, "guidance must be an object of ldm or one of apg, .*, got 7.5"),
        ({"timesteps": 20}, "timesteps must be a list of times or one of align_your_steps, .*, got 20"),
        ({"timesteps": []}, r"timesteps must be a list of times or one of .*, got \[\]"),
        ({"timesteps": ["a"]}, "timesteps must be a list of times"),
        ({"thresholding": 0.99}, "thresholding must be an object of ldm or one of clip, dynamic, got 0.99"),
        ({"num_inference_steps": "20"}, "num_inference_steps must be a whole number, got '20'"),
        ({"num_inference_steps": 20.0}, "num_inference_steps must be a whole number, got 20.0"),
        ({"guidance_scale": "7"}, "guidance_scale must be a number, got '7'"),
        ({"on_step": 5}, "on_step must be a function, got 5"),
        ({"sigmas": 5}, "sigmas must be a list of numbers, got 5"),
        ({"sigmas": []}, r"sigmas must be a list of numbers, got \[\]"),
        ({"sigmas": "karras"}, "sigmas must be a list of numbers, got 'karras'"),
        ({"guidance_rescale": "a"}, r"guidance_rescale must be a number in \[0, 1\], got 'a'"),
        ({"guidance_rescale": 2}, r"guidance_rescale must be a number in \[0, 1\], got 2"),
        ({"output_type": "jpg"}, r"output must be one of \('pil', .*got 'jpg'"),
        ({"callback_on_step_end": 3}, "callback_on_step_end must be a function, got 3"),
        (
            {"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]},
            r"callback_on_step_end_tensor_inputs must be \['latents'\]",
        ),
    ],
)
def test_a_wrong_kind_is_one_line(given: dict[str, Any], says: str):
    with pytest.raises(UserError, match=says) as caught:
        of(**given)
    assert "\n" not in str(caught.value)


def test_names_of_diffusers_that_mean_the_same():
    assert of(output_type="np").output == "np"
    assert of(guidance_rescale=0.7).guidance == CFGRescale(phi=0.7)
    assert of(guidance_rescale=0.0).guidance is None
    assert of(generator=None, callback=None, cross_attention_kwargs=None) == Settings()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"generator": torch.Generator().manual_seed(7)}, "generator must be left out: use seed=7, which"),
        ({"generator": [torch.Generator().manual_seed(7)]}, "use seed=7"),
        ({"generator": 7}, "use seed=NUMBER"),
        *(({name: 1}, f"{name} must be left out: use ") for name in ADVICE),
        ({"output": "pil", "output_type": "np"}, "output_type must be left out where output is given"),
        ({"on_step": print, "callback_on_step_end": print}, "callback_on_step_end must be left out"),
        ({"guidance": "cfg", "guidance_rescale": 0.7}, "guidance_rescale must be left out"),
        ({"timesteps": "karras", "sigmas": [1.0]}, "sigmas must be left out"),
        ({"guidence": 1}, "unknown argument 'guidence'; did you mean 'guidance'"),
    ],
)
def test_other_names_lead_to_ours(given: dict[str, Any], says: str):
    with pytest.raises(TypeError, match=says):
        of(**given)


def test_none_is_the_default():
    """diffusers' own defaults are None for some of them, and people pass those on."""
    names = ("num_images_per_prompt", "clip_skip", "batch_size", "num_images", "eta", "guidance_scale")
    assert of(**dict.fromkeys(names)) == Settings()


@pytest.mark.parametrize("name", ["image", "mask_image", "strength"])
def test_arguments_of_another_pipeline_lead_to_it(name: str):
    with pytest.raises(TypeError, match=rf"{name} must be left out: use .*\.from_pipe\(pipeline\)"):
        of(**{name: 0.5})


def test_a_callback_gets_pipeline_step_time_and_latents():
    seen = []

    def callback(pipeline: Any, i: int, t: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        seen.append((pipeline, i, float(t), tensors["latents"].tolist()))
        return {"latents": tensors["latents"] + 1}

    on_step = of(callback_on_step_end=callback).on_step
    assert isinstance(on_step, StepEnd)
    on_step = on_step.on(torch.tensor([900.0, 400.0, -1.0]))
    assert on_step(1, torch.zeros(1), torch.ones(1)).tolist() == [1]
    assert seen == [(NOBODY, 1, 400.0, [0.0])]
    assert of(callback_on_step_end=lambda *_: None).on_step(0, torch.zeros(1), torch.zeros(1)) is None
    for returned, says in ((3, "must return a dict, got int"), ({"prompt_embeds": 0}, "the latents alone")):
        with pytest.raises(UserError, match=says):
            of(callback_on_step_end=lambda *_, r=returned: r).on_step(0, torch.zeros(1), torch.zeros(1))
