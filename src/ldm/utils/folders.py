"""Files below a folder that a person put there, without those of desktops, editors and archivers."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

CLUTTER = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", "Thumbs.db", "desktop.ini")
"""Names, besides those that begin with a dot, that operating systems and network drives leave behind."""


def is_clutter(path: PurePath | str) -> bool:
    """True if a file, or a folder it lies in, is hidden (`._a.jpg`, `.ipynb_checkpoints`) or in `CLUTTER`.

    Args:
        path: relative to the folder of the data; "." and ".." are no hidden folders.
    """
    parts = str(path).split("/")
    return any(part in CLUTTER or (part.startswith(".") and part not in (".", "..")) for part in parts)


def files_below(root: Path) -> list[Path]:
    """The files below a folder, sorted, without clutter.

    Links to folders are followed, but each folder is read once: under its own name if it lies below `root`,
    else under the first of its links in the order of their paths.

    Args:
        root: the folder.
    """
    found: list[Path] = []
    visited: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:  # what lies below comes before what is linked, so that it keeps its own name
        links: list[Path] = []
        for folder in waiting:
            for at, folders, names in _walk(folder, visited):
                found += [at / name for name in names]
                links += [at / name for name in folders if (at / name).is_symlink()]
        waiting = sorted(links)
    return sorted(found)


def _walk(top: Path, visited: set[tuple[int, int]]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As `os.walk`, without clutter and without folders that were visited, which it adds to."""
    for at, folders, names in os.walk(top):
        status = os.stat(at)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not is_clutter(name)]
        yield Path(at), folders, [name for name in names if not is_clutter(name)]
