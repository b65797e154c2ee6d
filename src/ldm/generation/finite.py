"""Checks for NaN and infinite values, so that a failure is an error and never a black image."""

import torch
from torch import Tensor

from ldm.utils.errors import Failure


class NotFiniteError(Failure, ArithmeticError):
    """NaN or infinite values in what is drawn."""


def check_finite(value: Tensor, name: str, module: str, dtype: torch.dtype) -> None:
    """Raises NotFiniteError if a value is not finite.

    Args:
        value: the tensor.
        name: of the tensor, for the message.
        module: that computed it.
        dtype: in which the module computes.
    """
    if not bool(value.isfinite().all()):
        raise NotFiniteError(
            f"NaN or infinite values in {name} (module {module}, {dtype}); try dtype float32"
        )


def check_step(i: int, x: Tensor, x0: Tensor, dtype: torch.dtype) -> None:
    """Raises NotFiniteError if the latents after step i, or its estimate of x0, are not finite."""
    check_finite(x0, f"the estimate of x0 at step {i}", "backbone", dtype)
    check_finite(x, f"the latents after step {i}", "scheduler", torch.float32)
