"""Batches, the base class of data modules, and that of data held in memory."""

import time
from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import count
from typing import Any, NotRequired, TypedDict

import lightning.pytorch as pl
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ldm.data.worker_errors import attempt, checked
from ldm.diffusion import random
from ldm.utils.errors import UserError


class Samples(TypedDict):
    """image (b, 3, h, w) float32 in [-1, 1], caption (b strings), key (b,) int64, the samples' identities.

    Data that were encoded ahead of time hold, in place of images, mean and std (b, c, h, w) of the
    autoencoder's posterior before any scaling; and, if captions were encoded, tokens (b, l, d) and pooled
    (b, p) of the text encoder, where it has them. They are in the precision in which they are stored.
    """

    image: NotRequired[Tensor]
    caption: list[str]
    key: Tensor
    mean: NotRequired[Tensor]
    std: NotRequired[Tensor]
    tokens: NotRequired[Tensor]
    pooled: NotRequired[Tensor]


class Batch(Samples):
    """Samples and visit (b,) int64: how often each was seen before, its epoch.

    Data whose images are resized and cropped also says, for conditioning as in SDXL (Podell et al. 2023,
    arXiv:2307.01952, Sec. 2.2):

    original_size (b, 2) int64: height and width of the stored image, before it was resized;
    crop (b, 2) int64: top and left of the crop in pixels of the resized image. An image that is mirrored is
    mirrored first and then cropped, so that left is counted from the left of the mirror image, which is what
    the net sees; as in diffusers' training of SDXL.
    """

    visit: Tensor
    original_size: NotRequired[Tensor]
    crop: NotRequired[Tensor]


class Stream(IterableDataset[Batch | Exception]):
    """The endless sequence of one rank's batches from a given step on.

    A step's global batch is cut into world x accumulate parts: the ranks take the first `world` of them, then
    the next, so the global batch is the same for any number of ranks and accumulated batches. Worker w of W
    makes the batches w, w + W, ...: the loader takes them in turn, so the sequence is the same for any
    number of workers.
    """

    def __init__(self, data: "OrderedData", start: int, rank: int, world: int, accumulate: int = 1) -> None:
        self.data, self.start, self.rank, self.world, self.accumulate = data, start, rank, world, accumulate

    def __iter__(self) -> Iterator[Batch | Exception]:
        """Yields the batches; in a loader process, the error of one in its place."""
        info = get_worker_info()
        first, stride = (0, 1) if info is None else (info.id, info.num_workers)
        for i in count(self.start * self.accumulate + first, stride):
            step, turn = divmod(i, self.accumulate)
            part, parts = turn * self.world + self.rank, self.world * self.accumulate
            yield attempt(partial(self.data.batch, step, part, parts))


class WatchedLoader(DataLoader[Any]):
    """A loader that accumulates in `waited` the seconds for which training waits for it."""

    waited = 0.0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yields the batches."""
        batches = super().__iter__()
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waited += time.perf_counter() - start
            yield checked(batch)


class OrderedData(pl.LightningDataModule):
    """Data whose batch of a step is a function of (seed, step), split over the ranks.

    Args:
        batch_size: images of a step, over all ranks and accumulated batches.
        image_size: height and width.
        seed: of order and augmentation.
        num_workers: loader processes; 0 loads in the training process, the fastest for most data in memory.
    """

    def __init__(self, *, batch_size: int, image_size: int, seed: int, num_workers: int = 0) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("image_size", image_size, 1),
            ("num_workers", num_workers, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.batch_size, self.image_size = batch_size, image_size
        self.seed, self.num_workers = seed, num_workers
        self._start = 0

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """One of equal parts of the global batch of a step."""
        raise UserError(f"{type(self).__name__} does not define batch")

    def resume(self, step: int) -> None:
        """Makes the loader start at a step's batch; called before the loader is made."""
        if step < 0:
            raise UserError(f"step must be at least 0, got {step}")
        self._start = step

    def train_dataloader(self) -> DataLoader[Batch]:
        """The endless training loader of this rank."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        accumulate = trainer.accumulate_grad_batches if trainer else 1
        if self.batch_size % (world * accumulate):
            raise UserError(
                f"batch_size must be a multiple of {world} ranks x {accumulate} accumulated batches, got "
                f"{self.batch_size}"
            )
        stream = Stream(self, self._start, rank, world, accumulate)
        return WatchedLoader(stream, batch_size=None, num_workers=self.num_workers)

    def training_images(self, limit: int = 2048) -> Float[Tensor, "n 3 h w"]:
        """Some training images."""
        raise UserError(f"{type(self).__name__} does not define training_images")

    def validation_samples(self, limit: int) -> Samples:
        """At most `limit` samples never trained on; trained ones of a data set that holds none out."""
        raise UserError(f"{type(self).__name__} does not define validation_samples")

    def check_usable(self) -> None:
        """Makes sure that there is something to train on; called before any stage is trained."""

    def validation_images(self) -> Float[Tensor, "n 3 h w"]:
        """Images never trained on; the training images of a data set that holds none out."""
        return self.training_images(256)

    def __getstate__(self) -> dict[str, Any]:
        """Without the trainer, so that loader processes can be started."""
        return {k: v for k, v in self.__dict__.items() if k != "trainer"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The state without a trainer."""
        self.__dict__.update(state)
        self.trainer = None


