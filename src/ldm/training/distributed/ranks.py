"""Work that is divided between the ranks of a run."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ldm.utils.distributed import initialised


def share(count: int, rank: int, world: int) -> Iterator[tuple[int, bool]]:
    """The numbers in 0 .. count - 1 that are this rank's, each with True if its result counts.

    All ranks get equally many, because collective operations of sharded nets need all of them: at the end a
    rank without a number repeats the first one, which does not count.

    Args:
        count: how many numbers there are.
        rank: of this process.
        world: number of ranks.
    """
    for start in range(0, count, world):
        yield (start + rank, True) if start + rank < count else (0, False)


def summed(x: Tensor) -> Tensor:
    """Sum of the ranks' tensors, in place; a collective operation."""
    if initialised():
        torch.distributed.all_reduce(x)
    return x
