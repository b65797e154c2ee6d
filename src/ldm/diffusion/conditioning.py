"""What a denoising net is conditioned on besides time."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """One value that guidance can concatenate and dropout can replace.

    Args:
        tokens: context tokens for cross-attention, (b, l, d), or None.
        pooled: one vector per sample, (b, p), or None.
    """

    tokens: Tensor | None = None
    pooled: Tensor | None = None

    def cat(self, other: "Conditioning") -> "Conditioning":
        """This and another conditioning of the same kind, concatenated along the batch."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Conditioning(*(None if a is None else torch.cat([a, b]) for a, b in pairs))
