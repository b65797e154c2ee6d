"""One pass over a tar shard: where its samples lie, what their json says, and what is wrong with it."""

import hashlib
import io
import json
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ldm.checkpoints.contents import HEAD, stand_in
from ldm.data.latents import format as latent_format
from ldm.data.shards.index import (
    FIELDS,
    IMAGES,
    KINDS,
    PARTS,
    SAMPLE,
    WORDS,
    Shard,
    ShardIndex,
    identities,
    key_of,
    open_binary,
)
from ldm.utils.folders import is_clutter
from ldm.utils.image_files import head_of
from ldm.utils.image_modes import UNREADABLE

BLOCK, RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
UNREADABLE_TAR = (tarfile.TarError, EOFError, OSError)
STAMPS = (
    "ETag",
    "etag",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "created",
)  # of fsspec's stores
NAMES = 4  # of the first files, for messages
Parts = dict[str, Any]


def build_index(
    paths: Sequence[str],
    after_shard: Callable[[], None] | None = None,
    known: ShardIndex | None = None,
    changed: Collection[int] = (),
) -> ShardIndex:
    """Reads every shard once.

    Args:
        paths: local files or URLs.
        after_shard: called after each of them.
        known: an index of the same paths, of which all but the changed shards are taken.
        changed: numbers of these.

    Raises: FileNotFoundError if there is none, or one is missing.
    """
    if not paths:
        raise FileNotFoundError("no tar shards found")
    names, shards, tables = identities(paths), [], []
    ends = np.cumsum([shard.samples for shard in known.shards]) if known is not None else None
    for number, path in enumerate(paths):
        if known is not None and ends is not None and number not in changed:
            shard = known.shards[number]
            table = known.samples[ends[number] - shard.samples : ends[number]]
        else:
            shard, table = index_shard(path, number, names[number])
        shards.append(shard)
        tables.append(table)
        if after_shard is not None:
            after_shard()
    return ShardIndex(tuple(shards), np.concatenate(tables))


def index_shard(path: str, number: int, identity: str | None = None) -> tuple[Shard, np.ndarray]:
    """One shard and the table of its samples; what follows a damaged place is left out and noted.

    Args:
        path: local file or URL.
        number: of the shard.
        identity: see `identities`; None: the name of the file.

    Raises: FileNotFoundError if it is missing.
    """
    identity = path.rsplit("/", 1)[-1] if identity is None else identity
    _, modified = state_of(path)
    with open_binary(path) as file:
        head = file.read(HEAD)
        file.seek(0)
        seen, found = _Hashed(file), _Contents()
        damage = (
            ("is empty" if not head else f"is {foreign}") if (foreign := stand_in(head)) or not head else ""
        )
        if not damage:
            damage = _read(seen, found)
        seen.finish()
    if not damage and seen.trailing:
        damage = "has bytes after the end of the archive, which are not read"
    rows = [_row(identity, number, name, parts) for name, parts in found.samples]
    return Shard(
        path=path,
        size=seen.size,
        sha256=seen.hash.hexdigest(),
        samples=len(rows),
        damage=damage,
        modified=modified,
        headers=found.headers.hexdigest(),
        names=found.names,
        extensions=dict(found.extensions),
    ), np.array(rows, dtype=SAMPLE) if rows else np.zeros(0, dtype=SAMPLE)


def state_of(path: str) -> tuple[int, str]:
    """Size of a file or URL, -1 if it is not known, and a text that changes when it is written.

    Raises: FileNotFoundError if it is not there.
    """
    if "://" not in path:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no tar shard at {path}")
        status = Path(path).stat()
        return status.st_size, str(status.st_mtime_ns)
    import fsspec

    system, remote = fsspec.core.url_to_fs(path)
    about = system.info(remote)
    size = about.get("size")
    return -1 if size is None else int(size), next((str(about[n]) for n in STAMPS if about.get(n)), "")


