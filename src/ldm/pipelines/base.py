"""The base of all pipelines: a sampler that is loaded, moved and called."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from ldm.checkpoints.assemble import COMPONENTS, LoadedModel
from ldm.checkpoints.loader import load_model
from ldm.checkpoints.lora import merge_lora
from ldm.checkpoints.readable import diffusion_of
from ldm.generation import Sampler, Settings
from ldm.generation.conditioning import Denoiser
from ldm.generation.decoding import Codec
from ldm.generation.finite import check_step
from ldm.generation.job import Job, Latents, Watch
from ldm.generation.progress import progress_bar
from ldm.generation.prompts import warn_of_words
from ldm.models.tiling import check_rows
from ldm.pipelines.fit import check_complete, check_same_latents, check_settings
from ldm.pipelines.images import to_pil
from ldm.pipelines.parts import SamplerParts
from ldm.pipelines.shipped import shipped_model
from ldm.utils.construct import reconstruct, user_modules
from ldm.utils.device import as_dtype, pick_device
from ldm.utils.errors import UserError
from ldm.utils.image_io import to_uint8

log = logging.getLogger(__name__)

P = TypeVar("P", bound="Pipeline")

TILE_ROWS = 64  # a 1024 x 1024 image in 16 bands


class Pipeline(SamplerParts):
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
        self.sampler = Sampler(
            codec=Codec(autoencoder=autoencoder),
            own=Denoiser(text_encoder, backbone),
            diffusion=diffusion_of(config),
            defaults=reconstruct(config["sampling"], "sampling"),
            image_size=config["image_size"],
            caption_dropout=config.get("caption_dropout"),
        )
        self.net_evaluations: list[int] = []

    @classmethod
    def from_pretrained(
        cls: type[P],
        path: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = torch.float32,
        variant: str | None = None,
        prediction: str | None = None,
        ema: bool = True,
        strict: bool = True,
        vae: str | os.PathLike[str] | None = None,
        lora: str | os.PathLike[str] | None = None,
        lora_scale: float = 1.0,
        modules: str | os.PathLike[str] | None = None,
    ) -> P:
        """A pipeline from a checkpoint.

        Args:
            path: a `.safetensors` of ldm, diffusers folder, original Stable Diffusion file, training
                checkpoint or hub id (`ldm.checkpoints.load_model`); None for the model that comes with `ldm`.
            device: to put it on.
            dtype: of the nets, converted while reading; names such as "bf16" and "fp16" are accepted.
            variant: of a folder's weights, such as "fp16".
            prediction: "eps" or "v", for original files of 2.x, which do not record it.
            ema: take the EMA weights where a checkpoint has both.
            strict: refuse tensors that belong to no net, rather than leave them out with a warning.
            vae: file, folder or hub id of an autoencoder in the place of the model's own.
            lora: a file of adapters to merge into the nets (`load_lora`).
            lora_scale: of the adapters.
            modules: folder of your own Python modules that the model names; code runs from nowhere else.

        Raises: FileNotFoundError; ValueError if there is no complete model, or the adapters are not for it.
        """
        if path is None:
            with shipped_model() as file:
                own: dict[str, Any] = {"vae": vae, "lora": lora, "lora_scale": lora_scale}
                return cls.from_pretrained(file, device=device, dtype=dtype, **own)
        device, dtype = pick_device(str(device)), as_dtype(dtype)
        with user_modules(modules):
            how: dict[str, Any] = {
                "variant": variant,
                "prediction": prediction,
                "ema": ema,
                "strict": strict,
                "vae": vae,
            }
            loaded = load_model(path, device, dtype, **how)
            check_complete(path, loaded.components)
            made = cls(**loaded.components, config=loaded.config)
        made.to(device, dtype)
        return made if lora is None else made.load_lora(lora, lora_scale)

    def to(self: P, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> P:
        """Moves the nets to a device or casts them; returns the pipeline.

        Raises: ValueError if the device does not exist.
        """
        device = self.device if device is None else pick_device(str(device))
        dtype = dtype or self.dtype
        for net in (self.autoencoder, *self.sampler.own, *(self.weak or ())):
            net.to(device=device, dtype=dtype).requires_grad_(False).eval()
        codec = replace(self.sampler.codec, dtype=dtype)
        self.sampler = replace(self.sampler, codec=codec, device=device, dtype=dtype)
        return self

    def load_lora(self: P, path: str | os.PathLike[str], scale: float = 1.0) -> P:
        """Merges low-rank adapters into the nets; returns the pipeline. Several may be merged in turn.

        Args:
            path: a file as diffusers (PEFT), kohya's scripts or `ldm-train adapters=lora` write it.
            scale: of the adapters; 1 adds them as they were trained.

        Raises: FileNotFoundError; ValueError if a tensor of the file belongs to no layer or does not fit.
        """
        nets = {name: getattr(self, name) for name in COMPONENTS}
        merge_lora(LoadedModel(config=self.config, components=nets), Path(path), scale)
        return self

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

    def enable_vae_slicing(self: P) -> P:
        """Encodes and decodes images one at a time; returns the pipeline."""
        self.sampler = replace(self.sampler, codec=replace(self.sampler.codec, slicing=True))
        return self

    def enable_vae_tiling(self: P, rows: int = TILE_ROWS) -> P:
        """Encodes and decodes in bands, exactly (`ldm.models.tiling`); returns the pipeline.

        Args:
            rows: height of the bands.

        Raises: ValueError for another autoencoder than the convolutional one.
        """
        if "tiling" not in self.autoencoder.supports:
            raise UserError(f"vae_tiling is not supported by {type(self.autoencoder).__name__}")
        check_rows(rows)
        self.sampler = replace(self.sampler, codec=replace(self.sampler.codec, tile_rows=rows))
        return self

    def prepare(
        self,
        prompt: str | Sequence[str] | None,
        given: Settings,
        shape: tuple[int, int, int],
        strength: float = 1.0,
    ) -> Job:
        """`Sampler.prepare`, with warnings of what will have no effect."""
        job = self.sampler.prepare(prompt, given, shape, strength)
        if job.scale == 1.0 and given.negative_prompt:
            log.warning("negative_prompt has no effect at guidance_scale 1")
        if job.scale == 1.0 and given.guidance is not None and "pag" not in given.guidance.needs:
            log.warning("guidance has no effect at guidance_scale 1")
        if given.noise is not None and not getattr(job.scheduler, "stochastic", True):
            log.warning("noise has no effect: %s draws none", type(job.scheduler).__name__)
        warn_of_words(self.text_encoder, [*job.prompts, *job.negatives])
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
    ) -> Image.Image | list[Image.Image] | Tensor:
        """Output of a call, of the kind that its settings name.

        Args:
            job: the call.
            latents: its result.
            finish: maps the decoded images to those that are returned.
        """
        self.net_evaluations = latents.net_evaluations
        if job.given.output == "latent":
            return latents.z
        made = finish(self.sampler.decode(latents.z, job.given.batch_size))
        if job.given.output == "tensor":
            return made
        images = [to_pil(image) for image in to_uint8(made).cpu()]
        for image, evaluations in zip(images, latents.net_evaluations, strict=True):
            image.info["net_evaluations"] = evaluations
        return images[0] if job.single else images
