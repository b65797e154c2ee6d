"""Data with an image for each of some captions, among which samples are looked up."""

from typing import Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor


@runtime_checkable
class ReferenceData(Protocol):
    """Reference images for its captions."""

    def training_captions(self) -> list[tuple[int, str]]:
        """(reference index, caption) of the samples trained on."""
        ...

    def reference_images(self) -> UInt8[Tensor, "n 3 h w"]:
        """Images among which the prompted one is looked up."""
        ...

    def reference_captions(self) -> list[str]:
        """Captions of the reference images."""
        ...
