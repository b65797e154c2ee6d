"""Text to image (Rombach et al. 2022, with the guidance of Ho & Salimans 2022)."""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.sampling import sample
from ldm.guidance.cfg import guide
from ldm.pipelines.base import Draws, Pipeline, as_prompts, finite, progress_bar
from ldm.schedulers.base import Scheduler
from ldm.utils.image_io import to_uint8

log = logging.getLogger(__name__)

OUTPUTS = ("pil", "tensor", "latent")
Grid = Callable[[int, int], Tensor]
OnStep = Callable[[int, Tensor, Tensor], Tensor | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """One call, its arguments checked and its defaults filled in."""

    prompts: list[str]
    negatives: list[str]
    scale: float
    scheduler: Scheduler
    grid: Tensor
    shape: tuple[int, int, int]
    draws: Draws
    on_step: OnStep | None


class Text2ImagePipeline(Pipeline):
    """Images from prompts: `Text2ImagePipeline.from_pretrained(path)(prompt="red heart")`."""

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] = 0,
        num_images_per_prompt: int = 1,
        scheduler: Scheduler | None = None,
        timesteps: Grid | None = None,
        eta: float | None = None,
        height: int | None = None,
        width: int | None = None,
        output: str = "pil",
        on_step: OnStep | None = None,
        progress: bool = False,
        batch_size: int = 16,
    ) -> Image.Image | list[Image.Image] | Tensor:
        """Samples an image for each prompt.

        Args:
            prompt: one prompt or a list.
            negative_prompt: what to lead away from, one for all prompts or one for each; None: nothing.
            num_inference_steps: steps; as many are run. None: the model's own setting, as for the next one.
            guidance_scale: w in eps_u + w (eps_c - eps_u), >= 0; at 1 the net runs once a step.
            seed: one number s, then image i of the call (in the order of the prompts, those of a prompt
                together) is a function of (s, i); or one number for each image, which is then the image that
                a call with that seed makes first. Batch sizes and positions do not matter.
            num_images_per_prompt: images of each prompt.
            scheduler: the reverse-step rule; None: the model's own.
            timesteps: grid function (num_train_timesteps, num_steps) -> times; None: the model's own.
            eta: replaces the scheduler's stochasticity, for schedulers that have one.
            height: of the images in pixels; None: what the model was trained on.
            width: likewise.
            output: "pil", "tensor" (images (n, c, h, w) in [-1, 1]) or "latent" (normalised latents).
            on_step: called after each step of each batch with the step's index, its latents and the current
                estimate of x0; what it returns, if not None, replaces the latents.
            progress: show a bar with the time left.
            batch_size: images made at once; bounds the memory.

        Returns: one image for one prompt and one image each, else a list; a tensor if asked for.
        Raises: ValueError for arguments that are out of range; ArithmeticError for NaN or infinite values.
        """
        for name, value in (("num_images_per_prompt", num_images_per_prompt), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value} ({name})")
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {OUTPUTS}, got {output!r} (output)")
        prompts = [p for p in as_prompts(prompt, "prompt") for _ in range(num_images_per_prompt)]
        if unknown := self.text_encoder.unknown_words(sorted(set(prompts))):
            log.warning(
                "this model has not seen %s in training and leaves it out (prompt)", ", ".join(unknown)
            )
        steps = self.sampling["num_inference_steps"] if num_inference_steps is None else num_inference_steps
        make_grid = timesteps or self.sampling["timesteps"]
        job = _Job(
            prompts=prompts,
            negatives=_negatives(negative_prompt, prompts, num_images_per_prompt),
            scale=self._scale(guidance_scale, negative_prompt),
            scheduler=_with_eta(scheduler or self.sampling["scheduler"], eta),
            grid=make_grid(self.diffusion.schedule.num_train_timesteps, steps),
            shape=self.latent_shape(height, width),
            draws=Draws(seed, len(prompts), self.device),
            on_step=on_step,
        )
        starts = range(0, len(prompts), batch_size)
        with progress_bar(progress, len(starts) * (len(job.grid) - 1)) as advance:
            parts = [
                self._generate(job, range(i, min(i + batch_size, len(prompts))), output, advance)
                for i in starts
            ]
        result = torch.cat(parts)  # outside of inference mode: a tensor like any other
        if output != "pil":
            return result
        images = [to_pil(image) for image in to_uint8(result).cpu()]
        return images[0] if isinstance(prompt, str) and num_images_per_prompt == 1 else images

    def _scale(self, guidance_scale: float | None, negative_prompt: Any) -> float:
        """The guidance scale, after checking that the model can be guided."""
        scale = float(self.sampling["guidance_scale"] if guidance_scale is None else guidance_scale)
        if not (math.isfinite(scale) and scale >= 0.0):
            raise ValueError(f"guidance_scale must be a number >= 0, got {scale} (guidance_scale)")
        if scale != 1.0 and self.config.get("caption_dropout") == 0:
            raise ValueError(
                f"guidance_scale must be 1 for a model trained without caption dropout, got {scale} "
                f"(guidance_scale; caption_dropout=0 in the model)"
            )
        if scale == 1.0 and negative_prompt:
            log.warning("negative_prompt has no effect at guidance_scale 1")
        return scale

    def _conditions(self, job: _Job, rows: range) -> tuple[Conditioning, Conditioning | None, float]:
        """Condition, negative condition and guidance scale of some of the images."""
        cond = self.encode([job.prompts[i] for i in rows])
        if job.scale == 1.0 or (cond.tokens is None and cond.pooled is None):
            return cond, None, 1.0  # an unconditional model has nothing to be guided by
        return cond, self.encode([job.negatives[i] for i in rows]), job.scale

    @torch.inference_mode()
    def _generate(self, job: _Job, rows: range, output: str, advance: Callable[[], None]) -> Tensor:
        """Latents or images of some of the images."""

        def watch(i: int, x: Tensor, x0: Tensor) -> Tensor | None:
            finite(x0, f"the estimate of x0 at step {i}", "backbone", self.dtype)
            finite(x, f"the latents after step {i}", "scheduler", torch.float32)
            advance()
            return None if job.on_step is None else job.on_step(i, x, x0)

        z = sample(
            self.diffusion.denoiser(guide(self.net, *self._conditions(job, rows))),
            self.diffusion.schedule,
            job.scheduler,
            job.draws.normal("x_T", 0, rows, job.shape),
            job.grid,
            lambda i: job.draws.normal("step", i, rows, job.shape),
            watch,
        )
        return z if output == "latent" else self.decode(z)


def _negatives(value: str | Sequence[str] | None, prompts: list[str], repeats: int) -> list[str]:
    """One negative prompt for each image."""
    if value is None or isinstance(value, str):
        return [value or ""] * len(prompts)
    negatives = [p for p in as_prompts(value, "negative_prompt") for _ in range(repeats)]
    if len(negatives) != len(prompts):
        raise ValueError(
            f"negative_prompt must be one text or {len(prompts) // repeats}, one for each prompt, "
            f"got {len(value)} (negative_prompt)"
        )
    return negatives


def _with_eta(scheduler: Any, eta: float | None) -> Any:
    """The scheduler with another eta."""
    if eta is None:
        return scheduler
    if not hasattr(scheduler, "eta"):
        raise ValueError(f"eta cannot be set for {type(scheduler).__name__}, which has none; got {eta} (eta)")
    return dataclasses.replace(scheduler, eta=eta)


def to_pil(image: Tensor) -> Image.Image:
    """A PIL image of uint8 pixels (3, h, w) or (1, h, w)."""
    pixels = image.permute(1, 2, 0).numpy()  # (h, w, c)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
