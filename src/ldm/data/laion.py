"""LAION-style tar shards: captioned images from anywhere, each once per epoch, on any number of ranks."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ldm.data.batch import Batch, check_fraction, to_float
from ldm.data.decode import Decoded, Size, crop_of, cropped
from ldm.data.shards.bad_samples import BadSamples
from ldm.data.shards.buckets import Buckets
from ldm.data.shards.datamodule import ShardData
from ldm.data.shards.files import ShardFiles, expand
from ldm.data.shards.filters import Filters
from ldm.data.shards.index_lock import Digest
from ldm.data.shards.reader import SampleReader
from ldm.diffusion import random

CROPS = ("centre", "random")


def check_crop(value: str) -> str:
    """The value, if it names a crop; else a ValueError."""
    if value not in CROPS:
        raise ValueError(f"crop must be one of {CROPS}, got {value!r}")
    return value


class LaionData(ShardData):
    """Tar shards of img2dataset, see `ldm.data.shards.datamodule`.

    A sample that cannot be used is counted by cause, written down and replaced by the next (of its bucket)
    that can: neither the number of steps nor any other place of a batch changes.

    Batches also say `original_size` and `crop`, see `ldm.data.batch.Batch`. With buckets, all images of a
    global batch have the size of its bucket, see `ldm.data.shards.buckets.BucketPlan`.

    Args:
        shards: paths or URLs, with braces and wildcards (`*`, `**`); one or several.
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
        max_bad_fraction: the run stops past this share of bad samples, or of shards that hold none.
        max_pixels: larger images are bad.
        cache: folder for copies of remote shards.
        cache_gigabytes: its size, at most.
        bad_samples: file to which bad samples are written, a line of json each; None for none.
        digest: by which the index knows its shards: "headers", compared where the time of change differs, or
            "content", always compared.
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
        bad_samples: str | None = None,
        digest: Digest = "headers",
    ) -> None:
        super().__init__(
            buckets=buckets,
            batch_size=batch_size,
            image_size=image_size,
            seed=seed,
            num_workers=num_workers,
            index=index,
            filters=filters,
            lanes=lanes,
            window=window,
            cache=cache,
            cache_gigabytes=cache_gigabytes,
            bad_samples=BadSamples(bad_samples, max_bad_fraction),
        )
        self.shards, self.caption, self.fallback, self.digest = shards, caption, fallback, digest
        self.crop, self.flip, self.max_pixels = check_crop(crop), check_fraction("flip", flip), max_pixels

    def paths(self) -> list[str]:
        """Paths or URLs of the shards, sorted.

        Raises: FileNotFoundError if there is none.
        """
        paths = expand(self.shards)
        if not paths:
            raise FileNotFoundError(f"no tar shards at {self.shards}")
        return paths

    def made_reader(self, files: ShardFiles) -> SampleReader:
        """Reader of images and captions."""
        return SampleReader(self.index.samples, files, self.caption, self.fallback, self.max_pixels)

    def read(self, row: int, size: Size) -> tuple[Decoded, str]:
        """Image, large enough for a size, and caption of a row of the index.

        Raises: BadSample.
        """
        return self.reader.image(row, size), self.reader.caption(row)

    def try_row(self, row: int) -> None:
        """Reads a row of the index; raises BadSample if it cannot be used."""
        self.read(row, self.sizes[0])

    def gathered(self, places: np.ndarray, visits: Tensor, size: Size, among: np.ndarray) -> Batch:
        """The samples at places among those used, each replaced, if need be, by another of `among`."""
        table = self.index.samples
        keys = torch.from_numpy(np.array(table["key"][self.kept[places]]))
        shares = torch.full((len(keys), 2), 0.5)
        if self.crop == "random":
            shares = random.uniform(self.seed, "crop", keys, visits, (2,))
        mirrored = random.uniform(self.seed, "flip", keys, visits) < self.flip
        images, captions, rows, sizes, crops = [], [], [], [], []
        for place, (x, y), mirror in zip(places.tolist(), shares.tolist(), mirrored.tolist(), strict=True):
            row, (decoded, caption) = self.usable(place, among, lambda row: self.read(row, size))
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

    def profile(self, count: int) -> dict[str, float]:
        """Seconds spent on reading, decoding and cropping the first samples."""
        return self.reader.profile(self.kept[:count].tolist(), self.sizes[0])

    def training_images(self, limit: int = 2048) -> Float[Tensor, "n 3 h w"]:
        """Images at the start of the index, as squares of image_size."""
        return self.validation_samples(limit)["image"]

    def validation_samples(self, limit: int) -> Batch:
        """Samples at the start of the index, as squares of image_size: none are held out."""
        places = np.arange(min(limit, len(self.kept)))
        visits = torch.zeros(len(places), dtype=torch.int64)
        size = (self.image_size, self.image_size)
        return self.gathered(places, visits, size, np.arange(len(self.kept)))
