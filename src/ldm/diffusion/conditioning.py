"""Conditioning of a denoising net, as one value that guidance can concatenate."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ldm.utils.errors import UserError


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Conditioning of b images; a new kind of conditioning is a new field, None where it is not used.

    Args:
        tokens: (b, l, d), attended to by cross-attention.
        pooled: (b, p), added to the time embedding.
        concat: (b, k, h, w), further channels behind those of x_t, such as an inpainting net's mask.
        identity_attention: (b,), rows whose self-attention in the net's middle is the identity.
        guidance: (b,), the guidance scale that a distilled net is evaluated for.
    """

    tokens: Float[Tensor, "b l d"] | None = None
    pooled: Float[Tensor, "b p"] | None = None
    concat: Float[Tensor, "b k h w"] | None = None
    identity_attention: Bool[Tensor, " b"] | None = None
    guidance: Float[Tensor, " b"] | None = None

    def _items(self) -> Iterator[tuple[str, Tensor | None]]:
        return ((f.name, getattr(self, f.name)) for f in fields(self))

    @property
    def is_empty(self) -> bool:
        """True if neither tokens nor a pooled embedding are given: the model is unconditional."""
        return self.tokens is None and self.pooled is None

    def cat(self, other: "Conditioning") -> "Conditioning":
        """This batch followed by the other, field by field.

        Raises:
            ValueError: if a field is set in one of the two only.
        """
        joined: dict[str, Tensor] = {}
        for (name, mine), (_, theirs) in zip(self._items(), other._items(), strict=True):
            if (mine is None) != (theirs is None):
                raise UserError(f"{name} is set in one conditioning and missing in the other: both need it")
            if mine is not None and theirs is not None:
                joined[name] = torch.cat([mine, theirs])
        return Conditioning(**joined)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Conditioning":
        """The same values on a device, in a dtype."""
        return Conditioning(
            **{
                k: v.to(device=device, dtype=dtype if v.is_floating_point() else None)
                for k, v in self._items()
                if v is not None
            }
        )
