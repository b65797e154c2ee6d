"""RGB images with one caption each, in memory: the base of CIFAR-10, image folders and synthetic shapes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from ldm.data.batch import MemoryData, Samples, check_fraction, to_float
from ldm.diffusion import random
from ldm.utils.errors import UserError


class CaptionedImages(MemoryData):
    """Images in memory, flipped left to right by (seed, key, visit).

    Args:
        batch_size: global batch size.
        image_size: height and width.
        flip: probability of a mirror image.
        validation_fraction: fraction of the images that are never trained on.
        seed: of order, flips and split.
        num_workers: loader processes.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        image_size: int,
        flip: float = 0.0,
        validation_fraction: float = 0.0,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, image_size=image_size, seed=seed, num_workers=num_workers)
        self.flip = check_fraction("flip", flip)
        self.validation_fraction = check_fraction("validation_fraction", validation_fraction)
        self._held: tuple[Tensor, list[str]] | None = None

    def read(self) -> tuple[UInt8[Tensor, "n 3 h w"], Sequence[str]]:
        """All images and their captions."""
        raise UserError(f"{type(self).__name__} does not define read")

    def held(self) -> tuple[Tensor, list[str]]:
        """Images and captions, read at the first use."""
        if self._held is None:
            images, captions = self.read()
            self._held = images.contiguous(), list(captions)
            keys = torch.arange(len(images))
            out = random.uniform(self.seed, "validation", keys, 0) < self.validation_fraction
            self._keys, self._validation = keys[~out], keys[out]
            if len(self._keys) == 0:
                raise UserError(
                    f"validation_fraction={self.validation_fraction} leaves none of {len(images)} images "
                    "to train on"
                )
        return self._held

    def training_keys(self) -> Int64[Tensor, " n"]:
        """Indices of the images trained on."""
        self.held()
        return self._keys

    def captions(self) -> list[str]:
        """The different captions of the images."""
        return sorted(set(self.held()[1]))

    def get(self, key: Int64[Tensor, " b"], visit: int) -> Samples:
        """The images, some of them mirrored at this visit."""
        images, captions = self.held()
        image = images[key]
        if self.flip:
            mirrored = random.uniform(self.seed, "flip", key, visit) < self.flip
            image = torch.where(mirrored[:, None, None, None], image.flip(-1), image)
        return {"image": to_float(image), "caption": [captions[k] for k in key.tolist()], "key": key}

    def validation_keys(self) -> Int64[Tensor, " n"]:
        """Keys of the samples held out; of all trained on when there are none."""
        trained = self.training_keys()
        return self._validation if len(self._validation) else trained

    def validation_images(self) -> Float[Tensor, "n 3 h w"]:
        """The images held out, or some trained ones when there are none."""
        return to_float(self.held()[0][self.validation_keys()[:512]])
