"""Latents encoded ahead of time by `ldm-data precompute`: training without images, in the same order."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm.data.batch import Batch
from ldm.data.decode import Size, crop_of
from ldm.data.latents.format import unpack
from ldm.data.latents.manifest import check_nets, read_manifest, read_reference
from ldm.data.shards.bad_samples import BadSamples
from ldm.data.shards.buckets import Buckets
from ldm.data.shards.datamodule import ShardData
from ldm.data.shards.files import ShardFiles
from ldm.data.shards.filters import Filters
from ldm.data.shards.index import ShardIndex
from ldm.data.shards.index_lock import Digest
from ldm.data.shards.reader import SampleReader
from ldm.diffusion.conditioning import Conditioning
from ldm.models.protocols import TextEncoder
from ldm.utils.errors import UserError


class LatentData(ShardData):
    """Latents of image shards, made by `ldm.data.latents.precompute`, with the shards' keys and order.

    Batches hold `mean` and `std` in place of images and, if the captions were encoded, `tokens` and `pooled`.
    Latents that were made for another size or by other nets are refused, see `ldm.data.latents.manifest`.

    Args:
        folder: local, or a URL.
        batch_size: global batch size.
        image_size: height and width of the images; must be that of the latents.
        buckets: likewise.
        embeddings: whether text embeddings are read; None: if there are some.
        seed: of the order.
        num_workers: loader processes.
        index: folder of the index, made if it is not there; None: beside the shards, if they are local.
        filters: which samples are used, of those that were encoded.
        lanes: shards that are read side by side.
        window: samples that are permuted together.
        max_bad_fraction: the run stops past this share of bad samples.
        cache: folder for copies of remote shards.
        cache_gigabytes: its size, at most.
        bad_samples: file to which bad samples are written, a line of json each; None for none.
        digest: by which the index knows its shards: "headers", compared where the time of change differs, or
            "content", always compared.

    Raises: FileNotFoundError if there are no latents; ValueError if they are of other sizes, or incomplete.
    """

    def __init__(
        self,
        *,
        folder: str,
        batch_size: int,
        image_size: int = 256,
        buckets: Buckets | list[list[int]] | None = None,
        embeddings: bool | None = None,
        seed: int = 0,
        num_workers: int = 0,
        index: str | None = None,
        filters: Filters | None = None,
        lanes: int = 8,
        window: int = 4096,
        max_bad_fraction: float = 0.05,
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
        self.digest = digest
        self.folder = folder if "://" in folder else str(Path(folder).resolve())
        self.manifest = read_manifest(self.folder)
        self._check_sizes()
        self.embeddings = self._has_embeddings(embeddings)

    def _has_embeddings(self, wanted: bool | None) -> bool:
        """True if text embeddings are read; refuses to read what was not stored."""
        stored = self.manifest.text_encoder is not None
        if wanted and not stored:
            raise ValueError(f"{self.folder} holds no text embeddings, captions only")
        return stored if wanted is None else wanted

    def _check_sizes(self) -> None:
        """Refuses latents of images of other sizes than the config says."""
        found = self.manifest
        buckets = [list(size) for size in self.sizes] if self.bucketed else None
        wanted: list[tuple[str, Any, Any]] = [("buckets", buckets, found.buckets)]
        if not self.bucketed:
            wanted.append(("image_size", self.image_size, found.image_size))
        for name, here, there in wanted:
            if here != there:
                raise UserError(
                    f"the latents in {self.folder} were made with {name} {there}, not {here}: set it so or "
                    f"run ldm-data precompute again"
                )

    def paths(self) -> list[str]:
        """Paths or URLs of the shards, in the order of the image shards.

        Raises: ValueError if one has not been made.
        """
        paths = [f"{self.folder}/{name}" for name in self.manifest.shards]
        missing = [] if "://" in self.folder else [path for path in paths if not Path(path).is_file()]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(paths)} shards of latents have not been made, such as {missing[0]}: "
                "run ldm-data precompute again, it makes those that are missing"
            )
        return paths

    @cached_property
    def index(self) -> ShardIndex:
        """The index of the shards, all of them whole."""
        found = super().index
        for shard in found.shards:
            if shard.damage:
                raise UserError(f"{shard.path} {shard.damage}: remove it and run ldm-data precompute again")
        return found

    def made_reader(self, files: ShardFiles) -> SampleReader:
        """Reader of latents and captions."""
        return SampleReader(self.index.samples, files, "txt", None, 0)

    def verify(self, autoencoder: nn.Module, text_encoder: TextEncoder | None = None) -> None:
        """Makes sure that all is there and that these nets would give it; called before training.

        Args:
            autoencoder: of the run.
            text_encoder: likewise; None: only the autoencoder is looked at.

        Raises: ValueError saying what differs or is missing.
        """
        self.paths()
        if self.embeddings and text_encoder is not None and text_encoder.trainable:
            raise UserError(
                f"{self.folder} holds embeddings of a frozen text encoder, but that of this run is trained: "
                "embeddings=false reads the captions instead"
            )
        encoder = text_encoder if self.embeddings else None
        check_nets(self.folder, self.manifest, autoencoder, encoder)

    @cached_property
    def empty(self) -> Conditioning | None:
        """The embedding of the empty caption, of one image; None if captions are not stored encoded."""
        if not self.embeddings:
            return None
        found = read_reference(self.folder)
        return Conditioning(**{name: found[name][None] for name in ("tokens", "pooled") if name in found})

    def read(self, row: int) -> tuple[dict[str, Tensor], str]:
        """Stored tensors of a row of the index, and its caption.

        Raises: BadSample; ValueError if it was made by other nets than its folder says.
        """
        try:
            found = unpack(self.reader.part(row, "image") or b"", self.manifest.key)
        except ValueError as error:
            shard = self.index.shards[self.index.samples["shard"][row]]
            raise UserError(f"{shard.path}: {error}") from error
        if not self.embeddings:
            found = {name: found[name] for name in ("mean", "std")}
        return found, self.reader.caption(row)

    def try_row(self, row: int) -> None:
        """Reads a row of the index; raises BadSample if it cannot be used."""
        self.read(row)

    def gathered(self, places: np.ndarray, visits: Tensor, size: Size, among: np.ndarray) -> Batch:
        """The samples at places among those used, each replaced, if need be, by another of `among`."""
        rows, found, captions = [], [], []
        for place in places.tolist():
            row, (tensors, caption) = self.usable(place, among, self.read)
            rows.append(row)
            found.append(tensors)
            captions.append(caption)
        table = self.index.samples[rows]
        sizes = [(int(h), int(w)) for h, w in zip(table["stored_height"], table["stored_width"], strict=True)]
        crops = [crop_of(stored, size, (0.5, 0.5)) for stored in sizes]
        batch: Batch = {
            "caption": captions,
            "key": torch.from_numpy(np.array(table["key"])),
            "visit": visits,
            "original_size": torch.tensor(sizes),
            "crop": torch.tensor([(crop.top, crop.left) for crop in crops]),
        }
        stacked = {name: torch.stack([tensors[name] for tensors in found]) for name in found[0]}
        return batch | stacked  # type: ignore[return-value]

    def validation_samples(self, limit: int) -> Batch:
        """Samples at the start of the index (of the bucket with most samples): none are held out."""
        bucket = max(range(len(self.sizes)), key=lambda i: len(self.plan.members[i]))
        among = self.plan.members[bucket]
        places = among[:limit]
        visits = torch.zeros(len(places), dtype=torch.int64)
        return self.gathered(places, visits, self.sizes[bucket], among)

    def training_images(self, limit: int = 2048) -> Float[Tensor, "n 3 h w"]:
        """There are none.

        Raises: TypeError.
        """
        raise UserError("latents hold no images: those come from image shards (data=laion)")
