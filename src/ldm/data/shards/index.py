"""Where every sample of a set of tar shards lies, and what its json says: a table that is mapped, not read.

Shards are as img2dataset writes them: files of one sample share a name, `000000012.jpg`, `.txt`, `.json`.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ldm.data.latents import format as latent_format
from ldm.utils.errors import UserError
from ldm.utils.files import replacing_folder
from ldm.utils.folders import is_clutter
from ldm.utils.image_files import head_of
from ldm.utils.image_modes import UNREADABLE

IMAGES = ("jpg", "jpeg", "png", "webp")
PARTS = ("image", "text", "json")
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
    + [(f"{part}_{what}", kind) for part in PARTS for what, kind in (("offset", "i8"), ("size", "i4"))]
    + [(name, "f4") for name in FIELDS]
    + [(name, "S12") for name in WORDS]
    + [("stored_height", "i4"), ("stored_width", "i4")]  # 0 if the image cannot be read
)
VERSION = 2
TABLE, ABOUT = "samples.npy", "index.json"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file.

    Args:
        path: where it is; a URL of any store that fsspec knows.
        size: in bytes.
        sha256: of the whole file.
        samples: number of samples.
        damage: what ends it before its end, or an empty string.
    """

    path: str
    size: int
    sha256: str
    samples: int
    damage: str = ""


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The shards of a data set and the table of their samples, in the order of the shards.

    Args:
        shards: the files.
        samples: structured array of `SAMPLE`, one row for each sample; mapped from a file.
    """

    shards: tuple[Shard, ...]
    samples: np.ndarray

    def save(self, folder: Path) -> None:
        """Writes the index as a folder, whole or not at all.

        Raises: FileExistsError if there is something at the path.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(folder) as new:
            np.save(new / TABLE, np.asarray(self.samples))
            about = {"version": VERSION, "shards": [vars(shard) for shard in self.shards]}
            (new / ABOUT).write_text(json.dumps(about), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "ShardIndex":
        """The index in a folder; its table stays on the disk.

        Raises: FileNotFoundError; ValueError if it is of another version or not whole.
        """
        if not (folder / ABOUT).is_file():
            raise FileNotFoundError(f"no index of shards in {folder}")
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            if about["version"] != VERSION:
                raise UserError(f"version {about['version']}, not {VERSION}")
            shards = tuple(Shard(**shard) for shard in about["shards"])
            samples = np.load(folder / TABLE, mmap_mode="r", allow_pickle=False)
            if samples.dtype != SAMPLE or len(samples) != sum(shard.samples for shard in shards):
                raise UserError("its table does not belong to its shards")
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"the index in {folder} cannot be used: {error}; remove it") from error
        return cls(shards, samples)


def key_of(shard: str, name: str) -> int:
    """The identity of a sample, of its shard's file name and its own: the same wherever the shards are."""
    text = f"{shard.rsplit('/', 1)[-1]}/{name}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def build_index(paths: Sequence[str], after_shard: Callable[[], None] | None = None) -> ShardIndex:
    """Reads every shard once.

    Args:
        paths: local files or URLs.
        after_shard: called after each of them.

    Raises: FileNotFoundError if there is none, or one is missing; ValueError for a compressed tar.
    """
    if not paths:
        raise FileNotFoundError("no tar shards found")
    shards, tables = [], []
    for number, path in enumerate(paths):
        shard, table = index_shard(path, number)
        shards.append(shard)
        tables.append(table)
        if after_shard is not None:
            after_shard()
    return ShardIndex(tuple(shards), np.concatenate(tables))