def content_digest(path: str) -> str:
    """SHA-256 of a whole shard."""
    with open_binary(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def headers_digest(path: str) -> str:
    """SHA-256 of the headers of a shard's files and of their json: all that an index says, but images' sizes.

    The other parts are skipped.
    """
    digest = hashlib.sha256()
    with open_binary(path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if member.isfile():
                        file.seek(member.offset_data - BLOCK)
                        digest.update(file.read(BLOCK))
                        if _split(member.name)[1] == "json":
                            digest.update(file.read(member.size))
        except UNREADABLE_TAR:
            pass  # as in the scan, what was read before counts
    return digest.hexdigest()


class _Hashed(io.RawIOBase):
    """A stream that hashes what is read of it and remembers the last of it."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self.file, self.hash, self.size, self.tail = file, hashlib.sha256(), 0, b""
        self.end: int | None = None  # of the archive, once it is known
        self.trailing = False  # True if there is more than zeros after it

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.file.read(size)
        self.hash.update(data)
        self.size += len(data)
        self.tail = (self.tail + data)[-2 * RECORD :]
        return data

    def block(self, offset: int) -> bytes:
        """A block near the end of what was read."""
        start = offset - (self.size - len(self.tail))
        return self.tail[max(start, 0) : max(start + BLOCK, 0)]

    def finish(self) -> None:
        """Reads the rest."""
        if self.end is not None:
            self.trailing = bool(self.tail[self.end - (self.size - len(self.tail)) :].strip(tarfile.NUL))
        while data := self.read(1 << 20):
            self.trailing |= self.end is not None and bool(data.strip(tarfile.NUL))


@dataclass
class _Contents:
    """The whole samples of a shard, and what is known of all its files."""

    samples: list[tuple[str, Parts]] = field(default_factory=list)
    headers: Any = field(default_factory=hashlib.sha256)
    names: list[str] = field(default_factory=list)
    extensions: Counter[str] = field(default_factory=Counter)


def _read(seen: _Hashed, found: _Contents) -> str:
    """Reads an archive; what is wrong with it, or an empty string. The last sample may lack a part if so."""
    name, parts = "", Parts()
    try:
        with tarfile.open(fileobj=seen, mode="r|") as tar:
            for stem, extension, place, data in _members(tar, seen, found):
                if stem != name:
                    if name:
                        found.samples.append((name, parts))
                    name, parts = stem, {}
                parts |= _part(extension, place, data)
            end, offset = seen.block(tar.offset), tar.offset
    except UNREADABLE_TAR as error:
        return f"is {'cut short' if found.names else 'no tar archive'} ({error})"
    if len(end) < BLOCK:
        return "has no end of the archive: cut short"
    if end.strip(tarfile.NUL):
        return f"has a broken header at byte {offset}; nothing after it is read"
    seen.end = offset
    if name:
        found.samples.append((name, parts))
    return ""


def _members(
    tar: tarfile.TarFile, seen: _Hashed, found: _Contents
) -> Iterator[tuple[str, str, tuple[int, int, int], bytes]]:
    """Of each file the name of its sample, its extension, its place and its content."""
    for member in tar:
        if not member.isfile():
            continue
        header = seen.block(member.offset_data - BLOCK)
        found.headers.update(header)
        stem, extension = _split(member.name)
        if not is_clutter(member.name):
            found.names += [member.name] if len(found.names) < NAMES else []
            found.extensions[extension] += 1
        content = tar.extractfile(member)
        assert content is not None
        data = content.read()
        if len(data) != member.size:
            raise EOFError("unexpected end of data")
        if extension == "json":
            found.headers.update(data)
        if is_clutter(member.name):
            continue
        yield stem, extension, (member.offset_data, member.size, zlib.crc32(header)), data


def _split(name: str) -> tuple[str, str]:
    """Name of a sample and extension of a member of a tar, which begins at the first dot of the file."""
    folder, _, base = name.rpartition("/")
    first, _, extension = base.partition(".")
    return f"{folder}/{first}".lstrip("/"), extension.lower()


def _part(extension: str, place: tuple[int, int, int], data: bytes) -> Parts:
    """All that is noted of a file of a sample."""
    kind = "image" if extension in IMAGES else KINDS.get(extension)
    if kind is None:
        return {}
    about: Parts = {kind: place}
    if kind == "json":
        about["said"] = data
    elif extension == latent_format.EXTENSION:
        about |= _of_latent(data)
    elif kind == "image":
        about["stored"] = _size_of(data)
    return about


def _row(identity: str, number: int, name: str, parts: Parts) -> tuple[Any, ...]:
    """One row of the table; absent parts have size -1, absent numbers are NaN."""
    said: dict[str, Any] = {}
    try:
        said = json.loads(parts.get("said", b"{}"))
    except ValueError:
        said = {}
    if not isinstance(said, dict):
        said = {}
    places = [value for part in PARTS for value in parts.get(part, (0, -1, 0))]
    numbers = {column: _number(said, names) for column, names in FIELDS.items()}
    height, width = stored = parts.get("stored", (0, 0))
    if (numbers["width"], numbers["height"]) == (height, width):  # of a photo before it was made upright
        numbers |= {"width": width, "height": height}
    words = [str(next((said[n] for n in names if said.get(n)), "")).encode()[:12] for names in WORDS.values()]
    key = parts.get("key", key_of(identity, name))
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
