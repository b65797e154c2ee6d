"""What all pipelines share: loading, devices, prompts, seeds, decoding."""

import importlib.resources
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm.checkpoints.assemble import COMPONENTS
from ldm.checkpoints.construct import construct
from ldm.checkpoints.loader import load_model
from ldm.diffusion import random
from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.process import Diffusion

log = logging.getLogger(__name__)

P = TypeVar("P", bound="Pipeline")

SHIPPED = "emoji.safetensors"
SETTINGS = {"diffusion": (), "sampling": ("scheduler", "timesteps", "num_inference_steps", "guidance_scale")}


class Pipeline:
    """A finished model: three nets, the diffusion that joins them and default settings.

    Args:
        autoencoder: image <-> latent.
        text_encoder: captions -> Conditioning.
        backbone: the denoising net.
        config: plain types only, as a checkpoint's metadata holds it: "diffusion", "sampling", "image_size",
            "caption_dropout".
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
        self.diffusion: Diffusion = construct(config["diffusion"], "diffusion")
        self.sampling: dict[str, Any] = construct(config["sampling"], "sampling")
        self.device, self.dtype = torch.device("cpu"), torch.float32

    @classmethod
    def from_pretrained(
        cls: type[P],
        path: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> P:
        """A pipeline from a file.

        Args:
            path: of a `.safetensors` of ours; None for the model that comes with `ldm`.
            device: to put it on.
            dtype: of the nets.

        Raises: FileNotFoundError; ValueError if the file is no complete model of ours.
        """
        if path is None:
            with shipped_model() as file:
                return cls.from_pretrained(file, device=device, dtype=dtype)
        loaded = load_model(path, device, dtype)
        if missing := [name for name in COMPONENTS if name not in loaded.components]:
            raise ValueError(f"{path} is no complete model: it has no {', '.join(missing)} (checkpoint)")
        return cls(**loaded.components, config=loaded.config).to(device, dtype)  # type: ignore[arg-type]

    def to(self: P, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> P:
        """Moves the nets to a device or casts them; returns the pipeline."""
        self.device, self.dtype = torch.device(device or self.device), dtype or self.dtype
        for net in (self.autoencoder, self.text_encoder, self.backbone):
            net.to(device=self.device, dtype=self.dtype).requires_grad_(False).eval()
        return self

    def latent_shape(self, height: int | None, width: int | None) -> tuple[int, int, int]:
        """Channels, height and width of the latents of an image.

        Raises: ValueError for a size that the nets cannot make, naming the nearest one they can.
        """
        default, fixed = self.config["image_size"], getattr(self.backbone, "position_size", None)
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

    def encode(self, captions: list[str]) -> Conditioning:
        """Conditioning of captions; the empty caption is the unconditional one."""
        cond: Conditioning = self.text_encoder.encode(captions)
        return cond

    def net(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The backbone's output in float32, whatever it computes in."""
        out: Tensor = self.backbone(x_t.to(self.dtype), t, cond).float()
        return out

    def decode(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        """Images of normalised latents, in [-1, 1].

        Raises: ArithmeticError if an image is not finite.
        """
        image: Tensor = self.autoencoder.from_latent(z.to(self.dtype)).float()
        finite(image, "the decoded image", "autoencoder", self.dtype)
        return image.clamp(-1.0, 1.0)


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


def as_prompts(value: str | Sequence[str], name: str) -> list[str]:
    """A list of at least one prompt."""
    prompts = [value] if isinstance(value, str) else list(value)
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"{name} must be a text or a list of at least one text, got {value!r} ({name})")
    return prompts


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
            raise ValueError(
                f"seed must be one number or {count}, one for each image, got {len(seed)} (seed)"
            )
        self.seed, self.device = seed, device

    def normal(self, purpose: str, visit: int, rows: range, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers for some of the images, (len(rows), *shape)."""
        if isinstance(self.seed, int):
            keys = torch.arange(rows.start, rows.stop, device=self.device)
            return random.normal(self.seed, purpose, keys, visit, shape)
        first = torch.zeros(1, dtype=torch.int64, device=self.device)
        return torch.cat([random.normal(int(self.seed[i]), purpose, first, visit, shape) for i in rows])


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