def index_shard(path: str, number: int) -> tuple[Shard, np.ndarray]:
    """One shard and the table of its samples; what follows a damaged place is left out and told of.

    Raises: FileNotFoundError if it is missing; ValueError if it is compressed, as nothing can be found in it.
    """
    with open_binary(path) as file:
        if file.read(2) == b"\x1f\x8b":
            raise UserError(f"{path}: shards must be plain tar files, not compressed ones")
        file.seek(0)
        seen = _Hashed(file)
        rows, damage = [], ""
        try:
            with tarfile.open(fileobj=seen, mode="r|") as tar:
                rows = [_row(path, number, name, parts) for name, parts in _grouped(tar)]
        except _Damaged as error:
            rows, damage = [_row(path, number, *sample) for sample in error.before], str(error)
        seen.finish()
    if not damage and seen.tail.strip(tarfile.NUL):
        rows, damage = rows[:-1], "no end of the archive: cut short"  # the last sample may lack a part
    table = np.array(rows, dtype=SAMPLE) if rows else np.zeros(0, dtype=SAMPLE)
    return Shard(
        path=path, size=seen.size, sha256=seen.hash.hexdigest(), samples=len(rows), damage=damage
    ), table


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


class _Hashed(io.RawIOBase):
    """A stream that hashes what is read of it."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self.file, self.hash, self.size, self.tail = file, hashlib.sha256(), 0, b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.file.read(size)
        self.hash.update(data)
        self.size += len(data)
        self.tail = (self.tail + data)[-2 * tarfile.BLOCKSIZE :]
        return data

    def finish(self) -> None:
        """Reads the rest."""
        while self.read(1 << 20):
            pass


class _Damaged(Exception):
    """A tar that ends too early, with what was whole before."""

    def __init__(self, text: str, before: list[tuple[str, dict[str, Any]]]) -> None:
        super().__init__(text)
        self.before = before


Parts = dict[str, Any]


def _grouped(tar: tarfile.TarFile) -> Iterator[tuple[str, Parts]]:
    """Samples by name, each with offset and size of its parts and the text of its json."""
    whole: list[tuple[str, Parts]] = []
    name, parts = "", Parts()
    try:
        for member in tar:
            if not member.isfile() or is_clutter(member.name):
                continue
            folder, _, base = member.name.rpartition("/")
            first, _, extension = base.partition(".")
            stem = f"{folder}/{first}".lstrip("/")
            if stem != name:
                if name:
                    whole.append((name, parts))
                name, parts = stem, {}
            extension = extension.lower()
            kind = "image" if extension in IMAGES else KINDS.get(extension)
            content = tar.extractfile(member)
            assert content is not None
            data = content.read()
            if len(data) != member.size:
                raise EOFError("file cut short")
            if kind is not None:
                parts[kind] = (member.offset_data, member.size)
            if kind == "json":
                parts["said"] = data
            elif extension == latent_format.EXTENSION:
                parts |= _of_latent(data)
            elif kind == "image":
                parts["stored"] = _size_of(data)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _Damaged(f"{type(error).__name__}: {error}", whole) from error
    if name:
        whole.append((name, parts))
    yield from whole


def _row(path: str, number: int, name: str, parts: Parts) -> tuple[Any, ...]:
    """One row of the table; absent parts have size -1, absent numbers are NaN."""
    said: dict[str, Any] = {}
    try:
        said = json.loads(parts.get("said", b"{}"))
    except ValueError:
        said = {}
    if not isinstance(said, dict):
        said = {}
    places = [value for part in PARTS for value in parts.get(part, (0, -1))]
    numbers = {column: _number(said, names) for column, names in FIELDS.items()}
    height, width = stored = parts.get("stored", (0, 0))
    if (numbers["width"], numbers["height"]) == (height, width):  # of a photo before it was made upright
        numbers |= {"width": width, "height": height}
    words = [str(next((said[n] for n in names if said.get(n)), "")).encode()[:12] for names in WORDS.values()]
    key = parts.get("key", key_of(path, name))
    return (key, number, *places, *numbers.values(), *words, *stored)


def _size_of(data: bytes) -> tuple[int, int]:
    """Height and width of the upright image by the head of its file; zeros if it is none."""
    try:
        return head_of(data).size
    except UNREADABLE:
        return 0, 0


def _of_latent(data: bytes) -> Parts:
    """Identity and stored size of the image that a latent is of; nothing if its header is damaged."""
    try:
        of = latent_format.about(data)
    except ValueError:
        return {}
    return {"key": of.key, "stored": of.size}


def _number(said: dict[str, Any], names: Sequence[str]) -> float:
    for name in names:
        value = said.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return float("nan")
