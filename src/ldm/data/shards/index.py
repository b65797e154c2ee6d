"""Where every sample of a set of tar shards lies, and what its json says: a table that is mapped, not read.

Shards are as img2dataset writes them: files of one sample share a name, `000000012.jpg`, `.txt`, `.json`.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from ldm.data.latents import format as latent_format
from ldm.utils.errors import UserError
from ldm.utils.files import replacing_folder

IMAGES = ("jpg", "jpeg", "png", "webp")
PARTS = ("image", "text", "json")
PLACE = (("offset", "i8"), ("size", "i4"), ("header", "u4"))  # of a part; header: CRC-32 of the block before
KINDS = {"txt": "text", "json": "json", latent_format.EXTENSION: "image"}  # a latent stands for its image
FIELDS = {  # column -> names in the json of LAION's and img2dataset's versions
    "width": ("original_width", "width"),
    "height": ("original_height", "height"),
    "aesthetic": ("aesthetic", "AESTHETIC_SCORE", "aesthetic_score"),
    "watermark": ("pwatermark", "watermark", "WATERMARK"),
    "unsafe": ("punsafe", "unsafe"),
    "similarity": ("similarity", "SIMILARITY", "clip_similarity_vitb32"),
}
WORDS = {"language": ("LANGUAGE", "language", "lang"), "nsfw": ("NSFW", "nsfw")}
SAMPLE = np.dtype(
    [("key", "i8"), ("shard", "i4")]
    + [(f"{part}_{what}", kind) for part in PARTS for what, kind in PLACE]
    + [(name, "f4") for name in FIELDS]
    + [(name, "S12") for name in WORDS]
    + [("stored_height", "i4"), ("stored_width", "i4")]  # 0 if the image cannot be read
)
VERSION = 3
TABLE, ABOUT = "samples.npy", "index.json"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file.

    Args:
        path: where it is; a URL of any store that fsspec knows.
        size: in bytes.
        sha256: of the whole file.
        samples: number of samples.
        damage: what is wrong with it, or an empty string.
        modified: when, as its store says it (`state_of`).
        headers: SHA-256 of the headers of its files and of their json.
        names: of its first files.
        extensions: number of its files by extension.
    """

    path: str
    size: int
    sha256: str
    samples: int
    damage: str = ""
    modified: str = ""
    headers: str = ""
    names: list[str] = field(default_factory=list)
    extensions: dict[str, int] = field(default_factory=dict)


class OldIndex(UserError):
    """An index in the format of an earlier version."""


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The shards of a data set and the table of their samples, in the order of the shards.

    Args:
        shards: the files.
        samples: structured array of `SAMPLE`, one row for each sample; mapped from a file.
    """

    shards: tuple[Shard, ...]
    samples: np.ndarray

    def save(self, folder: Path, replace: bool = False) -> None:
        """Writes the index as a folder, whole or not at all.

        Args:
            folder: of the index.
            replace: whether it takes the place of an index there.

        Raises: FileExistsError if there is something at the path that is not to be replaced.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        if replace and folder.is_dir():
            new, old = (folder.with_name(f"{folder.name}.{what}.{os.getpid()}") for what in ("new", "old"))
            self.save(new)
            folder.rename(old)
            new.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
            return
        with replacing_folder(folder) as new:
            np.save(new / TABLE, np.asarray(self.samples))
            about = {"version": VERSION, "shards": [vars(shard) for shard in self.shards]}
            (new / ABOUT).write_text(json.dumps(about), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "ShardIndex":
        """The index in a folder; its table stays on the disk.

        Raises: FileNotFoundError; OldIndex; ValueError if it is of a later version or not whole.
        """
        if not (folder / ABOUT).is_file():
            raise FileNotFoundError(f"no index of shards in {folder}")
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            if about["version"] < VERSION:
                raise OldIndex(f"the index in {folder} is of version {about['version']}, not {VERSION}")
            if about["version"] != VERSION:
                raise UserError(f"version {about['version']}, not {VERSION}")
            shards = tuple(Shard(**shard) for shard in about["shards"])
            samples = np.load(folder / TABLE, mmap_mode="r", allow_pickle=False)
            if samples.dtype != SAMPLE or len(samples) != sum(shard.samples for shard in shards):
                raise UserError("its table does not belong to its shards")
        except OldIndex:
            raise
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"the index in {folder} cannot be used: {error}; remove it") from error
        return cls(shards, samples)


def key_of(identity: str, name: str) -> int:
    """The identity of a sample by that of its shard (`identities`) and its name, wherever they are."""
    text = f"{identity}/{name}".encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def identities(paths: Sequence[str]) -> list[str]:
    """Name of each shard in the identity of its samples: that of its file.

    Where several shards have one name, it is their path below the folder that holds all shards: equal names
    in two folders are two shards.

    Args:
        paths: of all shards.
    """
    parts = [path.split("/") for path in paths]
    levels = zip(*(p[:-1] for p in parts), strict=False)  # as many as the shortest path has folders
    shared = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
    count = Counter(p[-1] for p in parts)
    return [p[-1] if count[p[-1]] == 1 else "/".join(p[shared:]) for p in parts]


def open_binary(path: str) -> Any:
    """A file or a URL, for reading.

    Raises: FileNotFoundError if it is not there.
    """
    if "://" not in path:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no tar shard at {path}")
        return Path(path).open("rb")
    import fsspec

    return fsspec.open(path, "rb").open()
