"""The arguments that all pipelines share: their documentation, defaults and checks."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, TypedDict

from torch import Tensor

from ldm.diffusion.thresholding import Thresholding
from ldm.diffusion.timesteps import Grid
from ldm.guidance.base import Guidance
from ldm.schedulers.base import Scheduler
from ldm.utils.errors import UserError
from ldm.utils.seeds import Seed

OnStep = Callable[[int, Tensor, Tensor], Tensor | None]
OUTPUTS = ("pil", "tensor", "latent")


class Options(TypedDict, total=False):
    """Keyword arguments of every pipeline, documented in `Settings`."""

    negative_prompt: str | Sequence[str] | None
    num_inference_steps: int | None
    guidance_scale: float | None
    seed: Seed
    numbers: Sequence[int] | None
    num_images_per_prompt: int
    num_images: int | None
    scheduler: Scheduler | None
    timesteps: Grid | None
    thresholding: Thresholding | None
    guidance: Guidance | None
    eta: float | None
    noise: str | None
    clip_skip: int
    output: str
    on_step: OnStep | None
    progress: bool
    batch_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments that all pipelines share.

    Args:
        negative_prompt: what the images must not show, one for all prompts or one for each; None: nothing.
        num_inference_steps: steps on the way from pure noise; as many are run, fewer with `strength`. None:
            the model's own setting, as for the next one.
        guidance_scale: w in eps_u + w (eps_c - eps_u), >= 0; at 1 the net is asked about the prompts alone,
            else about the empty or negative ones, too.
        seed: one whole number s in [0, 2^64), of any integer type, then image i of the call (in the order
            of the prompts, those of a prompt together) is a function of (s, i); or one number for each image,
            which is then the image that a call with that seed makes first. Batch sizes and positions do not
            matter.
        numbers: i of each image, to sample some of the images of a larger call; None: 0, 1, ...
        num_images_per_prompt: images of each prompt.
        num_images: images of an unconditional model, which takes no prompt; None: one image.
        scheduler: the reverse-step rule; None: the model's own.
        timesteps: grid function (num_train_timesteps, num_steps) -> times; None: the model's own.
        thresholding: bounds of the estimate of x0, for models of pixels; None: the model's own.
        guidance: the rule that `guidance_scale` is for; None: the model's own.
        eta: replaces the scheduler's stochasticity, for schedulers that have one.
        noise: of stochastic schedulers, "independent" or "brownian": increments of one path, which larger
            numbers of steps refine; None: the model's own setting.
        clip_skip: layers to leave out at the end of a CLIP text encoder, besides those that the model does.
        output: "pil", "tensor" (images (n, c, h, w) in [-1, 1]) or "latent" (normalised latents).
        on_step: called after each step of each batch with the step's index, its latents and the current
            estimate of x0 (`Pipeline.decode` makes a preview of it); what it returns, if not None, replaces
            the latents. It may raise `StopSampling` to end the batch there with the estimate as the result.
        progress: show a bar with the time left.
        batch_size: images made at once; bounds the memory.
    """

    negative_prompt: str | Sequence[str] | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: Seed = 0
    numbers: Sequence[int] | None = None
    num_images_per_prompt: int = 1
    num_images: int | None = None
    scheduler: Scheduler | None = None
    timesteps: Grid | None = None
    thresholding: Thresholding | None = None
    guidance: Guidance | None = None
    eta: float | None = None
    noise: str | None = None
    clip_skip: int = 0
    output: str = "pil"
    on_step: OnStep | None = None
    progress: bool = False
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("num_images_per_prompt", "num_images", "batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        if self.output not in OUTPUTS:
            raise UserError(f"output must be one of {OUTPUTS}, got {self.output!r}")
        scale = self.guidance_scale
        if scale is not None and not (math.isfinite(scale) and scale >= 0.0):
            raise UserError(f"guidance_scale must be a number >= 0, got {scale}")


def settings(options: Mapping[str, Any]) -> Settings:
    """The settings of a call.

    Raises: TypeError for a name that no pipeline takes; ValueError for values out of range.
    """
    names = [field.name for field in dataclasses.fields(Settings)]
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; allowed besides: {', '.join(names)}"
            raise TypeError(f"unknown argument {name!r}{hint}")
    return Settings(**options)


def steps_to_run(strength: float, num_steps: int) -> int:
    """floor(strength N) of the N steps, exact for the number as it is written: 0.57 of 100 is 57.

    Args:
        strength: in (0, 1].
        num_steps: N.

    Raises: ValueError if strength is out of range or too small for a single step.
    """
    if not (math.isfinite(strength) and 0.0 < strength <= 1.0):
        raise UserError(f"strength must be in (0, 1], got {strength}")
    steps = math.floor(Fraction(str(strength)) * num_steps)
    if steps == 0:
        raise UserError(
            f"strength must be at least 1/{num_steps} with {num_steps} steps, got {strength}: no step is left"
        )
    return steps


def with_eta(scheduler: Any, eta: float | None) -> Any:
    """The scheduler with another eta.

    Raises: ValueError if the scheduler has none.
    """
    if eta is None:
        return scheduler
    if not hasattr(scheduler, "eta"):
        raise UserError(f"eta cannot be set for {type(scheduler).__name__}, which has none; got {eta}")
    return dataclasses.replace(scheduler, eta=eta)