class MemoryData(OrderedData):
    """Images small enough to be held decoded in memory; batches are gathered as tensors.

    Order and augmentation are functions of (seed, key, visit), the visit of a sample being the epoch.
    """

    def __init__(self, *, batch_size: int, image_size: int, seed: int, num_workers: int = 0) -> None:
        super().__init__(batch_size=batch_size, image_size=image_size, seed=seed, num_workers=num_workers)
        self._order = lru_cache(maxsize=2)(self._permutation)

    # What a data set defines.

    def training_keys(self) -> Int64[Tensor, " n"]:
        """Keys of the training samples; keys index the data set."""
        raise UserError(f"{type(self).__name__} does not define training_keys")

    def check_usable(self) -> None:
        """Reads the data set.

        Raises: ValueError or FileNotFoundError if there is nothing to train on.
        """
        self.training_keys()

    def get(self, key: Int64[Tensor, " b"], visit: int) -> Samples:
        """The samples with these keys at their visit-th time."""
        raise UserError(f"{type(self).__name__} does not define get")

    def captions(self) -> list[str]:
        """Captions with every word that training shows."""
        raise UserError(f"{type(self).__name__} does not define captions")

    # What follows.

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch; what does not fill a batch comes in another place next epoch."""
        return max(len(self.training_keys()) // self.batch_size, 1)

    def _permutation(self, epoch: int) -> Int64[Tensor, " n"]:
        keys = self.training_keys()
        copies = -(-self.batch_size // len(keys))  # a data set smaller than a batch is repeated
        return keys[random.permutation(self.seed, "order", len(keys), epoch)].repeat(copies)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """One of equal parts of the global batch of a step, contiguous in it."""
        epoch, offset = divmod(step, self.steps_per_epoch)
        size = self.batch_size // parts
        start = offset * self.batch_size + part * size
        keys = self._order(epoch)[start : start + size]
        return {**self.get(keys, epoch), "visit": torch.full_like(keys, epoch)}

    def validation_keys(self) -> Int64[Tensor, " n"]:
        """Keys of the samples held out, or of the training samples where there are none."""
        return self.training_keys()

    def validation_samples(self, limit: int) -> Samples:
        """At most `limit` samples, as at their first visit."""
        keys = self.validation_keys()
        return self.get(keys[:limit], 0)

    def training_images(self, limit: int = 2048) -> Float[Tensor, "n 3 h w"]:
        """Training images as at their first visit, in the order of the keys."""
        return self.get(self.training_keys()[:limit], 0)["image"]

    def __getstate__(self) -> dict[str, Any]:
        """Without the cache, either."""
        return {k: v for k, v in super().__getstate__().items() if k != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The state with a fresh cache."""
        super().__setstate__(state)
        self._order = lru_cache(maxsize=2)(self._permutation)


def check_fraction(name: str, value: float) -> float:
    """The value, which must be in [0, 1].

    Raises: UserError that names the argument.
    """
    if not 0.0 <= value <= 1.0:
        raise UserError(f"{name} must be in [0, 1], got {value}")
    return value


def to_float(images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Pixels 0..255 as [-1, 1]."""
    return images.float().mul_(2.0 / 255.0).sub_(1.0)
