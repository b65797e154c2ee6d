"""Division of the images of a large call between processes; generation itself knows no process group."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Workers(Protocol):
    """Processes that sample together; all of them call `Sampler.images` with the same arguments."""

    def share(self, count: int) -> Iterator[tuple[int, bool]]:
        """Numbers in 0 .. count - 1 that this process works on, each with whether its result counts."""

    def summed(self, images: Tensor) -> Tensor:
        """The sum of the processes' tensors."""


class OneProcess:
    """A single process, which does all the work."""

    def share(self, count: int) -> Iterator[tuple[int, bool]]:
        """All numbers."""
        return ((i, True) for i in range(count))

    def summed(self, images: Tensor) -> Tensor:
        """Returns its argument."""
        return images
