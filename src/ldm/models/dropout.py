"""Dropout whose mask is a function of (seed, layer, sample, visit), as every draw of a training is."""

from collections.abc import Sequence

from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.diffusion import random


class KeyedDropout(nn.Module):
    """Sets elements to 0 with probability p and scales the others by 1 / (1 - p) (Srivastava et al. 2014).

    Once keys are given (`give_keys`), a sample's mask does not depend on its batch, on ranks or on what was
    drawn before. Without keys torch's generator draws it.

    Args:
        p: in [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {p}")
        self.p = p
        self.drawn_by: tuple[int, str, Tensor, Tensor] | None = None  # seed, purpose, key, visit

    def extra_repr(self) -> str:
        """The probability."""
        return f"p={self.p}"

    def forward(self, x: Tensor) -> Tensor:
        """The input (b, ...) with some of its elements 0 in training."""
        if not self.training or self.p == 0.0:
            return x
        if self.drawn_by is None:
            return F.dropout(x, self.p)
        kept = random.uniform(*self.drawn_by, tuple(x.shape[1:])) >= self.p
        return x * (kept / (1.0 - self.p)).to(x.dtype)


def dropouts_of(net: nn.Module) -> list[KeyedDropout]:
    """The layers of a net that drop something, in their order."""
    return [m for m in net.modules() if isinstance(m, KeyedDropout) and m.p > 0.0]


def give_keys(
    layers: Sequence[KeyedDropout], seed: int, key: Int64[Tensor, " b"], visit: Int64[Tensor, " b"]
) -> None:
    """Sets the keys of the next samples; they stay until the next call, for backward passes that recompute.

    Args:
        layers: of `dropouts_of`.
        seed: of the run.
        key: of the samples.
        visit: how often each was seen before.
    """
    for i, layer in enumerate(layers):
        layer.drawn_by = (seed, f"dropout {i}", key, visit)
