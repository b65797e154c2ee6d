"""Aspect-ratio buckets: images of many shapes, each batch of one, every sample exactly once an epoch."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ldm.data.decode import Size
from ldm.data.shards.interleaving import Interleaving
from ldm.data.shards.order import SampleOrder
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)
FACTOR = 8  # of Stable Diffusion's first stage


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """The sizes whose sides are multiples of a number, that use an area as well as they can.

    Args:
        area: height times width, at most, in pixels.
        multiple: of both sides; itself a multiple of 8.
        max_aspect: of the longer side over the shorter.
    """

    area: int = 512 * 512
    multiple: int = 64
    max_aspect: float = 2.0

    def __post_init__(self) -> None:
        if self.multiple < 1 or self.multiple % FACTOR:
            raise UserError(f"multiple must be a multiple of {FACTOR}, got {self.multiple}")
        if self.area < self.multiple**2:
            raise UserError(f"area must be at least multiple^2 = {self.multiple**2}, got {self.area}")
        if self.max_aspect < 1:
            raise UserError(f"max_aspect must be at least 1, got {self.max_aspect}")

    def sizes(self) -> list[Size]:
        """(height, width) of each bucket, from wide to high: those that no other of this area holds."""
        cells = self.area // self.multiple**2
        pairs = [(h, cells // h) for h in range(1, cells + 1)]
        largest = [(h, w) for h, w in pairs if cells // w == h]  # else a higher one is as wide
        return [
            (h * self.multiple, w * self.multiple)
            for h, w in largest
            if max(h, w) <= self.max_aspect * min(h, w)
        ]


def checked_sizes(buckets: Buckets | Sequence[Sequence[int]]) -> list[Size]:
    """(height, width) of each bucket.

    Args:
        buckets: a rule, or a list of [height, width].

    Raises: ValueError if there is none, one comes twice or is no multiple of 8.
    """
    sizes = buckets.sizes() if isinstance(buckets, Buckets) else [tuple(size) for size in buckets]
    found = []
    for size in sizes:
        if len(size) != 2 or any(side < FACTOR or side % FACTOR for side in size):
            raise UserError(f"buckets must be [height, width] in multiples of {FACTOR}, got {list(size)}")
        found.append((size[0], size[1]))
    if not found or len(set(found)) < len(found):
        raise UserError(f"buckets must be different sizes, at least one, got {found}")
    return found


def nearest_bucket(height: np.ndarray, width: np.ndarray, sizes: Sequence[Size]) -> Int64[np.ndarray, " n"]:
    """For each image the bucket whose aspect is nearest in the logarithm; the first of several.

    Args:
        height: of the stored images, in pixels, (n,); 0 where it is not known: they count as squares.
        width: likewise.
        sizes: of the buckets.
    """
    known = (height > 0) & (width > 0)
    aspect = np.log(np.where(known, height, 1) / np.where(known, width, 1))
    buckets = np.array([math.log(h / w) for h, w in sizes])
    return np.argmin(np.abs(aspect[:, None] - buckets), axis=1).astype(np.int64)


class BucketPlan:
    """Which samples are in the batch of a step: a function of the step alone, the same on all ranks.

    Each bucket has an endless `SampleOrder` of its own over its samples, from which batches are cut in turn.
    Which bucket's turn it is at a step is an `Interleaving` in proportion to the samples. So:

    - all of a global batch is of one bucket;
    - exactly once means: the places k m .. (k + 1) m - 1 of the sequence of a bucket with m samples hold each
      of them once, and k is their visit. What does not fill a batch at the end of an epoch begins the
      bucket's next batch, followed by samples of the next epoch: nothing is dropped. A bucket with fewer
      samples than a batch has several epochs in one;
    - buckets come in proportion: with n samples in all, after n steps each sample has been seen batch_size
      times, whatever its bucket, and at no time is a bucket more than some batches ahead;
    - finding a step costs O(log n) and its samples, wherever it is.

    The plans draw from the same seed, so that buckets that have samples in all shards read them in the same
    order. Up to `lanes` shards a bucket are read side by side.

    Args:
        bucket_of: bucket of each sample that is used, (n,).
        shard_of: its shard, not decreasing, (n,).
        sizes: (height, width) of the buckets.
        batch_size: global batch size.
        seed: of the order.
        lanes: see `SampleOrder`.
        window: see `SampleOrder`.
    """

    def __init__(
        self,
        bucket_of: np.ndarray,
        shard_of: np.ndarray,
        *,
        sizes: Sequence[Size],
        batch_size: int,
        seed: int,
        lanes: int,
        window: int,
    ) -> None:
        self.sizes, self.batch_size = list(sizes), batch_size
        self.members = [np.flatnonzero(bucket_of == i) for i in range(len(sizes))]
        if len(shard_of) == 0:
            raise UserError("no sample is left to train on")
        self.plans = {
            i: SampleOrder(shard_of=shard_of[rows], seed=seed, lanes=lanes, window=window)
            for i, rows in enumerate(self.members)
            if len(rows)
        }
        self.turns = Interleaving(counts=[len(rows) for rows in self.members], seed=seed)

    def __len__(self) -> int:
        """Samples of an epoch."""
        return self.turns.total

    def batch(
        self, step: int, part: int = 0, parts: int = 1
    ) -> tuple[int, Int64[np.ndarray, " b"], Int64[np.ndarray, " b"]]:
        """The bucket of a step, and samples and visits of one of equal parts of its global batch.

        Args:
            step: at least 0.
            part: which of the parts.
            parts: into how many the batch is cut.
        """
        bucket, earlier = self.turns.at(step)
        size = self.batch_size // parts
        rows, visits = self.plans[bucket].rows(earlier * self.batch_size + part * size, size)
        return bucket, self.members[bucket][rows], visits

    def table(self) -> str:
        """A line for each bucket: its size, its samples, its steps an epoch."""
        lines = [f"{'height x width':>15} {'samples':>12} {'steps an epoch':>15}"]
        for (height, width), rows in zip(self.sizes, self.members, strict=True):
            steps = len(rows) / self.batch_size
            lines.append(f"{f'{height} x {width}':>15} {len(rows):12,} {steps:15,.1f}")
        return "\n".join(lines)
