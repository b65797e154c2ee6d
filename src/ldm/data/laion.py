"""LAION-style tar shards: captioned images from anywhere, each once per epoch, on any number of ranks."""

import hashlib
import io
import json
import logging
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from ldm.data.batch import Batch, OrderedData, check_fraction, to_float
from ldm.data.filters import Filters
from ldm.data.plan import Plan
from ldm.data.shard_files import ShardFiles, expand
from ldm.data.shard_index import PARTS, ShardIndex, build_index
from ldm.diffusion import random

log = logging.getLogger(__name__)
CROPS = ("centre", "random")
SEEN_BEFORE_JUDGING = 200
TRIES = 100


class BadSample(Exception):
    """A sample that cannot be used; its text is the cause."""


class LaionData(OrderedData):
    """Tar shards of img2dataset, see `ldm.data.shard_index` and `ldm.data.plan`.

    A sample that cannot be used is counted by cause, written down and replaced by the next of its shard that
    can: neither the number of steps nor any other place of a batch changes.

    Args:
        shards: paths or URLs, with braces and, for local files, wildcards; one or several.
        batch_size: global batch size.
        image_size: height and width.
        seed: of order, crops and flips.
        num_workers: loader processes.
        index: folder of the index, made if it is not there; None: beside the first shard, if it is local.
        filters: which samples are used.
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
        self.shards, self.filters = shards, filters or Filters()
        self.lanes, self.window, self.caption, self.fallback = lanes, window, caption, fallback
        self.crop, self.flip = crop, check_fraction("flip", flip)
        self.max_bad_fraction = check_fraction("max_bad_fraction", max_bad_fraction)
        self.max_pixels, self.cache_bytes = max_pixels, int(cache_gigabytes * 1e9)
        self.index_folder, self.cache, self.quarantine = (
            Path(p) if p is not None else None for p in (index, cache, quarantine)
        )
        self.bad: Counter[str] = Counter()
        self.seen = 0

    @cached_property
    def index(self) -> ShardIndex:
        """The index of the shards, read or made."""
        paths = expand(self.shards)
        folder = self.index_folder
        if folder is None and paths and "://" not in paths[0]:
            name = hashlib.sha256("\n".join(paths).encode()).hexdigest()[:12]
            folder = Path(paths[0]).parent / f".ldm-index-{name}"
        if folder is not None and folder.is_dir():
            found = ShardIndex.load(folder)
            if (known := [shard.path for shard in found.shards]) != paths:
                raise ValueError(
                    f"the index in {folder} is of {len(known)} other shards, not these {len(paths)} "
                    "(data.index)"
                )
            return found
        if paths:
            log.info("indexing %d shards", len(paths))
        made = build_index(paths)
        if folder is not None:
            try:
                made.save(folder)
            except FileExistsError:  # another rank was faster
                return ShardIndex.load(folder)
            except OSError as error:
                log.warning("the index is not kept: %s (data.index)", error)
        return made

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
    def plan(self) -> Plan:
        """The order of the samples used."""
        shard_of = np.asarray(self.index.samples["shard"][self.kept])
        return Plan(shard_of=shard_of, seed=self.seed, lanes=self.lanes, window=self.window)

    @cached_property
    def files(self) -> ShardFiles:
        """The open shards of this process."""
        return ShardFiles(self.index.shards, self.cache, self.cache_bytes)

    @property
    def steps_per_epoch(self) -> int:
        """Batches that an epoch fills; the rest of it begins the next one's first."""
        return max(len(self.plan) // self.batch_size, 1)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """One of equal parts of the global batch of a step."""
        size = self.batch_size // parts
        rows, visits = self.plan.rows(step * self.batch_size + part * size, size)
        return self._batch(self.kept[rows], torch.from_numpy(visits))

    def _batch(self, rows: np.ndarray, visits: Tensor) -> Batch:
        """The samples of rows of the index."""
        keys = torch.from_numpy(np.array(self.index.samples["key"][rows]))
        shift = random.uniform(self.seed, "crop", keys, visits, (2,)) if self.crop == "random" else None
        mirrored = random.uniform(self.seed, "flip", keys, visits) < self.flip
        images, captions, found = [], [], []
        for i, row in enumerate(rows.tolist()):
            used, image, caption = self._usable(row)
            pixels = square(image, self.image_size, (0.5, 0.5) if shift is None else tuple(shift[i].tolist()))
            images.append(pixels[:, ::-1] if mirrored[i] else pixels)
            captions.append(caption)
            found.append(used)
        stacked = torch.from_numpy(np.stack(images)).movedim(-1, 1)
        used_keys = torch.from_numpy(np.array(self.index.samples["key"][found]))
        return {"image": to_float(stacked), "caption": captions, "key": used_keys, "visit": visits}

    def _usable(self, row: int) -> tuple[int, Image.Image, str]:
        """The sample of a row, or the next of those used that is whole."""
        place = int(np.searchsorted(self.kept, row))
        for i in range(min(TRIES, len(self.kept))):
            candidate = int(self.kept[(place + i) % len(self.kept)])
            self.seen += 1
            try:
                return candidate, self._image(candidate), self._caption(candidate)
            except BadSample as error:
                self._note(candidate, str(error))
        raise ValueError(
            f"{TRIES} samples one after the other cannot be used: {dict(self.bad)} (data.shards)"
        )

    def _note(self, row: int, cause: str) -> None:
        """Counts and writes down a bad sample.

        Raises: ValueError if there are too many.
        """
        self.bad[cause] += 1
        sample = self.index.samples[row]
        path = self.index.shards[sample["shard"]].path
        if self.quarantine is not None:
            self.quarantine.parent.mkdir(parents=True, exist_ok=True)
            line = {"cause": cause, "shard": path, "key": int(sample["key"])}
            with self.quarantine.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if self.bad.total() == 1:
            log.warning("a sample cannot be used: %s (%s)", cause, path)
        share = self.bad.total() / self.seen
        if self.seen >= SEEN_BEFORE_JUDGING and share > self.max_bad_fraction:
            raise ValueError(
                f"{share:.1%} of {self.seen} samples cannot be used: {dict(self.bad)} (data.max_bad_fraction)"
            )

    def _part(self, row: int, part: str) -> bytes | None:
        """The bytes of a part of a sample."""
        assert part in PARTS
        sample = self.index.samples[row]
        size = int(sample[f"{part}_size"])
        if size < 0:
            return None
        return self.files.read(int(sample["shard"]), int(sample[f"{part}_offset"]), size)

    def _image(self, row: int) -> Image.Image:
        """The decoded image."""
        data = self._part(row, "image")
        if not data:
            raise BadSample("empty image")
        return decode(data, self.image_size, self.max_pixels)

    def _caption(self, row: int) -> str:
        """The caption, or the fallback."""
        text = None
        if self.caption == "txt":
            text = (self._part(row, "text") or b"").decode(errors="replace").strip()
        for name in (self.caption if self.caption != "txt" else None, self.fallback):
            if not text and name is not None:
                text = str(self._said(row).get(name) or "").strip()
        if not text:
            raise BadSample("no caption")
        return text

    def _said(self, row: int) -> dict[str, Any]:
        try:
            said = json.loads(self._part(row, "json") or b"{}")
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}

    def profile(self, count: int) -> dict[str, float]:
        """Seconds spent on reading, decoding and cropping the first samples."""
        spent = {"reading": 0.0, "decoding": 0.0, "cropping": 0.0}
        for row in self.kept[:count].tolist():
            times = [time.perf_counter()]
            data = self._part(row, "image") or b""
            times.append(time.perf_counter())
            try:
                image = decode(data, self.image_size, self.max_pixels)
            except BadSample:
                continue
            times.append(time.perf_counter())
            square(image, self.image_size, (0.5, 0.5))
            times.append(time.perf_counter())
            for name, (start, end) in zip(spent, pairwise(times), strict=True):
                spent[name] += end - start
        return spent

    # What the other data modules have, too.

    def training_keys(self) -> Int64[Tensor, " n"]:
        """Keys of the samples used."""
        return torch.from_numpy(np.array(self.index.samples["key"][self.kept]))

    def captions(self) -> Sequence[str]:
        """All captions, for text encoders that learn their words: read one after the other."""
        found = set()
        for row in self.kept.tolist():
            try:
                found.add(self._caption(row))
            except BadSample:
                continue
        return sorted(found)

    def training_images(self, limit: int = 2048) -> Float[Tensor, "n 3 h w"]:
        """Images at the start of the index."""
        rows = self.kept[:limit]
        return self._batch(rows, torch.zeros(len(rows), dtype=torch.int64))["image"]

    def __getstate__(self) -> dict[str, Any]:
        """Without open files."""
        return {k: v for k, v in super().__getstate__().items() if k not in ("files", "plan")}


def decode(data: bytes, image_size: int, max_pixels: int) -> Image.Image:
    """An RGB image; JPEGs are decoded at the smallest scale of the DCT that is large enough.

    Raises: BadSample naming the cause.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            if image.width * image.height > max_pixels:
                raise BadSample("too many pixels")
            if min(image.size) < 2:
                raise BadSample("absurd size")
            image.draft("RGB", (image_size, image_size))
            return image.convert("RGB")
    except Image.DecompressionBombError as error:
        raise BadSample("too many pixels") from error
    except (OSError, SyntaxError, ValueError, TypeError, IndexError) as error:
        raise BadSample("damaged image") from error


def square(image: Image.Image, size: int, share: tuple[float, ...]) -> UInt8[np.ndarray, "h w c"]:
    """The image scaled so that its smaller side is `size`, and cropped; share (x, y) of what is left over."""
    scale = size / min(image.size)
    side = size / scale  # of the crop, in pixels of the image
    left, top = share[0] * (image.width - side), share[1] * (image.height - side)
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))
