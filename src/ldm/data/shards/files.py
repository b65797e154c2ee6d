"""Bytes of samples out of shards: local files as they are, remote ones through a cache of bounded size."""

import glob
import hashlib
import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from ldm.data.shards.index import Shard
from ldm.data.shards.scan import BLOCK, state_of
from ldm.utils.errors import UserError
from ldm.utils.files import replacing
from ldm.utils.folders import CLUTTER

OPEN_FILES = 64


def expand(patterns: str | Sequence[str]) -> list[str]:
    """Paths and URLs of patterns with braces ({00000..00041}) or wildcards (*, ?, [..], **/); sorted.

    `**` stands for any number of folders. Hidden files are found only if the pattern names them. Of URLs only
    those of stores that list their files have wildcards, of which `*` and `**` alone.

    Args:
        patterns: one or several.

    Raises: ValueError for a folder, which is no pattern.
    """
    from webdataset.shardlists import expand_urls

    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for path in expand_urls(pattern):
            found += _remote(path) if "://" in path else _local(path)
    return sorted(dict.fromkeys(found))


def _local(path: str) -> list[str]:
    """Files of a pattern, or the path as it is."""
    if Path(path).is_dir():
        raise UserError(
            f"shards must be tar files, got the folder {path}: {path.rstrip('/')}/*.tar are those in it"
        )
    if Path(path).exists() or not any(mark in path for mark in "*?["):
        return [path]
    found = (str(Path(p)) for p in glob.glob(path, recursive=True) if not Path(p).is_dir())
    return [p for p in found if not any(part in CLUTTER for part in Path(p).parts)]


def _remote(url: str) -> list[str]:
    """URLs of a pattern, or the URL as it is."""
    if "*" not in url:
        return [url]
    import fsspec

    system, pattern = fsspec.core.url_to_fs(url)
    return [system.unstrip_protocol(path) for path in system.glob(pattern)]


class ShardFiles:
    """Opens shards when they are needed and reads parts of them.

    Args:
        shards: the files of an index.
        cache: folder for copies of remote ones; None if there are none.
        cache_bytes: size of the folder, at most; the copies not used for longest make room.
    """

    def __init__(self, shards: Sequence[Shard], cache: Path | None = None, cache_bytes: int = 10**11) -> None:
        self.shards, self.cache, self.cache_bytes = shards, cache, cache_bytes
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()

    def read(self, shard: int, offset: int, size: int, header: int | None = None) -> bytes:
        """Some bytes of a shard.

        Args:
            shard: its number.
            offset: of the first byte.
            size: number of bytes.
            header: CRC-32 of the tar header in front of them; None: it is not looked at.

        Raises: FileNotFoundError; ValueError if it has changed since it was indexed.
        """
        file = self._open.get(shard)
        if file is None:
            file = self._open[shard] = self._opened(self.shards[shard])
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(shard)
        before = 0 if header is None else BLOCK
        data = os.pread(file.fileno(), before + size, offset - before)
        if header is not None and (len(data) < before + size or zlib.crc32(data[:before]) != header):
            raise UserError(
                f"{self.shards[shard].path} has changed while it was in use: start again to index it again"
            )
        return data[before:]

    def close(self) -> None:
        """Closes all files."""
        while self._open:
            self._open.popitem()[1].close()

    def __del__(self) -> None:
        self.close()

    def _opened(self, shard: Shard) -> BinaryIO:
        path = Path(shard.path) if "://" not in shard.path else self._copy(shard)
        if not path.is_file():
            raise FileNotFoundError(f"no tar shard at {path}")
        if path.stat().st_size != shard.size:
            raise UserError(
                f"{path} has {path.stat().st_size} bytes, {shard.size} when it was indexed: "
                "start again to index it again"
            )
        return path.open("rb")

    def _copy(self, shard: Shard) -> Path:
        """The local copy of a remote shard."""
        if self.cache is None:
            raise UserError(f"cache must be a folder for the copy of {shard.path}, got null")
        self.cache.mkdir(parents=True, exist_ok=True)
        version = f"{shard.path} {shard.modified} {shard.size}"
        name = f"{hashlib.sha256(version.encode()).hexdigest()[:16]}-{shard.path.rsplit('/', 1)[-1]}"
        path = self.cache / name
        if path.is_file() and path.stat().st_size == shard.size:
            os.utime(path)
            return path
        import fsspec

        size, modified = state_of(shard.path)
        if size not in (-1, shard.size) or modified != shard.modified:
            raise UserError(f"{shard.path} has changed since it was indexed: digest=content indexes it again")
        self._make_room(shard.size)
        with replacing(path) as temporary:
            system, remote = fsspec.core.url_to_fs(shard.path)
            system.get_file(remote, str(temporary))
        return path

    def _make_room(self, size: int) -> None:
        assert self.cache is not None
        copies = sorted((p for p in self.cache.glob("*.tar")), key=lambda p: p.stat().st_mtime)
        total = sum(p.stat().st_size for p in copies) + size
        for path in copies:
            if total <= self.cache_bytes:
                return
            total -= path.stat().st_size
            path.unlink(missing_ok=True)
