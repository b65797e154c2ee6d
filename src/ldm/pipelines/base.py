"""What all pipelines share: loading, devices, prompts, seeds, decoding."""

import importlib.resources
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm.checkpoints.assemble import COMPONENTS, LoadedModel
from ldm.checkpoints.loader import load_model
from ldm.checkpoints.lora import merge_lora
from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.process import Diffusion
from ldm.guidance.base import Backbone
from ldm.models.tiling import check_rows, decode_tiled, encode_tiled
from ldm.models.vae import Posterior
from ldm.utils.construct import reconstruct
from ldm.utils.device import as_dtype, pick_device

log = logging.getLogger(__name__)

P = TypeVar("P", bound="Pipeline")

SHIPPED = "emoji.safetensors"
TILE_ROWS = 64  # a 1024 x 1024 image in 16 bands
SETTINGS = {"diffusion": (), "sampling": ("scheduler", "timesteps", "num_inference_steps", "guidance_scale")}


class Pipeline:
    """A finished model: three nets, the diffusion that joins them and default settings.

    Args:
        autoencoder: image <-> latent.
        text_encoder: captions -> Conditioning.
        backbone: the denoising net.
        config: plain types only, as a checkpoint's metadata holds it: "diffusion", "sampling", "image_size",
            "caption_dropout".

    Attributes:
        net_evaluations: for each image of the last call, how often a net was asked about it.
    """

    def __init__(
        self, autoencoder: nn.Module, text_encoder: nn.Module, backbone: nn.Module, config: dict[str, Any]
    ) -> None:
        for key, inner in {**SETTINGS, "image_size": ()}.items():
            if missing := [name for name in inner if name not in config.get(key, {})] or key not in config:
                raise ValueError(f"the config of the model lacks {missing if inner else key!r} ({key})")
        self.autoencoder: Any = autoencoder
        self.text_encoder: Any = text_encoder
        self.backbone: Any = backbone
        self.config = config
        self.diffusion: Diffusion = reconstruct(config["diffusion"], "diffusion")
        self.sampling: dict[str, Any] = reconstruct(config["sampling"], "sampling")
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.vae_slicing = False
        self.vae_tile_rows: int | None = None
        self.weak: tuple[Any, Any] | None = None
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
        lora: str | os.PathLike[str] | None = None,
        lora_scale: float = 1.0,
    ) -> P:
        """A pipeline from a checkpoint.

        Args:
            path: a file of ours, a folder of diffusers, an original single file of Stable Diffusion, a
                training checkpoint or a hub id (`ldm.checkpoints.load_model`); None for the model that comes
                with `ldm`.
            device: to put it on.
            dtype: of the nets, converted while reading; names such as "bf16" and "fp16" are understood.
            variant: of a folder's weights, such as "fp16".
            prediction: "eps" or "v", for original files of 2.x, which do not say it.
            ema: take the EMA weights where a checkpoint has both.
            lora: a file of adapters to merge into the nets (`load_lora`).
            lora_scale: of the adapters.

        Raises: FileNotFoundError; ValueError if there is no complete model, or the adapters are not for it.
        """
        if path is None:
            with shipped_model() as file:
                return cls.from_pretrained(file, device=device, dtype=dtype, lora=lora, lora_scale=lora_scale)
        device, dtype = pick_device(str(device)), as_dtype(dtype)
        loaded = load_model(path, device, dtype, variant=variant, prediction=prediction, ema=ema)
        if missing := [name for name in COMPONENTS if name not in loaded.components]:
            raise ValueError(f"{path} is no complete model: it has no {', '.join(missing)} (checkpoint)")
        made = cls(**loaded.components, config=loaded.config).to(device, dtype)  # type: ignore[arg-type]
        return made if lora is None else made.load_lora(lora, lora_scale)

    def to(self: P, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> P:
        """Moves the nets to a device or casts them; returns the pipeline.

        Raises: ValueError if the device is not there.
        """
        self.device = self.device if device is None else pick_device(str(device))
        self.dtype = dtype or self.dtype
        for net in (self.autoencoder, self.text_encoder, self.backbone, *(self.weak or ())):
            net.to(device=self.device, dtype=self.dtype).requires_grad_(False).eval()
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
            raise ValueError(f"{path} has no {', '.join(missing)} (weak_checkpoint)")
        for name in ("in_channels", "position_size"):
            own, other = (getattr(net, name) for net in (self.backbone, found["backbone"]))
            if own != other:
                raise ValueError(
                    f"{path} is not for the same latents: {name} {other}, not {own} (weak_checkpoint)"
                )
        self.weak = (found["text_encoder"], found["backbone"])
        return self.to()

    def latent_shape(self, height: int | None, width: int | None) -> tuple[int, int, int]:
        """Channels, height and width of the latents of an image.

        Raises: ValueError for a size that the nets cannot make, naming the nearest one they can.
        """
        default, fixed = self.config["image_size"], self.backbone.position_size
        factor = self.autoencoder.downscale
        for name, size in (("height", height), ("width", width)):
            if size is None:
                continue
            if fixed is not None and size != fixed * factor:
                raise ValueError(f"{name} must be {fixed * factor} for this model, got {size} ({name})")
            if size <= 0 or size % factor:
                nearest = max(round(size / factor), 1) * factor
                raise ValueError(f"{name} must be a multiple of {factor}, got {size}; try {nearest} ({name})")
        return self.autoencoder.latent_channels, (height or default) // factor, (width or default) // factor

    def check_input_channels(self, extra: int) -> None:
        """Checks how many input channels the net has besides those of the latents.

        Raises: ValueError naming the pipeline that fits.
        """
        latent = self.autoencoder.latent_channels
        found = self.backbone.in_channels
        if found != latent + extra:
            kind = (
                "an inpainting model: use InpaintPipeline (mode=inpaint)" if not extra else "not understood"
            )
            raise ValueError(
                f"a net with {found} input channels for latents of {latent} is {kind} (checkpoint)"
            )

    def encode(self, captions: list[str], clip_skip: int = 0, text_encoder: Any = None) -> Conditioning:
        """Conditioning of captions; the empty caption is the unconditional one.

        Args:
            captions: b captions.
            clip_skip: layers to leave out at the end of a CLIP text encoder.
            text_encoder: another one than the pipeline's.

        Raises: ValueError for another text encoder with `clip_skip`.
        """
        text = text_encoder or self.text_encoder
        if clip_skip and "clip_skip" not in text.supports:
            raise ValueError(
                f"clip_skip must be 0 for a model without a CLIP text encoder, got {clip_skip} (clip_skip)"
            )
        skipped = {"clip_skip": clip_skip} if clip_skip else {}
        cond: Conditioning = text.encode(captions, **skipped)
        return cond

    @torch.inference_mode()
    def posterior(self, images: Float[Tensor, "n c h w"]) -> Posterior:
        """Posterior of the (unnormalised) latents of images in [-1, 1].

        Raises: ArithmeticError if it is not finite.
        """
        pieces = images.to(self.dtype).split(1 if self.vae_slicing else len(images))
        if self.vae_tile_rows is None:
            parts = [self.autoencoder.encode(piece) for piece in pieces]
        else:
            parts = [encode_tiled(self.autoencoder, piece, self.vae_tile_rows) for piece in pieces]
        mean, logvar = (torch.cat([getattr(p, name) for p in parts]).float() for name in ("mean", "logvar"))
        finite(mean, "the latents of the image", "autoencoder", self.dtype)
        return Posterior(mean, logvar)

    def asked(self, backbone: Any, counted: Callable[[int], None]) -> Backbone:
        """A net with its output in float32, whatever it computes in.

        Args:
            backbone: the net.
            counted: told the rows of each call.
        """

        def net(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
            counted(len(x_t))
            out: Tensor = backbone(x_t.to(self.dtype), t, cond).float()
            return out

        return net

    def decode(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        """Images of normalised latents, in [-1, 1].

        Raises: ArithmeticError if an image is not finite.
        """
        pieces = z.to(self.dtype).split(1 if self.vae_slicing else max(len(z), 1))
        image = torch.cat([self._decoded(piece) for piece in pieces]).float()
        finite(image, "the decoded image", "autoencoder", self.dtype)
        return image.clamp(-1.0, 1.0)

    def _decoded(self, z: Tensor) -> Tensor:
        if self.vae_tile_rows is None:
            whole: Tensor = self.autoencoder.from_latent(z)
            return whole
        return decode_tiled(self.autoencoder, self.autoencoder.denormalise(z), self.vae_tile_rows)

    def enable_vae_slicing(self: P) -> P:
        """Encodes and decodes images one at a time; returns the pipeline."""
        self.vae_slicing = True
        return self

    def enable_vae_tiling(self: P, rows: int = TILE_ROWS) -> P:
        """Encodes and decodes in bands, exactly (`ldm.models.tiling`); returns the pipeline.

        Args:
            rows: height of the bands.

        Raises: ValueError for another autoencoder than the convolutional one.
        """
        if "tiling" not in self.autoencoder.supports:
            raise ValueError("vae_tiling is for models with a convolutional autoencoder (vae_tiling)")
        check_rows(rows)
        self.vae_tile_rows = rows
        return self


@contextmanager
def shipped_model() -> Iterator[Path]:
    """Gives the path of the model that comes with `ldm`.

    Raises: FileNotFoundError if the installation has none.
    """
    shipped = importlib.resources.files("ldm") / "assets" / SHIPPED
    if not shipped.is_file():
        raise FileNotFoundError(
            f"no model was given and none comes with this installation (assets/{SHIPPED}): train one with "
            f"ldm-train and give its file (checkpoint)"
        )
    with importlib.resources.as_file(shipped) as file:
        yield file


def finite(value: Tensor, what: str, module: str, dtype: torch.dtype) -> None:
    """Raises ArithmeticError if a value is not finite: never a black image."""
    if not bool(value.isfinite().all()):
        raise ArithmeticError(
            f"NaN or infinite values in {what} (module {module}, {dtype}); try dtype float32"
        )
