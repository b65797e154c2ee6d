"""The index of shards that many processes share: one of them makes it, the others wait for it."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from ldm.data.shards.index import ShardIndex, build_index
from ldm.utils.errors import UserError
from ldm.utils.lock import Lock

log = logging.getLogger(__name__)
PATIENCE = 900.0
PAUSE = 0.2


def shared_index(paths: Sequence[str], folder: Path | None, patience: float = PATIENCE) -> ShardIndex:
    """The index in a folder, made there by the first process that asks for it.

    A lock file beside the folder names the process that makes it. If that one has died, on this host, or has
    not indexed a shard for `patience` seconds, on any, the lock is taken over.

    Args:
        paths: the shards, in their order.
        folder: where the index is kept; None: nowhere.
        patience: in seconds.

    Raises: ValueError if the index there is of other shards or cannot be used.
    """
    if folder is None:
        return build_index(paths)
    if not folder.is_dir():
        try:
            _make(paths, folder, Lock(folder.with_name(f"{folder.name}.lock"), patience))
        except _NotKept as error:
            log.warning("the index is not kept: %s", error)
            return build_index(paths)
    found = ShardIndex.load(folder)
    if (known := [shard.path for shard in found.shards]) != list(paths):
        raise UserError(f"the index in {folder} is of {len(known)} other shards, not these {len(paths)}")
    return found


class _NotKept(Exception):
    """The folder cannot be written."""


def _make(paths: Sequence[str], folder: Path, lock: Lock) -> None:
    """Returns once the index is in the folder, made here or by another process."""
    waiting = False
    while not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            mine = lock.taken()
        except OSError as error:
            raise _NotKept(str(error)) from error
        if not mine:
            if not waiting:
                log.info("waiting for the index that another process makes (%s)", lock.path)
            waiting = True
            time.sleep(PAUSE)
            continue
        try:
            if not folder.is_dir():  # another process may have finished before the lock was taken
                log.info("indexing %d shards", len(paths))
                _save(build_index(paths, lock.touch), folder)
        finally:
            lock.release()


def _save(index: ShardIndex, folder: Path) -> None:
    try:
        index.save(folder)
    except OSError as error:
        if not folder.is_dir():
            raise _NotKept(str(error)) from error
