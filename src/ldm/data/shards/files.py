"""Bytes of samples out of shards: local files as they are, remote ones through a cache of bounded size."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from ldm.data.shards.index import Shard
from ldm.utils.errors import UserError
from ldm.utils.files import replacing

OPEN_FILES = 64


def expand(patterns: str | Sequence[str]) -> list[str]:
    """Paths and URLs of patterns with braces ({00000..00041}) or, for local files, wildcards; sorted.

    Args:
        patterns: one or several.
    """
    from webdataset.shardlists import expand_urls

    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for path in expand_urls(pattern):
            if "://" in path or not any(mark in path for mark in "*?["):
                found.append(path)
            else:
                folder = Path(path)
                found += sorted(str(p) for p in folder.parent.glob(folder.name))
    return sorted(dict.fromkeys(found))


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

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Some bytes of a shard.

        Raises: FileNotFoundError; ValueError if it has another size than when it was indexed.
        """
        file = self._open.get(shard)
        if file is None:
            file = self._open[shard] = self._opened(self.shards[shard])
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(shard)
        return os.pread(file.fileno(), size, offset)

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
                f"{path} has {path.stat().st_size} bytes, {shard.size} when it was indexed: index it again"
            )
        return path.open("rb")

    def _copy(self, shard: Shard) -> Path:
        """The local copy of a remote shard."""
        if self.cache is None:
            raise UserError(f"cache must be a folder for the copy of {shard.path}, got null")
        self.cache.mkdir(parents=True, exist_ok=True)
        name = f"{hashlib.sha256(shard.path.encode()).hexdigest()[:16]}-{shard.path.rsplit('/', 1)[-1]}"
        path = self.cache / name
        if path.is_file() and path.stat().st_size == shard.size:
            os.utime(path)
            return path
        import fsspec

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
