"""The index of shards that many processes share: one of them makes it, the others wait for it."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from ldm.data.shards.index import OldIndex, Shard, ShardIndex
from ldm.data.shards.scan import build_index, content_digest, headers_digest, state_of
from ldm.utils.errors import UserError
from ldm.utils.lock import Lock

log = logging.getLogger(__name__)
PATIENCE = 900.0
PAUSE = 0.2
Digest = Literal["headers", "content"]
"""By which an index knows its shards."""


def shared_index(
    paths: Sequence[str], folder: Path | None, patience: float = PATIENCE, digest: Digest = "headers"
) -> ShardIndex:
    """The index in a folder, made there by the first process that asks for it.

    Shards that have changed since are indexed again: those of another size, or of another time of change and
    other headers (or, with digest="content", those of other content, whatever the time says).

    A lock file beside the folder names the process that makes it. If that one has died, on this host, or has
    not indexed a shard for `patience` seconds, on any, the lock is taken over.

    Args:
        paths: the shards, in their order.
        folder: where the index is kept; None: nowhere.
        patience: in seconds.
        digest: by which a shard is known: "headers" or "content".

    Raises: ValueError if the index there is of other shards or cannot be used.
    """
    if digest not in get_args(Digest):
        raise UserError(f"digest must be one of {', '.join(get_args(Digest))}, got {digest!r}")
    if folder is None:
        return build_index(paths)
    lock = Lock(folder.with_name(f"{folder.name}.lock"), patience)
    waiting = False
    while True:
        found, changed = _stored(paths, folder, digest)
        if found is not None and not changed:
            return found
        try:
            if (made := _make(paths, folder, lock, digest)) is not None:
                return made
            if not waiting:
                log.info("waiting for the index that another process makes (%s)", lock.path)
            waiting = True
        except _NotKept as error:
            log.warning("the index is not kept: %s", error)
            return build_index(paths, None, found, changed) if found is not None else build_index(paths)


def changed_since(shard: Shard, digest: Digest) -> bool:
    """True if a shard is not what it was when it was indexed; remote ones are looked at when they are copied.

    Args:
        shard: of an index.
        digest: "headers" or "content".
    """
    if "://" in shard.path:
        return digest == "content" and content_digest(shard.path) != shard.sha256
    size, modified = state_of(shard.path)
    if size != shard.size:
        return True
    if digest == "content":
        return content_digest(shard.path) != shard.sha256
    return modified != shard.modified and (bool(shard.damage) or headers_digest(shard.path) != shard.headers)


class _NotKept(Exception):
    """The folder cannot be written."""


def _stored(paths: Sequence[str], folder: Path, digest: Digest) -> tuple[ShardIndex | None, list[int]]:
    """The index in a folder and the numbers of shards that have changed since; None if there is none."""
    if not folder.is_dir():
        return None, []
    try:
        found = ShardIndex.load(folder)
    except OldIndex as error:
        log.info("%s: it is made again", error)
        return None, []
    if (known := [shard.path for shard in found.shards]) != list(paths):
        raise UserError(f"the index in {folder} is of {len(known)} other shards, not these {len(paths)}")
    return found, [number for number, shard in enumerate(found.shards) if changed_since(shard, digest)]


def _make(paths: Sequence[str], folder: Path, lock: Lock, digest: Digest) -> ShardIndex | None:
    """The index, made here and kept in the folder; None if another process is at work."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        mine = lock.taken()
    except OSError as error:
        raise _NotKept(str(error)) from error
    if not mine:
        time.sleep(PAUSE)
        return None
    try:
        found, changed = _stored(paths, folder, digest)  # another process may have finished meanwhile
        if found is None:
            log.info("indexing %d shards", len(paths))
            _save(build_index(paths, lock.touch), folder)
        elif changed:
            first = found.shards[changed[0]].path
            log.warning("%d shards have changed, such as %s: indexing them again", len(changed), first)
            _save(build_index(paths, lock.touch, found, changed), folder)
        return ShardIndex.load(folder)
    finally:
        lock.release()


def _save(index: ShardIndex, folder: Path) -> None:
    try:
        index.save(folder, replace=True)
    except OSError as error:
        raise _NotKept(str(error)) from error
