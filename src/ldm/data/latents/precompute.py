"""Image shards encoded once: shards of latents with the same samples, made by any number of processes."""

import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ldm.checkpoints.serialization import fingerprint
from ldm.data.decode import BadSample, crop_of, cropped
from ldm.data.laion import LaionData
from ldm.data.latents.datamodule import LatentData
from ldm.data.latents.encode import Encoder, Unsound
from ldm.data.latents.format import EXTENSION, About, pack
from ldm.data.latents.manifest import Manifest, read_manifest, reference_of
from ldm.data.shards.index import ShardIndex, identities
from ldm.data.worker_errors import attempt, checked
from ldm.diffusion import random
from ldm.utils.errors import UserError
from ldm.utils.files import replacing

log = logging.getLogger(__name__)
AHEAD = 8  # batches that are decoded at once, so that each bucket fills some
LEFT = 3600.0  # seconds without a write after which a temporary file is one of a process that has died
T = TypeVar("T")


@dataclass(eq=False)
class Chunk:
    """Samples that follow one another in a shard, decoded.

    Args:
        rows: of the index.
        captions: of the samples; empty where there is none.
        said: their json.
        causes: why a sample is bad; empty for good ones.
        images: bucket -> places in this chunk and uint8 images (n, 3, h, w).
    """

    rows: list[int]
    captions: list[str] = field(default_factory=list)
    said: list[bytes] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)
    images: dict[int, tuple[list[int], Tensor]] = field(default_factory=dict)


class Chunks(Dataset[Chunk | Exception]):
    """The samples of a shard that are used, `size` at a time; a loader's processes decode them.

    Args:
        data: the image shards.
        rows: of the index, those of one shard.
        size: samples of a chunk.
    """

    def __init__(self, data: LaionData, rows: np.ndarray, size: int) -> None:
        self.data, self.rows, self.size = data, rows, size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def __getitem__(self, i: int) -> Chunk | Exception:
        return attempt(partial(self.decoded, i))

    def decoded(self, i: int) -> Chunk:
        """The i-th chunk."""
        rows = self.rows[i * self.size : (i + 1) * self.size]
        chunk, pixels = Chunk(rows.tolist()), dict[int, list[tuple[int, np.ndarray]]]()
        for place, (row, bucket) in enumerate(zip(chunk.rows, self.data.buckets_of(rows), strict=True)):
            chunk.said.append(self.data.reader.part(row, "json") or b"{}")
            chunk.captions.append(self._caption(row))
            size = self.data.sizes[bucket]
            try:
                decoded, _ = self.data.read(row, size)
            except BadSample as error:
                chunk.causes.append(str(error))
                continue
            chunk.causes.append("")
            crop = crop_of(decoded.size, size, (0.5, 0.5))
            pixels.setdefault(int(bucket), []).append((place, cropped(decoded, crop, size)))
        for bucket, found in pixels.items():
            images = torch.from_numpy(np.stack([image for _, image in found])).movedim(-1, 1)
            chunk.images[bucket] = ([place for place, _ in found], images)
        return chunk

    def _caption(self, row: int) -> str:
        """The caption, of bad images too: text encoders that learn their words learn those of all."""
        try:
            return self.data.reader.caption(row)
        except BadSample:
            return ""


def manifest_of(data: LaionData, encoder: Encoder) -> Manifest:
    """Manifest of the latents of these shards by these nets.

    Raises: ValueError if images change from visit to visit.
    """
    if data.crop != "centre" or data.flip:
        raise UserError(
            "an image that changes from visit to visit has no latent of its own: "
            f"crop must be centre and flip 0, got {data.crop} and {data.flip}"
        )
    shards = identities([shard.path for shard in data.index.shards])
    source = [(name, s.sha256, s.samples) for name, s in zip(shards, data.index.shards, strict=True)]
    return Manifest(
        autoencoder=fingerprint(encoder.autoencoder),
        text_encoder=None
        if encoder.text_encoder is None
        else fingerprint(cast(nn.Module, encoder.text_encoder)),
        image_size=data.image_size,
        buckets=[list(size) for size in data.sizes] if data.bucketed else None,
        caption=data.caption,
        fallback=data.fallback,
        filters=asdict(data.filters),
        max_pixels=data.max_pixels,
        dtype=encoder.dtype,
        precision=encoder.precision,
        source=hashlib.sha256(repr(source).encode()).hexdigest(),
        shards=shards,
    )


def in_turn(count: int, rank: int, world: int) -> list[int]:
    """The shards in the order in which a rank looks for one that is missing.

    First its own, every world-th, then those of the others, in an order drawn for it: what one that is slow
    or dead leaves is shared by those that are done, a shard seldom made by two at once.
    """
    own = list(range(rank, count, world))
    others = [i for i in range(count) if i % world != rank]
    return own + [others[i] for i in random.permutation(0, "others", len(others), rank).tolist()]


