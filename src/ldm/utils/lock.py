"""A lock file that says who holds it, for processes of one host or, by a lease, of several."""

import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class Lock:
    """A file with host, process and time of its holder; the file's own time is that of the last sign of life.

    The lock of a process that has ended on this host is taken over at once, as after a crash; one of another
    host after a time without a sign of life, by this process' clock, since those of hosts differ.

    Args:
        path: the file.
        patience: seconds without a sign of life after which the lock is taken over.
    """

    def __init__(self, path: Path, patience: float) -> None:
        self.path, self.patience = path, patience
        self.alive = False  # the holder that was looked at last has given a sign of life
        self._sign: tuple[bytes, int] | None = None
        self._since = 0.0

    def taken(self) -> bool:
        """Takes the lock; True on success; a dead process's lock is removed first."""
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            self._look()
            return False
        with os.fdopen(file, "w") as opened:
            json.dump({**_this_process(os.getpid()), "time": time.time()}, opened)
        return True

    def touch(self) -> None:
        """Gives a sign of life."""
        if self.path.is_file():
            os.utime(self.path)

    def is_mine(self) -> bool:
        """True if this process holds the lock."""
        try:
            return _is_of(json.loads(self.path.read_bytes()), _this_process(os.getpid()))
        except (OSError, ValueError):
            return False

    def release(self) -> None:
        """Gives the lock back."""
        self.path.unlink(missing_ok=True)

    def holder(self) -> str:
        """The holder in words."""
        try:
            who = json.loads(self.path.read_bytes())
            return f"process {who['pid']} on {who['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def _look(self) -> None:
        """Looks at another's lock and removes it if that one is dead."""
        try:
            sign = (self.path.read_bytes(), self.path.stat().st_mtime_ns)
        except FileNotFoundError:
            self.alive = False
            return
        lives = _lives(sign[0])
        self.alive = bool(lives) or (self._sign is not None and sign != self._sign)
        if sign != self._sign:
            self._sign, self._since = sign, time.monotonic()
        silent = time.monotonic() - self._since > self.patience
        if silent or lives is False:
            log.warning("%s is taken over: its process has died or is silent", self.path)
            self._put_away(sign[0])

    def _put_away(self, content: bytes) -> None:
        """Removes the lock, if it is still the one that was looked at."""
        old = self.path.with_name(f"{self.path.name}.{socket.gethostname()}.{os.getpid()}")
        try:
            self.path.rename(old)
        except FileNotFoundError:
            return
        if old.read_bytes() != content and not self.path.exists():  # another was faster: its lock goes back
            old.rename(self.path)
        else:
            old.unlink()
        self._sign = None


def _this_process(pid: int) -> dict[str, Any]:
    """Identity of a process here; its number alone is used again, also by containers."""
    return {"host": socket.gethostname(), "space": _space(), "pid": pid, "start": _start(pid)}


def _is_of(who: dict[str, Any], process: dict[str, Any]) -> bool:
    return all(who.get(name) == value for name, value in process.items())


def _lives(content: bytes) -> bool | None:
    """True if a lock's process lives on this host, False if it has ended, None if this cannot be known."""
    try:
        who = json.loads(content)
        if who["host"] != socket.gethostname() or who.get("space", _space()) != _space():
            return None
        os.kill(who["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except (ValueError, KeyError, TypeError):
        return None  # it is being written
    return who.get("start") in (None, _start(who["pid"]))


def _space() -> str:
    """Name of the numbers of processes here: those of this boot and container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start(pid: int) -> str | None:
    """Start of a process in ticks since the boot; "" for one that has ended, None if unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] in "ZX" else fields[19]
