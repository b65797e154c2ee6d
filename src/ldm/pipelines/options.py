"""The keyword arguments of a call: names of options as objects, and diffusers' names for some of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from ldm.diffusion.level_grids import explicit
from ldm.diffusion.thresholding import Thresholding
from ldm.generation.settings import Options, Settings, is_number, settings
from ldm.guidance import CFGRescale
from ldm.guidance.base import Guidance
from ldm.schedulers.base import Scheduler
from ldm.utils.construct import reconstruct
from ldm.utils.errors import UserError
from ldm.utils.options import names, option

KINDS: dict[str, Any] = {
    "scheduler": Scheduler,
    "timesteps": Callable,
    "guidance": Guidance,
    "thresholding": Thresholding,
}
"""Settings that are objects, each an option of the config group of its name."""

ADVICE = {
    "generator": "seed={seed}, which makes the same image on every device and in every batch",
    "callback": "on_step, called with the step's index, the latents and the estimate of x0",
    "callback_steps": "on_step, which is called after every step",
    "cross_attention_kwargs": "load_lora(path, scale) for the scale of adapters",
    "safety_checker": "nothing: there is none",
    "image": "Image2ImagePipeline.from_pipe(pipeline)",
    "mask_image": "InpaintPipeline.from_pipe(pipeline)",
    "mask": "InpaintPipeline.from_pipe(pipeline)",
    "strength": "Image2ImagePipeline.from_pipe(pipeline)",
    "height": "an image of that size: load_image(path, size=(width, height))",
    "width": "an image of that size: load_image(path, size=(width, height))",
    "num_steps": "num_inference_steps",
    "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
}
"""Names of other programs and of other pipelines -> what to use."""


class CallOptions(Options, total=False):
    """Keyword arguments of every pipeline: `ldm.generation.Settings`, and diffusers' names for some of them.

    Besides the objects of `Settings`, `scheduler`, `timesteps`, `guidance` and `thresholding` may be names of
    options, as on the command line; `timesteps` may be a list of times.
    """

    output_type: str
    callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Any]], Mapping[str, Any] | None] | None
    callback_on_step_end_tensor_inputs: Sequence[str]
    guidance_rescale: float
    sigmas: Sequence[float] | None


def rule(kind: str, value: Any) -> Any:
    """The object of a setting.

    Args:
        kind: one of `KINDS`.
        value: the object, the name of an option, a config node, for timesteps also a list of times; None.

    Raises: ValueError for anything else.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return option(kind, value)
    if isinstance(value, Mapping) and "_target_" in value:
        value = reconstruct(dict(value), kind)
    if kind == "timesteps" and (times := _numbers(value)) is not None:
        return partial(explicit, times=times)
    own = type(value).__module__.partition(".")[0] != "diffusers"  # whose schedulers have a `step` as well
    if not own or isinstance(value, type) or not isinstance(value, KINDS[kind]):
        found = value.__name__ if isinstance(value, type) else repr(value)
        what = "a list of times" if kind == "timesteps" else "an object of ldm"
        raise UserError(f"{kind} must be {what} or one of {', '.join(names(kind))}, got {_short(found)}")
    return value


