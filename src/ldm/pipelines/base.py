"""The base of all pipelines: a sampler that is loaded and called."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from ldm.checkpoints.loader import load_model
from ldm.checkpoints.lora import Paths
from ldm.checkpoints.readable import diffusion_of
from ldm.generation import Sampler, Settings
from ldm.generation.conditioning import Denoiser
from ldm.generation.decoding import Codec
from ldm.generation.finite import check_step
from ldm.generation.job import Job, Latents, Watch
from ldm.generation.progress import progress_bar
from ldm.generation.reading import warn_of_words
from ldm.pipelines.additions import Additions
from ldm.pipelines.advice import check_loading, missing_attribute, refuse_attribute
from ldm.pipelines.fit import check_complete, check_same_latents, check_settings
from ldm.pipelines.options import StepEnd, call_settings
from ldm.pipelines.results import Result, result
from ldm.pipelines.sharing import Shared
from ldm.pipelines.shipped import shipped_model
from ldm.utils.construct import reconstruct, user_modules
from ldm.utils.device import as_dtype, pick_device
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)

P = TypeVar("P", bound="Pipeline")


class Pipeline(Additions, Shared):
    """A finished model: three nets, the diffusion that joins them and default settings.

    Args:
        autoencoder: image <-> latent.
        text_encoder: captions -> Conditioning.
        backbone: the denoising net.
        config: plain types only, as a checkpoint's metadata holds it: "diffusion", "sampling", "image_size",
            "caption_dropout".

    Attributes:
        sampler: the nets and settings.
        net_evaluations: evaluations of a net for each image of the last call.
    """

    def __init__(
        self, autoencoder: nn.Module, text_encoder: nn.Module, backbone: nn.Module, config: dict[str, Any]
    ) -> None:
        check_settings(config)
        self.config = config
        self._loaded_defaults = reconstruct(config["sampling"], "sampling")
        self.sampler = Sampler(
            codec=Codec(autoencoder=autoencoder),
            own=Denoiser(text_encoder, backbone),
            diffusion=diffusion_of(config),
            defaults=self._loaded_defaults,
            image_size=config["image_size"],
            caption_dropout=config.get("caption_dropout"),
        )
        self.net_evaluations: list[int] = []

    @classmethod
    def from_pretrained(
        cls: type[P],
        path: str | os.PathLike[str] | None = None,
        *,
        device: str | int | torch.device = "auto",
        dtype: str | torch.dtype = torch.float32,
        torch_dtype: str | torch.dtype | None = None,
        variant: str | None = None,
        prediction: str | None = None,
        ema: bool = True,
        strict: bool = True,
        vae: str | os.PathLike[str] | None = None,
        lora: Paths | None = None,
        lora_scale: float | Sequence[float] = 1.0,
        modules: str | os.PathLike[str] | None = None,
        **others: Any,
    ) -> P:
        """A pipeline from a checkpoint.

        Args:
            path: anything that `ldm.checkpoints.load_model` reads: a file, a folder of diffusers, a run
                directory, a hub id; None for the model that comes with `ldm`.
            device: to put it on; "auto" is the first of cuda, mps and cpu that is there.
            dtype: of the nets: "fp32", "bf16", "fp16", or "auto", the fastest that the device computes in.
            torch_dtype: diffusers' name of `dtype`.
            variant, prediction, ema, strict, vae, lora, lora_scale: as in `load_model`.
            modules: folder of your own Python modules that the model names; code runs from nowhere else.
            others: diffusers' arguments that change nothing here, such as `safety_checker=None`.

        Raises: FileNotFoundError; ValueError for files that do not fit; TypeError for other arguments.
        """
        check_loading(others, {"path": path, "vae": vae})
        place = pick_device(device)
        cast = as_dtype(dtype if torch_dtype is None else torch_dtype, place)
        how: dict[str, Any] = dict(variant=variant, prediction=prediction, ema=ema, strict=strict, vae=vae)
        with user_modules(modules), shipped_model() if path is None else nullcontext(path) as file:
            loaded = load_model(file, place, cast, **how)
            check_complete(file, loaded.components)
            made = cls(**loaded.components, config=loaded.config).to(place, cast)
        return made if lora is None else made.load_lora(lora, lora_scale)

    if not TYPE_CHECKING:  # or every attribute would be one of type Any

        def __getattr__(self, name: str) -> Any:
            """Method of diffusers that is not needed; else AttributeError, with our name."""
            return missing_attribute(type(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; one of diffusers that nothing here reads is refused."""
        refuse_attribute(name, value)
        super().__setattr__(name, value)

    def load_weak(self: P, path: str | os.PathLike[str], *, ema: bool = True) -> P:
        """Reads the weaker net of autoguidance with its text encoder; returns the pipeline.

        Args:
            path: of a checkpoint that denoises the same latents, such as an early one of the same run.
            ema: take the EMA weights where a checkpoint has both.

        Raises: FileNotFoundError; ValueError if it is not for the same latents.
        """
        found = load_model(path, self.device, self.dtype, ema=ema).components
        if missing := [name for name in ("text_encoder", "backbone") if name not in found]:
            raise UserError(f"{path} has no {', '.join(missing)}")
        check_same_latents(path, self.backbone, found["backbone"])
        self.sampler = replace(self.sampler, weak=Denoiser(found["text_encoder"], found["backbone"]))
        return self.to()

    def settings(self, options: Mapping[str, Any]) -> Settings:
        """The settings of a call from its keyword arguments (`ldm.pipelines.options`)."""
        return call_settings(self, options)

    def prepare(
        self,
        prompt: str | Sequence[str] | None,
        given: Settings,
        shape: tuple[int, int, int],
        strength: float = 1.0,
    ) -> Job:
        """`Sampler.prepare`, with warnings of what will have no effect."""
        job = self.sampler.prepare(prompt, given, shape, strength)
        if isinstance(given.on_step, StepEnd):
            job = replace(job, given=replace(given, on_step=given.on_step.on(job.grid)))
        negative = given.negative_prompt or given.negative_prompt_embeds is not None
        distilled = job.net_scale is not None
        why = ": this distilled net reads the guidance scale itself" if distilled else " at guidance_scale 1"
        if job.scale == 1.0 and negative:
            log.warning("negative_prompt has no effect%s", why)
        if job.scale == 1.0 and given.guidance is not None and "pag" not in given.guidance.needs:
            log.warning("guidance has no effect%s", why)
        if job.scale == 0.0 and job.guidance.needs_uncond and (any(job.prompts) or job.embeds is not None):
            log.warning(
                "the prompt has no effect at guidance_scale 0; the 0 on the cards of turbo and LCM models is "
                "guidance_scale=1 here, the prompt without guidance"
            )
        if given.noise is not None and not getattr(job.scheduler, "stochastic", True):
            log.warning("noise has no effect: %s draws none", type(job.scheduler).__name__)
        texts = [*job.prompts, *job.negatives]
        warn_of_words(self.text_encoder, texts, job.reading, told=given.prompt_weights is not None)
        return job

    @contextmanager
    def watched(self, job: Job) -> Iterator[Watch]:
        """Yields a function to call after each step, which checks the values and advances a progress bar."""
        with progress_bar(job.given.progress, job.steps) as advance:

            def watch(i: int, x: Tensor, x0: Tensor) -> None:
                check_step(i, x, x0, self.dtype)
                advance()

            yield watch

    def decode(self, z: Tensor) -> Tensor:
        """Images of normalised latents, (b, c, h, w) in [-1, 1].

        Raises: ArithmeticError if an image is not finite.
        """
        return self.sampler.codec.decode(z)

    def result(
        self, job: Job, latents: Latents, finish: Callable[[Tensor], Tensor] = lambda made: made
    ) -> Result:
        """Output of a call, of the kind that its settings name.

        Args:
            job: the call.
            latents: its result.
            finish: maps the decoded images to those that are returned.
        """
        self.net_evaluations = latents.net_evaluations
        made = latents.z
        if job.given.output != "latent":
            made = finish(self.sampler.decode(made, job.given.batch_size))
        self.release()
        return result(job.given, job.single, made, latents.net_evaluations)
