"""Files that appear whole or not at all."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path` that takes its place once it is written and on the disk.

    If the body raises, what was at `path` stays and nothing new is left behind.

    Args:
        path: the file to be; its folder exists.
    """
    temporary = _temporary(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask allows, whatever mode the body gives the file
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Gives a new folder beside `path` that takes its name once it is filled.

    If the body raises, nothing new is left behind.

    Args:
        path: the folder to be; it must not exist, or be empty.

    Raises: FileExistsError if there is something at `path`.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise FileExistsError(f"{path} exists")
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    """A name beside `path` that no other process uses, on whatever host."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def _sync_folder(path: Path) -> None:
    """Makes new names in a folder last, too."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text; the file appears whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