def call_settings(pipeline: Any, options: Mapping[str, Any]) -> Settings:
    """The settings of a call.

    Args:
        pipeline: that is called.
        options: its keyword arguments.

    Raises: TypeError for a name that no pipeline takes, with ours where it is one of diffusers; ValueError
        for values out of range.
    """
    given = dict(options)
    for name in ADVICE.keys() & given.keys():
        if (value := given.pop(name)) is not None:
            initial = value[0] if isinstance(value, list) and value else value
            seed = initial.initial_seed() if hasattr(initial, "initial_seed") else "NUMBER"
            raise TypeError(f"{name} must be left out: use {ADVICE[name].format(seed=seed)}")
    if (output := given.pop("output_type", None)) is not None:
        _alone("output_type", "output", given)
        given["output"] = output
    _translate(given)
    inputs = given.pop("callback_on_step_end_tensor_inputs", None) or ["latents"]
    if (callback := given.pop("callback_on_step_end", None)) is not None:
        _alone("callback_on_step_end", "on_step", given)
        if not callable(callback):
            raise UserError(f"callback_on_step_end must be a function, got {_short(repr(callback))}")
        given["on_step"] = StepEnd(pipeline=pipeline, callback=callback, inputs=inputs)
    for kind in KINDS.keys() & given.keys():
        times = _numbers(given[kind]) if kind == "timesteps" else None
        given[kind] = rule(kind, given[kind])
        if times is not None and given.get("num_inference_steps") is None:
            given["num_inference_steps"] = len(times)
    return settings(given)


def _translate(given: dict[str, Any]) -> None:
    """Replaces `sigmas` and `guidance_rescale` of diffusers by ours.

    Raises: ValueError for values of another kind; TypeError where ours is given as well.
    """
    if (sigmas := given.pop("sigmas", None)) is not None:
        _alone("sigmas", "timesteps", given)
        if (levels := _numbers(sigmas)) is None:
            raise UserError(f"sigmas must be a list of numbers, got {_short(repr(sigmas))}")
        given["timesteps"] = partial(explicit, sigmas=levels)
        if given.get("num_inference_steps") is None:
            given["num_inference_steps"] = len(levels)
    phi = given.pop("guidance_rescale", None)
    if phi is not None and not (is_number(phi) and 0 <= phi <= 1):
        raise UserError(f"guidance_rescale must be a number in [0, 1], got {phi!r}")
    if phi:
        _alone("guidance_rescale", "guidance", given)
        given["guidance"] = CFGRescale(phi=phi)


@dataclass(frozen=True, kw_only=True, eq=False)
class StepEnd:
    """diffusers' `callback_on_step_end` as an `on_step`: called with (pipeline, step, time, {"latents": x}).

    Args:
        pipeline: the first argument.
        callback: returns None or a dict, whose "latents" replace those of the step.
        inputs: names of the tensors that it is given.
        grid: times of the steps.
    """

    pipeline: Any
    callback: Callable[..., Any]
    inputs: Sequence[str]
    grid: Tensor | None = None

    def __post_init__(self) -> None:
        """Checks the kinds."""
        if set(self.inputs) - {"latents"}:
            raise UserError(
                f"callback_on_step_end_tensor_inputs must be ['latents'], got {list(self.inputs)}"
            )

    def on(self, grid: Tensor) -> "StepEnd":
        """The same callback, told the times of a grid."""
        return replace(self, grid=grid)

    def __call__(self, i: int, x: Tensor, x0: Tensor) -> Tensor | None:
        """The latents that the callback returns; None for those of the step."""
        time = i if self.grid is None else self.grid[i]
        returned = self.callback(self.pipeline, i, time, {"latents": x} if self.inputs else {})
        if returned is not None and not isinstance(returned, Mapping):
            raise UserError(f"callback_on_step_end must return a dict, got {type(returned).__name__}")
        if others := sorted(set(returned or ()) - {"latents"}):
            raise UserError(f"callback_on_step_end must return the latents alone, got {', '.join(others)}")
        return (returned or {}).get("latents")


def _alone(theirs: str, ours: str, given: Mapping[str, Any]) -> None:
    """Raises TypeError where both names of an argument are given."""
    if given.get(ours) is not None:
        raise TypeError(f"{theirs} must be left out where {ours} is given: they are one argument")


def _numbers(value: Any) -> list[float] | None:
    """A list, array or tensor of numbers as a list; None for anything else."""
    if isinstance(value, Tensor | np.ndarray):
        value = value.tolist()
    is_list = isinstance(value, list | tuple) and value and all(isinstance(v, int | float) for v in value)
    return [float(v) for v in value] if is_list else None


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
