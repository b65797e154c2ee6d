"""Seeds as people give them: whole numbers of any type, one or one for each image."""

import operator
from collections.abc import Iterable
from typing import Any, SupportsIndex

from ldm.utils.errors import UserError

LIMIT = 2**64
Seed = SupportsIndex | Iterable[SupportsIndex]
"""One seed, or one for each image."""


def as_seed(value: Any, name: str = "seed") -> int:
    """A seed in [0, 2^64) as an int, from an integer of Python, NumPy or PyTorch.

    Args:
        value: the seed.
        name: of the argument, for messages.

    Raises: ValueError for anything else.
    """
    is_bool = isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")
    try:
        seed = operator.index(value)
    except (TypeError, ValueError):
        is_bool, seed = True, 0
    if is_bool:
        raise UserError(f"{name} must be a whole number in [0, 2^64), got {value!r}")
    if not 0 <= seed < LIMIT:
        raise UserError(f"{name} must be in [0, 2^64), got {seed}")
    return seed


def as_seeds(value: Any, name: str = "seed") -> int | list[int]:
    """One seed, or the seeds of a list, tuple, range, array or tensor of one dimension.

    Raises: ValueError for anything else.
    """
    shape = getattr(value, "shape", None)
    if isinstance(value, str | bytes) or not isinstance(value, Iterable) or shape == ():
        return as_seed(value, name)
    return [as_seed(seed, name) for seed in value]
