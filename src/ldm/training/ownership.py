"""A run directory belongs to one run at a time."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ldm.utils.distributed import is_main
from ldm.utils.errors import UserError
from ldm.utils.lock import Lock

log = logging.getLogger(__name__)

LEASE = 60.0
"""Seconds after which a run on another host that gives no sign of life has ended."""
PAUSE = 0.2


@contextlib.contextmanager
def owned(directory: Path, lease: float = LEASE) -> Iterator[None]:
    """While inside, no other run starts in a directory; its first rank holds a lock there.

    A lock of a process that has ended on this host is taken over at once. Of a process on another host it is
    known after a sixth of the lease that it lives, and after the lease that it has ended.

    Args:
        directory: of the run; made if it is not there.
        lease: in seconds.

    Raises: UserError if another run has the directory.
    """
    if not is_main():
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    lock = Lock(directory / ".lock", lease)
    while not lock.taken():
        if lock.alive:
            raise UserError(
                f"{directory} is in use by another run ({lock.holder()}): wait for its end, or choose "
                "another directory",
                "hydra.run.dir",
            )
        time.sleep(PAUSE)
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(lock, ended, lease / 6), name="run lock", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
        if lock.is_mine():
            lock.release()


def _keep(lock: Lock, ended: threading.Event, every: float) -> None:
    """Gives signs of life until the run has ended or has lost its directory."""
    while not ended.wait(every):
        if not lock.is_mine():
            log.error(
                "%s is no longer the lock of this run: its directory was removed or taken over", lock.path
            )
            return
        with contextlib.suppress(OSError):
            lock.touch()
