"""Latents that are encoded once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class LatentCache:
    """Posterior moments of images that are a function of (key, caption), encoded once and kept in memory."""

    def __init__(self) -> None:
        self.index: dict[tuple[int, str], int] = {}
        self.rows: list[Tensor] = []

    def __call__(self, encode: Callable[[Tensor], Tensor], batch: dict[str, Any]) -> Tensor:
        """Moments of the batch's images, (b, ...); `encode` is called for the ones not seen before.

        Each is encoded alone: within a batch its last bits would depend on the others, and so on where the
        run was begun.
        """
        names = list(zip(batch["key"].tolist(), batch["caption"], strict=True))
        for i, name in enumerate(names):
            if name not in self.index:
                self.index[name] = len(self.rows)
                self.rows.append(encode(batch["image"][i : i + 1])[0])
        return torch.stack([self.rows[self.index[name]] for name in names])
