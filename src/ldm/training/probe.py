"""A training step without data, weights or a Trainer: the planner's view of a module in training."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from ldm.diffusion.conditioning import Conditioning
from ldm.models.protocols import Autoencoder

if TYPE_CHECKING:
    from ldm.training.autoencoder import AutoencoderTraining
    from ldm.training.latent_diffusion import LatentDiffusion

CAPTION = "a word"


@runtime_checkable
class Probe(Protocol):
    """Steps of a module whose tensors have no values: nothing in them may depend on a value."""

    @property
    def module(self) -> pl.LightningModule:
        """The module; its parameters are trained, its other tensors are their averages."""

    @property
    def net(self) -> nn.Module:
        """The net whose blocks are recomputed and sharded."""

    @property
    def frozen(self) -> tuple[nn.Module, ...]:
        """Nets outside of the module that a step may use."""

    @property
    def resident(self) -> tuple[nn.Module, ...]:
        """The frozen nets that are in memory during the training."""

    @property
    def passes(self) -> int:
        """Cost of training the nets in their forward passes: 3, or 2 if their weights are frozen."""

    def warm_up(self) -> None:
        """Computes tables that are made once, while tensors still have values."""

    def attach(self) -> None:
        """Makes the module ready for steps, once its tensors are on their device."""

    def batch(self, size: int) -> dict[str, Any]:
        """A batch of the training data."""

    def losses(self, batch: dict[str, Any]) -> Iterator[tuple[int, Tensor]]:
        """The losses of a step, each with the index of its optimizer; the caller minimises one by one."""


@runtime_checkable
class Trained(Protocol):
    """A module in training that can be planned: a LightningModule with this method."""

    def configure_model(self) -> None:
        """Builds the nets."""

    def probe(self, image_size: int, precomputed: bool) -> Probe:
        """The probe of this module, whose nets are built and whose Trainer does not exist.

        Args:
            image_size: height and width of the images.
            precomputed: the data hold latents and, of frozen text encoders, embeddings.
        """


@dataclass(frozen=True, eq=False)
class EncodedData:
    """Stands for data that were encoded ahead of time, by the nets of the run.

    Args:
        empty: conditioning of the empty caption; None if the data hold captions instead of embeddings.
    """

    empty: Conditioning | None

    def verify(self, autoencoder: nn.Module, text_encoder: Any = None) -> None:
        """Accepts all nets."""


@dataclass(frozen=True, eq=False)
class DiffusionProbe:
    """Probe of a latent diffusion model.

    Args:
        module: in training.
        image_size: height and width of the images.
        precomputed: latents and, of a frozen text encoder, embeddings come from the data.
    """

    module: "LatentDiffusion"
    image_size: int
    precomputed: bool

    @property
    def net(self) -> nn.Module:
        """The backbone, the frozen one beside adapters."""
        adapted, backbone = self.module.weights.adapted, self.module.nets["backbone"]
        return backbone if adapted is None else adapted.net

    @property
    def frozen(self) -> tuple[nn.Module, ...]:
        """The autoencoder, a text encoder that is not trained and the base of adapters."""
        return (self.module.autoencoder, *self.module.weights.frozen)

    @property
    def resident(self) -> tuple[nn.Module, ...]:
        """All frozen nets, or the base of adapters alone if everything is encoded ahead of time."""
        adapted = self.module.weights.adapted
        return self.frozen if not self.precomputed else () if adapted is None else (adapted.net,)

    @property
    def passes(self) -> int:
        """2 with adapters: the base gets no gradients of its weights."""
        return 3 if self.module.weights.adapted is None else 2

    def warm_up(self) -> None:
        """Computes the tables of the schedule and the tokens of the caption."""
        self.module.diffusion.schedule(torch.zeros(1), 4)
        with torch.no_grad():
            self.module.text_encoder(self.module.nets).encode([CAPTION])

    def attach(self) -> None:
        """Attaches encoded data if latents are not encoded in each step; no captions are dropped."""
        encoder, text = self.module.encoder, self.module.text_encoder(self.module.nets)
        encoder.caption_dropout = 0.0  # which ones are dropped depends on values
        if self.precomputed or encoder.cache is not None:
            encoder.read(EncodedData(self._embeddings(1)), text, torch.device("cpu"))

    def batch(self, size: int) -> dict[str, Any]:
        """Images or latents, captions or embeddings."""
        batch: dict[str, Any] = _keys(size) | {"caption": [CAPTION] * size}
        encoder, autoencoder = self.module.encoder, cast(Autoencoder, self.module.autoencoder)
        if not encoder.encoded:
            return batch | _images(size, self.image_size)
        side = self.image_size // autoencoder.downscale
        moment = torch.zeros(size, autoencoder.latent_channels, side, side)
        batch |= {"mean": moment, "std": moment.clone()}
        if encoder.empty is not None:
            embedded = self._embeddings(size)
            assert embedded is not None
            batch |= {
                n: v for n, v in (("tokens", embedded.tokens), ("pooled", embedded.pooled)) if v is not None
            }
        return batch

    def losses(self, batch: dict[str, Any]) -> Iterator[tuple[int, Tensor]]:
        """The loss of the step."""
        yield 0, self.module.training_step(batch, 0)["loss"]

    def _embeddings(self, size: int) -> Conditioning | None:
        """Embeddings of captions as the data would hold them; None if they are encoded in each step."""
        text = self.module.text_encoder(self.module.nets)
        if not self.precomputed or text.trainable:
            return None
        length = text.max_length or 1
        return Conditioning(
            tokens=None if text.context_dim is None else torch.zeros(size, length, text.context_dim),
            pooled=None if text.pooled_dim is None else torch.zeros(size, text.pooled_dim),
        )


@dataclass(frozen=True, eq=False)
class AutoencoderProbe:
    """Probe of a first stage with its adversarial term, with which a step needs most.

    Args:
        module: in training.
        image_size: height and width of the images.
    """

    module: "AutoencoderTraining"
    image_size: int

    passes = 3

    @property
    def net(self) -> nn.Module:
        """The autoencoder."""
        return self.module.net

    @property
    def frozen(self) -> tuple[nn.Module, ...]:
        """The net of the perceptual loss."""
        return self.module.perceptual

    resident = frozen

    def warm_up(self) -> None:
        """Nothing: there are no tables."""

    def attach(self) -> None:
        """Nothing: a step needs no data but its batch."""

    def batch(self, size: int) -> dict[str, Any]:
        """Images."""
        return _keys(size) | _images(size, self.image_size)

    def losses(self, batch: dict[str, Any]) -> Iterator[tuple[int, Tensor]]:
        """The losses of the autoencoder and of the discriminator."""
        output, losses = self.module.reconstruction(batch)
        yield from self.module.objectives(batch["image"], output, losses, adversarial=True)


def _keys(size: int) -> dict[str, Any]:
    return {"key": torch.arange(size), "visit": torch.zeros(size, dtype=torch.int64)}


def _images(size: int, image_size: int) -> dict[str, Any]:
    return {"image": torch.zeros(size, 3, image_size, image_size)}
