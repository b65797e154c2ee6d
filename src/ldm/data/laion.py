"""LAION-style tar shards: captioned images from anywhere, each once per epoch, on any number of ranks."""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import DataLoader

from ldm.data.batch import Batch, OrderedData, check_fraction, to_float
from ldm.data.buckets import BucketPlan, Buckets, checked_sizes, nearest_bucket
from ldm.data.decode import BadSample, Decoded, Size, crop_of, cropped
from ldm.data.filters import Filters
from ldm.data.quarantine import Quarantine
from ldm.data.sample_reader import SampleReader
from ldm.data.shard_files import ShardFiles, expand
from ldm.data.shard_index import ShardIndex
from ldm.data.shared_index import shared_index
from ldm.diffusion import random

log = logging.getLogger(__name__)
CROPS = ("centre", "random")
TRIES = 100


class LaionData(OrderedData):
    """Tar shards of img2dataset, see `ldm.data.shard_index` and `ldm.data.plan`.

    A sample that cannot be used is counted by cause, written down and replaced by the next (of its bucket)
    that can: neither the number of steps nor any other place of a batch changes.

    Batches also say `original_size` and `crop`, see `ldm.data.batch.Batch`. With buckets, all images of a
    global batch have the size of its bucket, see `ldm.data.buckets.BucketPlan`.

    Args:
        shards: paths or URLs, with braces and, for local files, wildcards; one or several.
        batch_size: global batch size.
        image_size: height and width; with buckets only of `training_images`.
        seed: of order, crops and flips.
        num_workers: loader processes.
        index: folder of the index, made if it is not there; None: beside the first shard, if it is local.
        filters: which samples are used.
        buckets: sizes of images: a rule or a list of [height, width]; each image goes to the one whose aspect
            is nearest to that of the stored image. None: image_size.
        lanes: shards that are read side by side.
        window: samples that are permuted together.
        caption: where the caption is: "txt", or a field of the json.
        fallback: field of the json that is taken if there is none; None: the sample is bad.
        crop: "centre" or "random".
        flip: probability of a mirror image.
        max_bad_fraction: the run stops past this share of bad samples.
        max_pixels: larger images are bad.
        cache: folder for copies of remote shards.
        cache_gigabytes: its size, at most.
        quarantine: file to which bad samples are written, a line of json each; None for none.
    """

    def __init__(
        self,
        *,
        shards: str | list[str],
        batch_size: int,
        image_size: int = 256,
        seed: int = 0,
        num_workers: int = 0,
        index: str | None = None,
        filters: Filters | None = None,
        buckets: Buckets | list[list[int]] | None = None,
        lanes: int = 8,
        window: int = 4096,
        caption: str = "txt",
        fallback: str | None = None,
        crop: str = "centre",
        flip: float = 0.0,
        max_bad_fraction: float = 0.05,
        max_pixels: int = 100_000_000,
        cache: str | None = None,
        cache_gigabytes: float = 100.0,
        quarantine: str | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, image_size=image_size, seed=seed, num_workers=num_workers)
        if crop not in CROPS:
            raise ValueError(f"crop must be one of {CROPS}, got {crop!r} (data.crop)")
        self.shards, self.filters, self.buckets = shards, filters or Filters(), buckets
        self.sizes = [(image_size, image_size)] if buckets is None else checked_sizes(buckets)
        self.lanes, self.window, self.caption, self.fallback = lanes, window, caption, fallback
        self.crop, self.flip = crop, check_fraction("flip", flip)
        self.max_pixels, self.cache_bytes = max_pixels, int(cache_gigabytes * 1e9)
        self.index_folder, self.cache, log_path = (
            Path(p) if p is not None else None for p in (index, cache, quarantine)
        )
        self.quarantine = Quarantine(log_path, check_fraction("max_bad_fraction", max_bad_fraction))

    @cached_property
    def index(self) -> ShardIndex:
        """The index of the shards, read or made."""
        return shared_index(*self.places())

    def places(self) -> tuple[list[str], Path | None]:
        """The paths of the shards and the folder of their index, which may not be there yet."""
        paths = expand(self.shards)
        folder = self.index_folder
        if folder is None and paths and "://" not in paths[0]:
            name = hashlib.sha256("\n".join(paths).encode()).hexdigest()[:12]
            folder = Path(paths[0]).parent / f".ldm-index-{name}"
        return paths, folder

    @cached_property
    def kept(self) -> Int64[np.ndarray, " n"]:
        """Rows of the index that are used."""
        samples = self.index.samples
        kept = np.flatnonzero(self.filters(samples) & (samples["image_size"] > 0))
        log.info("%d of %d samples are used", len(kept), len(samples))
        for shard in self.index.shards:
            if shard.damage:
                log.warning("%s: %s; %d samples before it", shard.path, shard.damage, shard.samples)
        return kept

    @cached_property
    def plan(self) -> BucketPlan:
        """The order of the samples, as places among those used."""
        samples = self.index.samples
        height, width = (np.array(samples[f"stored_{side}"][self.kept]) for side in ("height", "width"))
        plan = BucketPlan(
            nearest_bucket(height, width, self.sizes),
            np.array(samples["shard"][self.kept]),
            sizes=self.sizes,
            batch_size=self.batch_size,
            seed=self.seed,
            lanes=self.lanes,
            window=self.window,
        )
        if self.buckets is not None:
            log.info("buckets:\n%s", plan.table())
        return plan

    @cached_property
    def reader(self) -> SampleReader:
        """What reads the samples out of the shards."""
        files = ShardFiles(self.index.shards, self.cache, self.cache_bytes)
        return SampleReader(self.index.samples, files, self.caption, self.fallback, self.max_pixels)

    @property
    def bad(self) -> Counter[str]:
        """How many samples could not be used, by cause."""
        return self.quarantine.bad

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
        return self._batch(places, torch.from_numpy(visits), self.sizes[bucket], self.plan.members[bucket])

    def _batch(self, places: np.ndarray, visits: Tensor, size: Size, among: np.ndarray) -> Batch:
        """The samples at places among those used, each replaced, if need be, by another of `among`."""
        table = self.index.samples
        keys = torch.from_numpy(np.array(table["key"][self.kept[places]]))
        shares = torch.full((len(keys), 2), 0.5)
        if self.crop == "random":
            shares = random.uniform(self.seed, "crop", keys, visits, (2,))
        mirrored = random.uniform(self.seed, "flip", keys, visits) < self.flip
        images, captions, rows, sizes, crops = [], [], [], [], []
        for place, (x, y), mirror in zip(places.tolist(), shares.tolist(), mirrored.tolist(), strict=True):
            row, decoded, caption = self._usable(place, size, among)
            crop = crop_of(decoded.size, size, (y, x), mirror)
            images.append(cropped(decoded, crop, size))
            captions.append(caption)
            rows.append(row)
            sizes.append(decoded.size)
            crops.append((crop.top, crop.left))
        return {
            "image": to_float(torch.from_numpy(np.stack(images)).movedim(-1, 1)),
            "caption": captions,
            "key": torch.from_numpy(np.array(table["key"][rows])),
            "visit": visits,
            "original_size": torch.tensor(sizes),
            "crop": torch.tensor(crops),
        }

    def _usable(self, place: int, size: Size, among: np.ndarray) -> tuple[int, Decoded, str]:
        """Row, image and caption at a place among the samples used, or of the next of `among`."""
        first = int(np.searchsorted(among, place))
        for i in range(min(TRIES, len(among))):
            row = int(self.kept[among[(first + i) % len(among)]])
            self.quarantine.seen += 1
            try:
                return row, self.reader.image(row, size), self.reader.caption(row)
            except BadSample as error:
                sample = self.index.samples[row]
                path = self.index.shards[sample["shard"]].path
                self.quarantine.note(str(error), path, int(sample["key"]))
        raise ValueError(
            f"{TRIES} samples one after the other cannot be used: {dict(self.bad)} (data.shards)"
        )

    def profile(self, count: int) -> dict[str, float]:
        """Seconds spent on reading, decoding and cropping the first samples."""
        return self.reader.profile(self.kept[:count].tolist(), self.sizes[0])

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

    def training_images(self, limit: int = 2048) -> Float[Tensor, "n 3 h w"]:
        """Images at the start of the index, as squares of image_size."""
        return self.validation_samples(limit)["image"]

    def validation_samples(self, limit: int) -> Batch:
        """Samples at the start of the index, as squares of image_size: none are held out."""
        places = np.arange(min(limit, len(self.kept)))
        visits = torch.zeros(len(places), dtype=torch.int64)
        size = (self.image_size, self.image_size)
        return self._batch(places, visits, size, np.arange(len(self.kept)))

    def __getstate__(self) -> dict[str, Any]:
        """Without open files."""
        return {k: v for k, v in super().__getstate__().items() if k not in ("reader", "plan")}
