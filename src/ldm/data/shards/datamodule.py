"""Base of data modules over tar shards: an index, filters, an order with each sample once per epoch."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader

from ldm.data.batch import Batch, OrderedData
from ldm.data.decode import BadSample, Size
from ldm.data.shards.bad_samples import BadSamples
from ldm.data.shards.buckets import BucketPlan, Buckets, checked_sizes, nearest_bucket
from ldm.data.shards.files import ShardFiles
from ldm.data.shards.filters import Filters
from ldm.data.shards.index import ShardIndex
from ldm.data.shards.index_lock import Digest, shared_index
from ldm.data.shards.reader import SampleReader
from ldm.data.shards.usable import check_captions, check_images, check_shards, check_some
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)
TRIES = 100
T = TypeVar("T")


class ShardData(OrderedData):
    """Tar shards of samples, see `ldm.data.shards.index` and `ldm.data.shards.order`.

    A sample that cannot be used is counted by cause, written down and replaced by the next (of its bucket)
    that can: neither the number of steps nor any other place of a batch changes.

    Args:
        buckets and others: see `ldm.data.laion.LaionData`.
    """

    digest: Digest = "headers"

    def __init__(
        self,
        *,
        buckets: Buckets | list[list[int]] | None,
        batch_size: int,
        image_size: int,
        seed: int,
        num_workers: int,
        index: str | None,
        filters: Filters | None,
        lanes: int,
        window: int,
        cache: str | None,
        cache_gigabytes: float,
        bad_samples: BadSamples,
    ) -> None:
        super().__init__(batch_size=batch_size, image_size=image_size, seed=seed, num_workers=num_workers)
        self.sizes: list[Size] = [(image_size, image_size)] if buckets is None else checked_sizes(buckets)
        self.bucketed = buckets is not None
        self.filters, self.lanes, self.window = filters or Filters(), lanes, window
        self.cache_bytes = int(cache_gigabytes * 1e9)
        self.index_folder, self.cache = (Path(p) if p is not None else None for p in (index, cache))
        self.bad_samples = bad_samples

    # What a data set defines.

    def paths(self) -> list[str]:
        """Paths or URLs of the shards, in order."""
        raise UserError(f"{type(self).__name__} does not define paths")

    def made_reader(self, files: ShardFiles) -> SampleReader:
        """Reader of the parts of samples."""
        raise UserError(f"{type(self).__name__} does not define made_reader")

    def gathered(self, places: np.ndarray, visits: Tensor, size: Size, among: np.ndarray) -> Batch:
        """The samples at places among those used, each replaced, if need be, by another of `among`."""
        raise UserError(f"{type(self).__name__} does not define gathered")

    # What follows.

    @cached_property
    def index(self) -> ShardIndex:
        """The index of the shards, read or made."""
        return shared_index(*self.places(), digest=self.digest)

    def places(self) -> tuple[list[str], Path | None]:
        """Paths of the shards and the folder of their index, which may not be there yet."""
        paths, folder = self.paths(), self.index_folder
        if folder is None and "://" not in paths[0]:
            name = hashlib.sha256("\n".join(paths).encode()).hexdigest()[:12]
            folder = Path(paths[0]).parent / f".ldm-index-{name}"
        return paths, folder

    @cached_property
    def kept(self) -> Int64[np.ndarray, " n"]:
        """Rows of the index that are used."""
        samples = self.index.samples
        check_shards(self.index.shards, self.bad_samples.max_bad_fraction)
        check_images(self.index)
        kept = np.flatnonzero(self.filters(samples) & (samples["image_size"] > 0))
        log.info("%d of %d samples are used", len(kept), len(samples))
        if not len(kept):
            raise UserError(f"no sample is left to train on: data.filters leave none of {len(samples)}")
        return kept

    def check_usable(self) -> None:
        """Makes sure that there is something to train on.

        Raises: ValueError with the reason and the key to set.
        """
        rows = self.kept
        check_captions(self.index, rows, self.reader.field, self.reader.fallback, self.reader)
        check_some(rows, self.try_row)

    def try_row(self, row: int) -> None:
        """Reads a row of the index; raises BadSample if it cannot be used."""
        raise UserError(f"{type(self).__name__} does not define try_row")

    def buckets_of(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Bucket of each of some rows of the index."""
        samples = self.index.samples
        height, width = (np.array(samples[f"stored_{side}"][rows]) for side in ("height", "width"))
        return nearest_bucket(height, width, self.sizes)

    @cached_property
    def plan(self) -> BucketPlan:
        """The order of the samples, as places among those used."""
        plan = BucketPlan(
            self.buckets_of(self.kept),
            np.array(self.index.samples["shard"][self.kept]),
            sizes=self.sizes,
            batch_size=self.batch_size,
            seed=self.seed,
            lanes=self.lanes,
            window=self.window,
        )
        if self.bucketed:
            log.info("buckets:\n%s", plan.table())
        return plan

    @cached_property
    def reader(self) -> SampleReader:
        """Reader of the samples."""
        return self.made_reader(ShardFiles(self.index.shards, self.cache, self.cache_bytes))

    @property
    def bad(self) -> Counter[str]:
        """Number of unusable samples by cause."""
        return self.bad_samples.bad

    @property
    def steps_per_epoch(self) -> int:
        """Batches that an epoch fills; the rest of it begins the next one's first."""
        return max(len(self.plan) // self.batch_size, 1)

    def train_dataloader(self) -> DataLoader[Batch]:
        """The endless training loader of this rank; what its processes share is made before they start."""
        assert len(self.plan) > 0
        return super().train_dataloader()

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """One of equal parts of the global batch of a step."""
        bucket, places, visits = self.plan.batch(step, part, parts)
        return self.gathered(places, torch.from_numpy(visits), self.sizes[bucket], self.plan.members[bucket])

    def usable(self, place: int, among: np.ndarray, read: Callable[[int], T]) -> tuple[int, T]:
        """Row at a place among the samples used and what is read of it; or of the next of `among`.

        Args:
            place: of the sample.
            among: places of those that may replace it.
            read: maps a row to what is wanted of it; raises BadSample.
        """
        first = int(np.searchsorted(among, place))
        for i in range(min(TRIES, len(among))):
            row = int(self.kept[among[(first + i) % len(among)]])
            self.bad_samples.seen += 1
            try:
                return row, read(row)
            except BadSample as error:
                self.note_bad(str(error), row)
        raise UserError(f"{TRIES} samples one after the other cannot be used: {dict(self.bad)}")

    def note_bad(self, cause: str, row: int) -> None:
        """Counts a row that cannot be used and writes it down."""
        sample = self.index.samples[row]
        self.bad_samples.note(cause, self.index.shards[sample["shard"]].path, int(sample["key"]))

    # What the other data modules have, too.

    def training_keys(self) -> Int64[Tensor, " n"]:
        """Keys of the samples used."""
        return torch.from_numpy(np.array(self.index.samples["key"][self.kept]))

    def captions(self) -> Sequence[str]:
        """All captions, for text encoders that learn their words: read one after the other."""
        found = set()
        for row in self.kept.tolist():
            try:
                found.add(self.reader.caption(row))
            except BadSample:
                continue
        return sorted(found)

    def __getstate__(self) -> dict[str, Any]:
        """Without open files."""
        return {k: v for k, v in super().__getstate__().items() if k not in ("reader", "plan")}
