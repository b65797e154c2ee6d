"""Uniform numbers from which the training times are made: for a sample's key and the number of its visit."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ldm.diffusion import random

GOLDEN_RATIO = 0.6180339887498949


@runtime_checkable
class TimeDraws(Protocol):
    """Uniform numbers in [0, 1) as a function of (seed, key, visit)."""

    def __call__(self, seed: int, key: Tensor, visit: int | Tensor) -> Tensor:
        """Numbers (b,) of keys (b,); visit is one number or one for each key."""


@dataclass(frozen=True, kw_only=True)
class LowDiscrepancy:
    """From a random start by the golden ratio: any run of a key's visits fills [0, 1) evenly (Weyl 1916)."""

    def __call__(self, seed: int, key: Int64[Tensor, " b"], visit: int | Tensor) -> Float[Tensor, " b"]:
        """The fraction of start + visit times the golden ratio."""
        steps = torch.as_tensor(visit, dtype=torch.float64, device="cpu") * GOLDEN_RATIO % 1.0
        return (random.uniform(seed, "time", key, 0) + steps.float().to(key.device)) % 1.0


@dataclass(frozen=True, kw_only=True)
class Independent:
    """Independent of each other."""

    def __call__(self, seed: int, key: Int64[Tensor, " b"], visit: int | Tensor) -> Float[Tensor, " b"]:
        """A draw of each visit."""
        return random.uniform(seed, "time", key, visit)
