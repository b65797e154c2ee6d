"""Formulas of adapters: weight -> what an adapter adds to it.

LoRA (Hu et al. 2021, arXiv:2106.09685), DoRA (Liu et al. 2024, arXiv:2402.09353) and the kinds of LyCORIS
(Yeh et al. 2023, arXiv:2309.14859): LoCon, LoHa, LoKr, Tucker cores and full differences.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ldm.models.lora import Update
from ldm.utils.errors import UserError


class UnfitError(UserError):
    """An adapter of another shape than its weight."""


@runtime_checkable
class Formula(Protocol):
    """A rule for the change of one weight."""

    def delta(self, weight: Tensor) -> Tensor:
        """Addend to a weight, in float32 and of its shape.

        Args:
            weight: linear (out, in), convolutional (out, in, h, w), or a vector of a norm or bias (out,).

        Raises: UnfitError if the adapter's tensors do not make that shape.
        """


def shaped(value: Tensor, weight: Tensor, *tensors: Tensor) -> Tensor:
    """A value with the axes of a weight: linear layers and convolutions are read alike.

    Raises: UnfitError if it has other rows or another size; `tensors` made it.
    """
    rows = value.shape[0] if value.dim() else 0
    if rows != weight.shape[0] or value.numel() != weight.numel() or _transposed(value, weight):
        sizes = " x ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise UnfitError(f"is {sizes}, for a weight {tuple(weight.shape)}")
    return value.reshape(weight.shape)


def _transposed(value: Tensor, weight: Tensor) -> bool:
    """True if both are convolutions, with other kernels."""
    return value.dim() == weight.dim() == 4 and value.shape != weight.shape


def product(up: Tensor, down: Tensor, core: Tensor | None = None) -> Tensor:
    """B A, or the Tucker product sum_ij core_ij B_pi A_jr of a convolution, in float32.

    Args:
        up: B, (out, rank, ...).
        down: A, (rank, in, ...).
        core: (rank, rank, h, w), or None.

    Raises: UnfitError if the ranks differ.
    """
    if min(up.dim(), down.dim(), 2 if core is None else core.dim()) < 2:
        sizes = ", ".join(str(tuple(t.shape)) for t in (up, down, core) if t is not None)
        raise UnfitError(f"is of factors {sizes}, which must be matrices")
    b, a = up.float().flatten(1), down.float().flatten(1)
    inner = (a.shape[0], a.shape[0]) if core is None else tuple(core.shape[1::-1])
    if inner != (a.shape[0], b.shape[1]):
        between = "" if core is None else f" x {tuple(core.shape)}"
        raise UnfitError(f"is {tuple(up.shape)}{between} x {tuple(down.shape)}, of ranks that differ")
    if core is None:
        return b @ a
    return torch.einsum("ij...,pi,jr->pr...", core.float(), b, a)


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """LoRA and LoCon: scale B A, with a Tucker core between them if there is one.

    Args:
        down: A, (rank, in, ...).
        up: B, (out, rank, ...).
        scale: alpha / rank.
        core: (rank, rank, h, w), or None.
    """

    down: Tensor
    up: Tensor
    scale: float
    core: Tensor | None = None

    def delta(self, weight: Tensor) -> Tensor:
        """See `Formula`."""
        value = product(self.up, self.down, self.core)
        return self.scale * shaped(value, weight, self.up, self.down)


def low_rank(update: Update) -> LowRank:
    """The formula of an update that was trained here."""
    return LowRank(down=update.down, up=update.up, scale=update.scale)


@dataclass(frozen=True, kw_only=True)
class Hadamard:
    """LoHa: scale times the elementwise product of two matrices.

    Args:
        first: the one.
        second: the other, of the same shape.
        scale: alpha / rank.
    """

    first: Tensor
    second: Tensor
    scale: float

    def delta(self, weight: Tensor) -> Tensor:
        """See `Formula`."""
        if self.first.shape != self.second.shape:
            raise UnfitError(
                f"is of factors {tuple(self.first.shape)} and {tuple(self.second.shape)}, which must be equal"
            )
        return self.scale * shaped(self.first * self.second, weight, self.first)


@dataclass(frozen=True, kw_only=True)
class Kronecker:
    """LoKr: scale times the Kronecker product of two matrices; the second may have a kernel.

    Args:
        first: (out_1, in_1).
        second: (out_2, in_2, ...).
        scale: alpha / rank; 1 where both factors are stored whole.
    """

    first: Tensor
    second: Tensor
    scale: float

    def delta(self, weight: Tensor) -> Tensor:
        """See `Formula`."""
        first, second = self.first.float(), self.second.float().contiguous()  # as kron needs it
        if first.dim() != 2 or second.dim() < 2:
            raise UnfitError(f"is of factors {tuple(first.shape)} and {tuple(second.shape)}, not of matrices")
        value = torch.kron(first.reshape(*first.shape, *[1] * (second.dim() - 2)), second)
        return self.scale * shaped(value, weight, self.first, self.second)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A full difference, as the norms and biases of LyCORIS and its kind "full" have it.

    Args:
        value: of the shape of the weight.
        scale: its factor.
    """

    value: Tensor
    scale: float = 1.0

    def delta(self, weight: Tensor) -> Tensor:
        """See `Formula`."""
        return self.scale * shaped(self.value.float(), weight, self.value)


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """A layer that was trained whole (PEFT's `modules_to_save`).

    Args:
        value: the weight itself.
    """

    value: Tensor

    def delta(self, weight: Tensor) -> Tensor:
        """See `Formula`."""
        return shaped(self.value.float(), weight, self.value) - weight.float()


@dataclass(frozen=True, kw_only=True)
class Decomposed:
    """DoRA: the weight with its update, V, becomes m V / |V|, norms by output or by input channel (Eq. 5).

    Args:
        inner: the update of the direction.
        magnitude: m, (out,) or (out, 1, ...) by output channel, (1, in, ...) by input channel.
    """

    inner: Formula
    magnitude: Tensor

    def delta(self, weight: Tensor) -> Tensor:
        """See `Formula`."""
        m, out = self.magnitude.float(), weight.shape[0]
        v = weight.float() + self.inner.delta(weight)
        by_input = m.dim() > 1 and m.shape[0] == 1 and m.numel() > 1
        if weight.dim() < 2 or m.numel() != (weight.shape[1] if by_input else out):
            raise UnfitError(f"has magnitudes {tuple(m.shape)}, for a weight {tuple(weight.shape)}")
        axis = 1 if by_input else 0
        sizes = [1] * weight.dim()
        sizes[axis] = -1
        norm: Tensor = torch.linalg.vector_norm(v.transpose(0, axis).flatten(1), dim=1)
        if not bool(norm.all()):
            raise UnfitError("is DoRA of a weight with a row of zeros, which has no direction")
        return v * (m.flatten() / norm).view(sizes) - weight.float()