def precompute(
    data: LaionData,
    encoder: Encoder,
    folder: Path,
    *,
    batch_size: int = 16,
    rank: int = 0,
    world: int = 1,
) -> int:
    """Encodes image shards into a folder of latent shards, with the same samples in the same order.

    A shard appears whole or not at all; a later call, with any number of ranks, completes a folder.

    Args:
        data: the image shards; its `num_workers` processes decode.
        encoder: the nets.
        folder: of the latents.
        batch_size: images encoded at once.
        rank: number of this process.
        world: number of processes.

    Returns: number of shards that this rank has made.
    Raises: ValueError for a folder of other latents, too many bad samples, or a latent that is not finite.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    manifest = manifest_of(data, encoder)
    folder.mkdir(parents=True, exist_ok=True)
    manifest.write(folder, reference_of(encoder.autoencoder, encoder.text_encoder))
    _remove_leftovers(folder)
    shard_of, made = np.array(data.index.samples["shard"][data.kept]), 0
    for number in in_turn(len(manifest.shards), rank, world):
        path = folder / manifest.shards[number]
        if path.exists():
            continue
        first, last = np.searchsorted(shard_of, [number, number + 1])
        chunks = Chunks(data, data.kept[first:last], AHEAD * batch_size)
        _write(path, chunks, encoder, manifest.key, batch_size)
        made += 1
    return made


def _remove_leftovers(folder: Path) -> None:
    """Removes what a process left half-written, once no process can still be writing it."""
    for left in folder.rglob(".*.tmp"):
        if time.time() - left.stat().st_mtime > LEFT:
            left.unlink(missing_ok=True)


def _write(path: Path, chunks: Chunks, encoder: Encoder, key: str, batch_size: int) -> None:
    """Writes a shard and logs the number of its latents."""
    from webdataset import TarWriter

    path.parent.mkdir(parents=True, exist_ok=True)  # of image shards in several folders
    data, count, good, start = chunks.data, 0, 0, time.perf_counter()
    loader = DataLoader(chunks, batch_size=None, num_workers=data.num_workers, collate_fn=_same)
    with replacing(path) as temporary, TarWriter(str(temporary), encoder=False, mtime=0) as writer:
        for chunk in map(checked, loader):
            tensors = _encoded(chunk, encoder, batch_size, data.index)
            for i, row in enumerate(chunk.rows):
                data.bad_samples.seen += 1
                if chunk.causes[i]:
                    data.note_bad(chunk.causes[i], row)
                sample = data.index.samples[row]
                size = (int(sample["stored_height"]), int(sample["stored_width"]))
                about = About(cache=key, key=int(sample["key"]), size=size, bad=chunk.causes[i])
                parts = {EXTENSION: pack(tensors.get(i, {}), about), "json": chunk.said[i]}
                if chunk.captions[i]:
                    parts["txt"] = chunk.captions[i].encode()
                writer.write({"__key__": f"{count:09d}", **parts})
                count += 1
                good += not chunk.causes[i]
    speed = count / (time.perf_counter() - start)
    log.info("%s: %d latents, %d bad samples, %.1f/s", path, good, count - good, speed)


def _encoded(
    chunk: Chunk, encoder: Encoder, batch_size: int, index: ShardIndex
) -> dict[int, dict[str, Tensor]]:
    """Place in a chunk -> what is stored, for its good samples."""
    found: dict[int, dict[str, Tensor]] = {}
    for places, images in chunk.images.values():
        for part, some in zip(_cut(places, batch_size), images.split(batch_size), strict=True):
            try:
                values = encoder(some, [chunk.captions[i] for i in part])
            except Unsound as error:
                sample = index.samples[chunk.rows[part[error.row]]]
                shard = index.shards[sample["shard"]].path
                raise UserError(f"{shard}, sample {int(sample['key'])}: {error}") from error
            found.update(zip(part, values, strict=True))
    return found


def _cut(items: list[T], size: int) -> Iterator[list[T]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _same(chunk: Any) -> Any:
    return chunk


def finish(folder: Path) -> int | None:
    """Makes the index of a folder whose shards are all there; the number of samples, or None.

    The rank that makes the last shard finds this so, and training then begins at once.
    """
    manifest = read_manifest(str(folder))
    if not all((folder / name).is_file() for name in manifest.shards):
        return None
    size, buckets = manifest.image_size, manifest.buckets
    data = LatentData(folder=str(folder), batch_size=1, image_size=size, buckets=buckets)
    return len(data.index.samples)
