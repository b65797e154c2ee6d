"""The one sampler: of the pipelines, of the sample grids of training and of the metrics."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ldm.diffusion.process import Diffusion
from ldm.diffusion.resampling import resampled
from ldm.diffusion.sampling import sample
from ldm.diffusion.thresholding import thresholded
from ldm.diffusion.timesteps import times_of
from ldm.generation.conditioning import Denoiser, branches, in_float32
from ldm.generation.decoding import Codec
from ldm.generation.draws import Draws
from ldm.generation.given_tensors import check_embeds, check_latents, embeds_of, placeholders
from ldm.generation.job import Job, Latents, Start, Watch
from ldm.generation.prompts import all_prompts, as_negatives
from ldm.generation.reading import reading_of
from ldm.generation.settings import Settings, is_whole, steps_to_run, with_eta
from ldm.generation.support import check_guidance, check_thresholding
from ldm.generation.workers import OneProcess, Workers
from ldm.guidance import CFG, Guidance
from ldm.utils.errors import UserError
from ldm.utils.image_io import to_uint8

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
PART = 8  # images that `Sampler.images` samples together, on any number of processes: it decides on last bits


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampler:
    """Captions -> conditioning -> latents -> images.

    Args:
        codec: the autoencoder.
        own: the denoising net and its text encoder.
        diffusion: noise schedule and prediction type.
        defaults: the model's settings: "scheduler", "timesteps", "num_inference_steps" and "guidance_scale",
            perhaps "guidance", "thresholding", "noise", "prompt_weights" and "long_prompts".
        image_size: height and width of images unless others are given: one number, or both.
        caption_dropout: with which the model was trained; None where that is unknown.
        weak: a weaker model of the same latents, for autoguidance.
        device: that the nets are on.
        dtype: that they compute in.
        workers: processes among which `images` divides its work.
    """

    codec: Codec
    own: Denoiser
    diffusion: Diffusion
    defaults: Mapping[str, Any]
    image_size: int | Sequence[int]
    caption_dropout: float | None = None
    weak: Denoiser | None = None
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    workers: Workers = field(default_factory=OneProcess)

    @property
    def unconditional(self) -> bool:
        """True if the model takes no prompts."""
        text_encoder = self.own.text_encoder
        return text_encoder.context_dim is None and text_encoder.pooled_dim is None

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width of images unless others are given."""
        size = self.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return height, width

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """Channels, height and width of the latents of an image.

        Raises: ValueError for a size that the nets cannot make, naming the nearest one they can.
        """
        autoencoder, fixed = self.codec.autoencoder, self.own.backbone.position_size
        factor, (default_height, default_width) = autoencoder.downscale, self.default_size
        for name, size in (("height", height), ("width", width)):
            if size is not None:
                check_side(name, size, factor, fixed)
        return (
            autoencoder.latent_channels,
            (height or default_height) // factor,
            (width or default_width) // factor,
        )

    def prepare(
        self,
        prompt: str | Sequence[str] | None,
        given: Settings,
        shape: tuple[int, int, int] | None = None,
        strength: float = 1.0,
    ) -> Job:
        """A call with its arguments checked and the model's defaults filled in.

        Args:
            prompt: one prompt or a list; None for an unconditional model.
            given: further arguments.
            shape: of an image's latents; None for the default size.
            strength: share of the steps to run, in (0, 1].
        """
        own = self.defaults
        prompts = placeholders(prompt, given) or all_prompts(prompt, given, self.unconditional)
        grid, whole = self._grid(given, strength)
        rule, scale, net_scale = self._guidance(given)
        shape = shape or self.latent_shape()
        check_latents(given.latents, (len(prompts), *shape))
        return Job(
            prompts=prompts,
            negatives=as_negatives(given.negative_prompt, prompts, given.num_images_per_prompt),
            guidance=rule,
            scale=scale,
            net_scale=net_scale,
            scheduler=with_eta(given.scheduler or own["scheduler"], given.eta),
            thresholding=given.thresholding or own.get("thresholding"),
            noise=given.noise or own.get("noise") or "independent",
            schedule=self.diffusion.schedule,
            grid=grid,
            whole=whole,
            shape=shape,
            draws=Draws(given.seed, len(prompts), self.device, given.numbers),
            single=len(prompts) == 1 and (isinstance(prompt, str) or prompt is given.num_images is None),
            given=given,
            reading=reading_of(given, own, self.own.text_encoder.supports),
            **embeds_of(given, len(prompts), self.device, self.dtype),
        )

    def _guidance(self, given: Settings) -> tuple[Guidance, float, float | None]:
        """The guidance rule of a call, its scale and that which a distilled net reads, checked."""
        own = self.defaults
        rule: Guidance = given.guidance or own.get("guidance") or CFG()
        scale = float(own["guidance_scale"] if given.guidance_scale is None else given.guidance_scale)
        reads = "guidance_scale" in self.own.backbone.supports
        net_scale, scale = (scale, 1.0) if reads else (None, scale)
        check_guidance(rule, scale, self.own.backbone, self.caption_dropout, weak=self.weak is not None)
        check_thresholding(given.thresholding, self.codec.autoencoder)
        check_embeds(given, self.own.text_encoder, scale != 1.0 and rule.needs_uncond, self.weak is not None)
        return rule, scale, net_scale

    def _grid(self, given: Settings, strength: float) -> tuple[Tensor, bool]:
        """Times of the steps to run, and whether these are all from pure noise to data."""
        own, steps = self.defaults, given.num_inference_steps
        steps = own["num_inference_steps"] if steps is None else steps
        grid = times_of(given.timesteps or own["timesteps"], self.diffusion.schedule, steps)
        first = len(grid) - 1 - steps_to_run(strength, len(grid) - 1)
        return grid[first:], first == 0

    @torch.no_grad()
    def latents(
        self, job: Job, start: Callable[[range], Start] | None = None, watch: Watch | None = None
    ) -> Latents:
        """Latents of the images of a call, a batch at a time.

        Args:
            job: the call.
            start: maps the images of a batch to where their sampling starts; None starts from pure noise.
            watch: called after each step of each batch.
        """
        schedule, parts, evaluations = self.diffusion.schedule, [], []
        once = job.resampling.count == 1
        run = sample if once else partial(resampled, resampling=job.resampling)
        for rows in job.batches():
            first = Start(x=job.pure_noise(rows)) if start is None else start(rows)
            counts: list[int] = []
            wrap = partial(in_float32, dtype=self.dtype, count=counts.append)
            found = branches(job, rows, self.own, self.weak, wrap, first.concat)
            net = job.guidance(found, job.scale, self.diffusion)
            denoise = thresholded(self.diffusion.denoiser(net), schedule, job.thresholding)
            after = first.after_step(watch, job.given.on_step)
            noise = job.step_noise(rows)
            parts.append(run(denoise, schedule, job.scheduler, first.x, job.grid, noise, after))
            evaluations += [sum(counts) // len(rows)] * len(rows)
        return Latents(torch.cat(parts), evaluations)

    def decode(self, z: Float[Tensor, "n c h w"], batch_size: int) -> Float[Tensor, "n k h2 w2"]:
        """Images of normalised latents in [-1, 1], decoded a batch at a time."""
        return torch.cat([self.codec.decode(part) for part in z.split(batch_size)])

    def images(self, captions: Sequence[str] | int, seed: int) -> UInt8[Tensor, "n 3 h w"]:
        """Images of captions with the model's own settings; image i is a function of (seed, i) and caption i.

        All workers call it; each samples a share, and all get all images. An image that is not finite is left
        black, with a warning: a score or a grid must not end a training run.

        Args:
            captions: one per image; for an unconditional model the number of images is enough.
            seed: of the draws.
        """
        count = captions if isinstance(captions, int) else len(captions)
        images = torch.zeros(count, 3, *self.default_size, dtype=torch.uint8, device=self.device)
        for part, counts in self.workers.share(-(-count // PART)):
            rows = range(count)[part * PART : (part + 1) * PART]
            given = Settings(seed=seed, numbers=rows, batch_size=PART)
            if self.unconditional or isinstance(captions, int):
                job = self.prepare(None, replace(given, num_images=len(rows)))
            else:
                job = self.prepare([captions[i] for i in rows], given)
            drawn = self.latents(job).z  # by all workers, as sharded nets need it
            if not counts:
                continue
            try:
                images[rows.start : rows.stop] = to_uint8(self.decode(drawn, PART))
            except ArithmeticError as error:
                log.warning("images %d to %d are left black: %s", rows.start, rows.stop - 1, error)
        return self.workers.summed(images).cpu()


def check_side(name: str, size: Any, factor: int, fixed: int | None) -> None:
    """Raises UserError for a side that the nets cannot make, naming the nearest one they can.

    Args:
        name: "height" or "width".
        size: in pixels.
        factor: pixels of a latent.
        fixed: side of the latents of a model that makes one size only; None for others.
    """
    if not is_whole(size):
        raise UserError(f"{name} must be a whole number, got {size!r}")
    if fixed is not None and size != fixed * factor:
        raise UserError(f"{name} must be {fixed * factor} for this model, got {size}")
    if size <= 0 or size % factor:
        nearest = max(round(size / factor), 1) * factor
        raise UserError(f"{name} must be a multiple of {factor}, got {size}; try {nearest}")
