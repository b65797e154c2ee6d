"""Random numbers of the images of one call."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ldm.diffusion import random
from ldm.utils.errors import UserError
from ldm.utils.seeds import Seed, as_seeds


class Draws:
    """Standard normal numbers that are functions of an image's seed and number alone.

    Args:
        seed: one seed s, with which image i draws from (s, numbers[i]), or one seed per image, which then
            draws from (its seed, numbers[i]).
        count: number of images.
        device: of the numbers.
        numbers: of the images in their call; None: 0, 1, ... with one seed, 0 for all with a seed per image.

    Raises: ValueError if there is not one seed, or one number, per image, or a seed is out of range.
    """

    def __init__(
        self,
        seed: Seed,
        count: int,
        device: torch.device,
        numbers: Any = None,
    ) -> None:
        seeds = as_seeds(seed)
        if not isinstance(seeds, int) and len(seeds) != count:
            raise UserError(f"seed must be one number or {count}, one for each image, got {len(seeds)}")
        if numbers is None:
            numbers = range(count) if isinstance(seeds, int) else [0] * count
        numbers = _whole(numbers)
        if len(numbers) != count:
            raise UserError(f"numbers must be {count}, one for each image, got {len(numbers)}")
        self.seed, self.device = seeds, device
        self.numbers = torch.tensor(numbers, dtype=torch.int64, device=device)

    def normal(self, purpose: str, visit: int, rows: range, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers of some of the images, (len(rows), *shape).

        Args:
            purpose: other purposes give independent numbers.
            visit: number of the draw for this purpose.
            rows: the images.
            shape: of an image's numbers.
        """
        size = tuple(shape)
        if isinstance(self.seed, int):
            return random.normal(self.seed, purpose, self.numbers[rows.start : rows.stop], visit, size)
        return torch.cat(
            [random.normal(self.seed[i], purpose, self.numbers[i : i + 1], visit, size) for i in rows]
        )


def _whole(numbers: Any) -> list[int]:
    """The numbers of images as a list.

    Raises: ValueError for anything else than whole numbers that an image can have.
    """
    try:
        found = [operator.index(number) for number in numbers]
    except (TypeError, ValueError):
        found = [-1]
    if any(not 0 <= number < 2**63 for number in found):
        raise UserError(f"numbers must be whole numbers in [0, 2^63), got {numbers!r}")
    return found
