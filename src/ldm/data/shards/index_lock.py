"""The index of shards that many processes share: one of them makes it, the others wait for it."""

import json
import logging
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from ldm.data.shards.index import ShardIndex, build_index
from ldm.utils.errors import UserError

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
            _make(paths, folder, _Lock(folder.with_name(f"{folder.name}.lock"), patience))
        except _NotKept as error:
            log.warning("the index is not kept: %s", error)
            return build_index(paths)
    found = ShardIndex.load(folder)
    if (known := [shard.path for shard in found.shards]) != list(paths):
        raise UserError(f"the index in {folder} is of {len(known)} other shards, not these {len(paths)}")
    return found


class _NotKept(Exception):
    """The folder cannot be written."""


def _make(paths: Sequence[str], folder: Path, lock: "_Lock") -> None:
    """Returns once the index is in the folder, made here or by another process."""
    while not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            mine = lock.taken()
        except OSError as error:
            raise _NotKept(str(error)) from error
        if not mine:
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


class _Lock:
    """A file that says who is at work: host, process and time; its own time is that of the last sign of life.

    Args:
        path: the file.
        patience: seconds without a sign of life after which the lock is taken over.
    """

    def __init__(self, path: Path, patience: float) -> None:
        self.path, self.patience = path, patience
        self._sign: tuple[bytes, int] | None = None
        self._since = 0.0

    def taken(self) -> bool:
        """Takes the lock; True on success; a dead process's lock is removed first."""
        who = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            self._look()
            return False
        with os.fdopen(file, "w") as opened:
            json.dump(who, opened)
        return True

    def touch(self) -> None:
        """Gives a sign of life."""
        if self.path.is_file():
            os.utime(self.path)

    def release(self) -> None:
        """Gives the lock back."""
        self.path.unlink(missing_ok=True)

    def _look(self) -> None:
        """Looks at another's lock and removes it if that one is dead."""
        try:
            sign = (self.path.read_bytes(), self.path.stat().st_mtime_ns)
        except FileNotFoundError:
            return
        if sign != self._sign:  # by this process' own clock: those of hosts differ
            if self._sign is None:
                log.info("waiting for the index that another process makes (%s)", self.path)
            self._sign, self._since = sign, time.monotonic()
        silent = time.monotonic() - self._since > self.patience
        if silent or _is_dead(sign[0]):
            log.warning("%s is taken over: its process has died or is silent", self.path)
            self._put_away(sign[0])

    def _put_away(self, content: bytes) -> None:
        """Removes the lock, if it is still the one that was looked at."""
        old = self.path.with_name(f"{self.path.name}.{socket.gethostname()}.{os.getpid()}")
        try:
            self.path.rename(old)
        except FileNotFoundError:
            return
        if (
            old.read_bytes() != content and not self.path.exists()
        ):  # another one was faster: its lock goes back
            old.rename(self.path)
        else:
            old.unlink()
        self._sign = None


def _is_dead(content: bytes) -> bool:
    """True if a lock's process was of this host and has ended; one being written says nothing yet."""
    try:
        who = json.loads(content)
        if who["host"] != socket.gethostname():
            return False
        os.kill(who["pid"], 0)
    except ProcessLookupError:
        return True
    except (ValueError, KeyError, PermissionError):
        return False
    return False
