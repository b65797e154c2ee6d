"""Ranks of the prompted image among reference images by distance in pixels."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from ldm.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Ranks of the prompted images among the references, by distance to the samples.

    Args:
        nearest: index of the nearest reference of each sample, (n,).
        rank: references nearer than the prompted one, (n,).
    """

    nearest: Tensor
    rank: Tensor

    @property
    def top1(self) -> float:
        """Fraction of the samples whose nearest reference is the prompted one."""
        return (self.rank < 1).float().mean().item()

    @property
    def top5(self) -> float:
        """Fraction of the samples with the prompted reference among the five nearest."""
        return (self.rank < 5).float().mean().item()


def ranks(
    images: Shaped[Tensor, "n c h w"], references: Shaped[Tensor, "m _ _ _"], targets: Int64[Tensor, " n"]
) -> Ranks:
    """Ranks all references by their Euclidean distance in pixels to each sample.

    Args:
        images: samples, (n, 3, h, w), any type.
        references: reference images, (m, 3, h, w), on the same scale.
        targets: index of the prompted reference of each sample.

    Raises: ValueError if samples and references differ in size.
    """
    if images.shape[1:] != references.shape[1:]:
        raise UserError(
            f"images must be as large as the references, {tuple(references.shape[1:])}, "
            f"got {tuple(images.shape[1:])}"
        )
    flat = references.flatten(1).float()
    nearest, rank = [], []
    for part, target in zip(images.split(256), targets.split(256), strict=True):
        distance = torch.cdist(part.flatten(1).float(), flat)  # (b, m)
        nearest.append(distance.argmin(1))
        rank.append((distance < distance.gather(1, target[:, None])).sum(1))
    return Ranks(nearest=torch.cat(nearest), rank=torch.cat(rank))
