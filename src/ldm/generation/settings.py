"""The arguments that all pipelines share: their documentation, defaults and checks."""

import dataclasses
import difflib
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, TypedDict

from torch import Tensor

from ldm.diffusion.thresholding import Thresholding
from ldm.diffusion.timesteps import Grid
from ldm.guidance.base import Guidance
from ldm.models.prompt_reader import LONG_PROMPTS
from ldm.schedulers.base import Scheduler
from ldm.utils.errors import UserError
from ldm.utils.seeds import Seed

OnStep = Callable[[int, Tensor, Tensor], Tensor | None]
OUTPUTS = ("pil", "tensor", "latent", "pt", "np")


def is_number(value: Any) -> bool:
    """True for real numbers of Python and numpy; truth values are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """True for whole numbers of Python and numpy; truth values are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_count(name: str, value: Any) -> None:
    """Raises UserError unless a value is a whole number from 1 on."""
    if not is_whole(value):
        raise UserError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise UserError(f"{name} must be at least 1, got {value}")


NUMBERS: dict[str, tuple[type, str, Callable[[Any], bool]]] = {
    **dict.fromkeys(
        ("num_inference_steps", "num_images_per_prompt", "num_images", "batch_size", "clip_skip"),
        (int, "a whole number", is_whole),
    ),
    **dict.fromkeys(("guidance_scale", "eta"), (float, "a number", is_number)),
}
"""Arguments that are numbers -> their type, in words, and the test of a value."""


class Options(TypedDict, total=False):
    """Keyword arguments of every pipeline, documented in `Settings`."""

    negative_prompt: str | Sequence[str] | None
    num_inference_steps: int | None
    guidance_scale: float | None
    seed: Seed
    numbers: Sequence[int] | None
    num_images_per_prompt: int
    num_images: int | None
    scheduler: Scheduler | str | None
    timesteps: Grid | str | Sequence[float] | None
    thresholding: Thresholding | str | None
    guidance: Guidance | str | None
    eta: float | None
    noise: str | None
    clip_skip: int
    prompt_weights: bool | None
    long_prompts: str | None
    output: str
    on_step: OnStep | None
    progress: bool | None
    batch_size: int
    latents: Tensor | None
    prompt_embeds: Tensor | None
    negative_prompt_embeds: Tensor | None
    return_dict: bool | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments that all pipelines share.

    Args:
        negative_prompt: what the images must not show, one for all prompts or one for each; None: nothing.
        num_inference_steps: steps on the way from pure noise; as many are run, fewer with `strength`. None:
            the model's own setting, as for the next one.
        guidance_scale: w in eps_u + w (eps_c - eps_u), >= 0. At 1 the net is evaluated on the prompts alone,
            else on the empty or negative ones as well; at 0 the prompts have no effect. The cards of turbo
            and LCM models write 0 for our 1.
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
        prompt_weights: read (word:1.2), ((word)), [word] as weights (`ldm.models.prompt_weights`); None: as
            the model's own setting, True for Stable Diffusion checkpoints, else False.
        long_prompts: prompts of more tokens than the text encoder reads at once: "cut" leaves out their end,
            "chunks" reads them in parts (`ldm.models.prompt_chunks`); None: as the model's own setting,
            "chunks" for Stable Diffusion checkpoints, else "cut".
        output: "pil", "tensor" (images (n, c, h, w) in [-1, 1]), "latent" (normalised latents), "pt" (images
            (n, c, h, w) in [0, 1]) or "np" (the same as an array (n, h, w, c)).
        on_step: called after each step of each batch with the step's index, its latents and the current
            estimate of x0 (`Pipeline.decode` makes a preview of it); what it returns, if not None, replaces
            the latents. It may raise `StopSampling` to end the batch there with the estimate as the result.
        progress: show a bar with the time left; None: where a person watches, in a terminal or notebook.
        batch_size: images made at once; bounds the memory.
        latents: standard normal numbers (n, c, h, w) that sampling starts from, one for each image, in place
            of those that are drawn from the seed.
        prompt_embeds: encoded prompts (n, l, d) in place of prompts, for text encoders without pooled vector.
        negative_prompt_embeds: encoded negative prompts (n, l, d), one for all prompts or one for each.
        return_dict: None returns the image or images; True a tuple with the attribute `images`, False a plain
            tuple, as diffusers does.
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
    prompt_weights: bool | None = None
    long_prompts: str | None = None
    output: str = "pil"
    on_step: OnStep | None = None
    progress: bool | None = None
    batch_size: int = 16
    latents: Tensor | None = None
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    return_dict: bool | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("num_images_per_prompt", "num_images", "batch_size"):
            if (value := getattr(self, name)) is not None:
                check_count(name, value)
        if self.output not in OUTPUTS:
            raise UserError(f"output must be one of {OUTPUTS}, got {self.output!r}")
        if self.prompt_weights not in (None, True, False):
            raise UserError(f"prompt_weights must be True or False, got {self.prompt_weights!r}")
        if self.long_prompts not in (None, *LONG_PROMPTS):
            raise UserError(f"long_prompts must be one of {LONG_PROMPTS}, got {self.long_prompts!r}")
        scale = self.guidance_scale
        if scale is not None and not (math.isfinite(scale) and scale >= 0.0):
            raise UserError(f"guidance_scale must be a number >= 0, got {scale}")


def settings(options: Mapping[str, Any]) -> Settings:
    """The settings of a call.

    Raises: TypeError for a name that no pipeline takes; ValueError for values out of range.
    """
    names, given = [field.name for field in dataclasses.fields(Settings)], dict(options)
    for name, value in options.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; allowed besides: {', '.join(names)}"
            raise TypeError(f"unknown argument {name!r}{hint}")
        if value is None and name in NUMBERS:
            del given[name]  # the default
        elif name in NUMBERS:
            kind, text, fits = NUMBERS[name]
            if not fits(value):
                raise UserError(f"{name} must be {text}, got {value!r}")
            given[name] = kind(value)
    if (on_step := given.get("on_step")) is not None and not callable(on_step):
        raise UserError(f"on_step must be a function, got {on_step!r}")
    return Settings(**given)


def steps_to_run(strength: float, num_steps: int) -> int:
    """floor(strength N) of the N steps, exact for the number as it is written: 0.57 of 100 is 57.

    Args:
        strength: in (0, 1].
        num_steps: N.

    Raises: ValueError if strength is out of range or too small for a single step.
    """
    if not (is_number(strength) and math.isfinite(strength) and 0.0 < strength <= 1.0):
        raise UserError(f"strength must be in (0, 1], got {strength!r}")
    steps = math.floor(Fraction(str(float(strength))) * num_steps)
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
