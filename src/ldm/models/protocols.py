"""Contracts of the three nets of a model: the members that everything else relies on, and no class names.

A net of a user's own needs to inherit from none of these classes: an `nn.Module` with the members suffices.
This file imports no torch, so that `--help` can show the contracts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ldm.utils.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from ldm.diffusion.conditioning import Conditioning
    from ldm.models.vae import Posterior


@runtime_checkable
class Backbone(Protocol):
    """Denoising net: an `nn.Module` with `forward(x_t, t, cond)` and the attributes below."""

    def __call__(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b k h w"]:
        """`forward(x_t, t, cond)`: prediction at x_t (b, c, h, w) and times t (b,), of the size of x_t."""

    @property
    def in_channels(self) -> int:
        """Channels of x_t and `cond.concat` together."""

    @property
    def out_channels(self) -> int:
        """Channels of the output: those of the latents, twice as many with a learned variance."""

    @property
    def context_dim(self) -> int | None:
        """Width of `cond.tokens` (b, l, context_dim); None if tokens are not used."""

    @property
    def pooled_dim(self) -> int | None:
        """Width of `cond.pooled` (b, pooled_dim); None if it is not used."""

    @property
    def position_size(self) -> int | None:
        """Height and width of x_t if only one size is possible; None for any size."""

    @property
    def downscale(self) -> int:
        """Factor by which the net reduces x_t: height and width must be multiples of it."""

    @property
    def supports(self) -> frozenset[str]:
        """Capabilities: "pag" (honours `cond.identity_attention`, for perturbed-attention guidance);
        "guidance_scale" (reads `cond.guidance`: distilled with guidance, and evaluated without)."""


@runtime_checkable
class Autoencoder(Protocol):
    """First stage, image <-> latent: an `nn.Module` with the members below; images are in [-1, 1]."""

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""

    @property
    def downscale(self) -> int:
        """Image size / latent size."""

    @property
    def supports(self) -> frozenset[str]:
        """Capabilities: "tiling" (has the layers of `AutoencoderKL`, which can be evaluated in bands);
        "training" (has `last_layer`, the weight of the layer that makes the image, and
        `set_latent_statistics(scaling_factor, shift_factor)`); "shortcut" (has `init_shortcut(images)`,
        called before the first step); "thresholding" (latents are pixels).
        """

    def encode(self, image: Float[Tensor, "b c h w"]) -> Posterior:
        """`encode(image)`: posterior (`ldm.models.vae.Posterior`) of the unnormalised latents of images."""

    def decode(self, z: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h2 w2"]:
        """`decode(z)`: images of unnormalised latents."""

    def normalise(self, z: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """`normalise(z)`: latents of about unit variance, in which the diffusion model works."""

    def denormalise(self, z: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """`denormalise(z)`: inverse of `normalise`."""

    def from_latent(self, z: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h2 w2"]:
        """`from_latent(z)`: images of normalised latents."""


@runtime_checkable
class TextEncoder(Protocol):
    """Captions -> conditioning: an `nn.Module` with the members below; "" is the unconditional caption.

    `ldm.models.text_encoder.BaseTextEncoder` has defaults for all of them but `encode`.
    """

    @property
    def context_dim(self) -> int | None:
        """Width of the tokens (b, l, context_dim); None if there are none."""

    @property
    def pooled_dim(self) -> int | None:
        """Width of the pooled vector (b, pooled_dim); None if there is none."""

    @property
    def max_length(self) -> int | None:
        """Tokens per caption, start and end included; None if captions have no tokens."""

    @property
    def trainable(self) -> bool:
        """True for an encoder that is trained jointly with the backbone; otherwise it is frozen."""

    @property
    def supports(self) -> frozenset[str]:
        """Capabilities: "clip_skip" (`encode(captions, clip_skip=n)` leaves out the last n layers);
        "prompt_weights", "long_prompts" (`encode(captions, prompt_weights=True, long_prompts="chunks")`);
        "learned_words" (has `learned`, an `ldm.models.learned_words.LearnedWords`).
        """

    def encode(self, captions: list[str]) -> Conditioning:
        """`encode(captions)`: `Conditioning` of b captions with tokens, pooled, both or neither."""

    def learn_vocabulary(self, captions: Callable[[], list[str]]) -> None:
        """`learn_vocabulary(captions)`: called once before training with a function -> all captions."""

    def unknown_words(self, captions: list[str]) -> list[str]:
        """`unknown_words(captions)`: words of the captions that the encoder does not know."""

    def cut_off(self, caption: str) -> str:
        """`cut_off(caption)`: end of a caption beyond `max_length`, "" if all of it is read."""


PROTOCOLS = {"autoencoder": Autoencoder, "text_encoder": TextEncoder, "backbone": Backbone}


def members(protocol: type) -> dict[str, str]:
    """The members of a protocol with their descriptions; `__call__` is listed as `forward`."""
    found = {}
    for name, member in vars(protocol).items():
        if name == "__call__" or (
            not name.startswith("_") and (callable(member) or isinstance(member, property))
        ):
            text = " ".join((inspect.getdoc(member) or "").split())
            found["forward" if name == "__call__" else name] = text
    return found


def contract(protocol: type) -> str:
    """The contract as text: a paragraph, then a line for each member."""
    lines = [f"  {name}: {text}" for name, text in members(protocol).items()]
    return "\n".join([inspect.getdoc(protocol) or "", "", *lines])


def missing_members(net: Any, protocol: type) -> list[str]:
    """The members of a protocol that a net lacks, in the protocol's order."""
    return [name for name in members(protocol) if not _has(net, name)]


def check_protocol(net: Any, protocol: type) -> None:
    """Validates that a net fulfils a protocol.

    Raises: TypeError with one line that names the first missing member and the contract.
    """
    missing = missing_members(net, protocol)
    if missing:
        all_members = members(protocol)
        raise UserError(
            f"{type(net).__name__} lacks {', '.join(missing)}; {missing[0]}: "
            f"{all_members[missing[0]].rstrip('.')}. A {protocol.__name__} has {', '.join(all_members)} "
            f"(ldm.models.protocols.{protocol.__name__})"
        )


def _has(net: Any, name: str) -> bool:
    """True if a net has a member; `forward` counts only if the net's class defines it."""
    from torch import nn

    if name != "forward":
        return hasattr(net, name)
    if isinstance(net, nn.Module):
        return type(net).forward is not nn.Module.forward
    return callable(net)
