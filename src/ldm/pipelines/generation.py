"""What all pipelines do once their images are prepared: prompts, guidance, the sampling loop, decoding."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ldm.diffusion import random
from ldm.diffusion.brownian import step_noise
from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.sampling import sample
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.thresholding import thresholded
from ldm.diffusion.timesteps import times_of
from ldm.guidance import CFG, Branch, Branches, Guidance
from ldm.pipelines.base import Pipeline, finite
from ldm.pipelines.settings import Settings, steps_to_run, with_eta
from ldm.schedulers.base import Scheduler
from ldm.utils.errors import UserError
from ldm.utils.image_io import to_uint8

log = logging.getLogger(__name__)


class Draws:
    """Random numbers of the images of one call; an image's numbers depend on its own seed only.

    Args:
        seed: one seed s for the call, whose image i draws from (s, i), or one seed for each image, which
            draws from (its seed, 0), like the first image of a call with that seed.
        count: number of images.
        device: of the numbers.

    Raises: ValueError if there is not one seed for each image.
    """

    def __init__(self, seed: int | Sequence[int], count: int, device: torch.device) -> None:
        if not isinstance(seed, int) and len(seed) != count:
            raise UserError(f"seed must be one number or {count}, one for each image, got {len(seed)}")
        self.seed, self.device = seed, device

    def normal(self, purpose: str, visit: int, rows: range, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers for some of the images, (len(rows), *shape)."""
        if isinstance(self.seed, int):
            keys = torch.arange(rows.start, rows.stop, device=self.device)
            return random.normal(self.seed, purpose, keys, visit, tuple(shape))
        first = torch.zeros(1, dtype=torch.int64, device=self.device)
        return torch.cat(
            [random.normal(int(self.seed[i]), purpose, first, visit, tuple(shape)) for i in rows]
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One call, its arguments checked and its defaults filled in.

    Args:
        prompts: one for each image.
        negatives: likewise.
        guidance: the rule.
        scale: of the guidance.
        scheduler: the reverse-step rule.
        schedule: noise levels.
        grid: times of the steps that are run.
        whole: whether the grid starts at the top, from pure noise.
        shape: of an image's latents.
        draws: the random numbers.
        single: whether one image is returned rather than a list.
        given: the arguments that need no filling in.
    """

    prompts: list[str]
    negatives: list[str]
    guidance: Guidance
    scale: float
    scheduler: Scheduler
    schedule: NoiseSchedule
    grid: Tensor
    whole: bool
    shape: tuple[int, int, int]
    draws: Draws
    single: bool
    given: Settings


Start = Callable[[Job, range], Tensor]
"""Makes the latents at the first time of the grid, for some of the images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guided:
    """What an image adds to the sampling of some of the rows.

    Args:
        concat: further input channels of the net, (b, k, h, w).
        blend: maps (index of the step, latents after it) to the latents to go on with.
        finish: maps the decoded images to those that are returned.
    """

    concat: Tensor | None = None
    blend: Callable[[int, Tensor], Tensor] | None = None
    finish: Callable[[Tensor], Tensor] | None = None


def prepare(
    pipeline: Pipeline,
    prompt: str | Sequence[str],
    given: Settings,
    shape: tuple[int, int, int],
    strength: float = 1.0,
) -> Job:
    """Checks the arguments of a call against the model and fills in the model's defaults.

    Args:
        pipeline: the model.
        prompt: one prompt or a list.
        given: the arguments that all pipelines share.
        shape: of the latents of one image.
        strength: share of the steps to run, in (0, 1].

    Raises: ValueError for arguments that do not fit.
    """
    own, each = pipeline.sampling, given.num_images_per_prompt
    prompts = [p for p in as_prompts(prompt, "prompt") for _ in range(each)]
    negatives = _negatives(given.negative_prompt, prompts, each)
    steps = own["num_inference_steps"] if given.num_inference_steps is None else given.num_inference_steps
    grid = times_of(given.timesteps or own["timesteps"], pipeline.diffusion.schedule, steps)
    kept = steps_to_run(strength, len(grid) - 1)
    rule: Guidance = given.guidance or own.get("guidance") or CFG()
    _warn_of_words(pipeline, [*prompts, *negatives])
    return Job(
        prompts=prompts,
        negatives=negatives,
        guidance=rule,
        scale=_scale(pipeline, given, rule),
        scheduler=with_eta(given.scheduler or own["scheduler"], given.eta),
        schedule=pipeline.diffusion.schedule,
        grid=grid[len(grid) - 1 - kept :],
        whole=kept == len(grid) - 1,
        shape=shape,
        draws=Draws(given.seed, len(prompts), pipeline.device),
        single=isinstance(prompt, str) and each == 1,
        given=given,
    )


def generate(
    pipeline: Pipeline, job: Job, start: Start, guided: Callable[[range], Guided]
) -> Image.Image | list[Image.Image] | Tensor:
    """Images of a job; how often the nets were asked is left in `pipeline.net_evaluations`.

    Args:
        pipeline: the model.
        job: the call.
        start: makes the latents to start from.
        guided: what an image adds, for some of the rows.

    Returns: one image for one prompt and one image each, else a list; a tensor if asked for.
    """
    count, batch_size = len(job.prompts), job.given.batch_size
    starts = range(0, count, batch_size)
    with (
        progress_bar(job.given.progress, len(starts) * (len(job.grid) - 1)) as advance,
        torch.inference_mode(),
    ):
        parts, evaluations = [], []
        for first in starts:
            rows = range(first, min(first + batch_size, count))
            asked: list[int] = []
            parts.append(_some(pipeline, job, rows, start, guided(rows), advance, asked.append))
            evaluations += [sum(asked) // len(rows)] * len(rows)
    pipeline.net_evaluations = evaluations
    result = torch.cat(parts)  # outside of inference mode: a tensor like any other
    if job.given.output != "pil":
        return result
    images = [to_pil(image) for image in to_uint8(result).cpu()]
    for image, asked_about in zip(images, evaluations, strict=True):
        image.info["net_evaluations"] = asked_about
    return images[0] if job.single else images


def _some(
    pipeline: Pipeline,
    job: Job,
    rows: range,
    start: Start,
    guided: Guided,
    advance: Callable[[], None],
    counted: Callable[[int], None],
) -> Tensor:
    """Latents or images of some of the rows."""

    def watch(i: int, x: Tensor, x0: Tensor) -> Tensor | None:
        finite(x0, f"the estimate of x0 at step {i}", "backbone", pipeline.dtype)
        finite(x, f"the latents after step {i}", "scheduler", torch.float32)
        advance()
        blended = x if guided.blend is None else guided.blend(i, x)
        replaced = None if job.given.on_step is None else job.given.on_step(i, blended, x0)
        return blended if replaced is None else replaced

    branches = _branches(pipeline, job, rows, guided.concat, counted)
    net = job.guidance(branches, job.scale, pipeline.diffusion)
    rule = job.given.thresholding or pipeline.sampling.get("thresholding")
    z = sample(
        thresholded(pipeline.diffusion.denoiser(net), job.schedule, rule),
        job.schedule,
        job.scheduler,
        start(job, rows),
        job.grid,
        step_noise(
            job.given.noise or pipeline.sampling.get("noise") or "independent",
            lambda n: job.draws.normal("step", n, rows, job.shape),
            job.schedule.num_train_timesteps,
        ),
        watch,
    )
    if job.given.output == "latent":
        return z
    image = pipeline.decode(z)
    return image if guided.finish is None else guided.finish(image)


def _branches(
    pipeline: Pipeline, job: Job, rows: range, concat: Tensor | None, counted: Callable[[int], None]
) -> Branches:
    """The nets and what they are told about some of the images, as far as the guidance may ask."""

    def told(captions: list[str], text_encoder: Any = None) -> Conditioning:
        found = pipeline.encode([captions[i] for i in rows], job.given.clip_skip, text_encoder)
        return dataclasses.replace(found, concat=concat)

    net, cond = pipeline.asked(pipeline.backbone, counted), told(job.prompts)
    uncond = weak = None
    if job.scale != 1.0 and job.guidance.needs_uncond and not cond.is_empty:
        uncond = Branch(net, told(job.negatives))
    if job.scale != 1.0 and pipeline.weak is not None:
        text_encoder, backbone = pipeline.weak
        captions = job.negatives if job.given.negative_prompt else job.prompts
        weak = Branch(pipeline.asked(backbone, counted), told(captions, text_encoder))
    return Branches(Branch(net, cond), uncond, weak)


def _scale(pipeline: Pipeline, given: Settings, rule: Guidance) -> float:
    """The guidance scale, after checking that the model can be guided."""
    own = pipeline.sampling["guidance_scale"]
    scale = float(own if given.guidance_scale is None else given.guidance_scale)
    if scale != 1.0 and rule.needs_uncond and pipeline.config.get("caption_dropout") == 0:
        raise UserError(f"guidance_scale must be 1 for a model trained without caption dropout, got {scale}")
    if scale == 1.0 and given.negative_prompt:
        log.warning("negative_prompt has no effect at guidance_scale 1")
    return scale


def _warn_of_words(pipeline: Pipeline, prompts: list[str]) -> None:
    """Names the words that the text encoder does not know, and those it has no room for."""
    text, texts = pipeline.text_encoder, sorted(set(prompts))
    if unknown := text.unknown_words(texts):
        log.warning("this model has not seen %s in training and leaves it out (prompt)", ", ".join(unknown))
    for prompt in texts:
        if lost := text.cut_off(prompt):
            log.warning("a prompt has more than %d tokens, its end is left out: %s", text.max_length, lost)


def as_prompts(value: str | Sequence[str], name: str) -> list[str]:
    """A list of at least one prompt."""
    prompts = [value] if isinstance(value, str) else list(value)
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise UserError(f"{name} must be a text or a list of at least one text, got {value!r}")
    return prompts


def _negatives(value: str | Sequence[str] | None, prompts: list[str], repeats: int) -> list[str]:
    """One negative prompt for each image."""
    if value is None or isinstance(value, str):
        return [value or ""] * len(prompts)
    negatives = [p for p in as_prompts(value, "negative_prompt") for _ in range(repeats)]
    if len(negatives) != len(prompts):
        raise UserError(
            f"negative_prompt must be one text or {len(prompts) // repeats}, one for each prompt, "
            f"got {len(value)}"
        )
    return negatives


def to_pil(image: Tensor) -> Image.Image:
    """A PIL image of uint8 pixels (3, h, w) or (1, h, w)."""
    pixels = image.permute(1, 2, 0).numpy()  # (h, w, c)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


@contextmanager
def progress_bar(enabled: bool, total: int) -> Iterator[Callable[[], None]]:
    """Gives a function that advances a bar with the time left by one step."""
    if not enabled:
        yield lambda: None
        return
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task("sampling", total=total)
        yield lambda: bar.advance(task)
