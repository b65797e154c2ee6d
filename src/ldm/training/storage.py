"""A disk that fails a run: one line with the path and with what is safe."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ldm.checkpoints.store import CheckpointStore
from ldm.utils.errors import Failure

ANYWHERE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Errors of writing, wherever they occur."""
INSIDE = {errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOENT, errno.ENOTDIR}
"""Errors that are about the run if they occur in its directory; elsewhere they may be about the data."""
WORDS = re.compile(r"os error (\d+)|PytorchStreamWriter failed|inline_container")
"""Wording of libraries that hide the error of a write."""


@contextlib.contextmanager
def explained(directory: Path) -> Iterator[None]:
    """While inside, an error of the disk becomes a Failure that says what of the run is safe.

    Args:
        directory: of the run.

    Raises: Failure for a full, read-only or broken disk, a quota or a directory that was removed.
    """
    try:
        yield
    except Exception as error:
        reason = reason_of(error, directory)
        if reason is None:
            raise
        raise Failure(f"{reason}; {safe(directory)}") from error


def reason_of(error: Exception, directory: Path) -> str | None:
    """Path and reason of an error of the disk; None for another error."""
    found = WORDS.search(str(error))
    number, path = getattr(error, "errno", None), getattr(error, "filename", None)
    if number is None and found is not None:
        number = int(found[1]) if found[1] else errno.ENOSPC
    if number in ANYWHERE:
        return f"{path or directory}: {os.strerror(number)}"
    if isinstance(error, OSError) and not directory.is_dir():
        return f"{directory}: the directory of the run was removed"
    if number in INSIDE and path is not None and Path(path).absolute().is_relative_to(directory):
        return f"{path}: {os.strerror(number)}"
    return None


def safe(directory: Path) -> str:
    """The newest checkpoint that is whole, and how to go on."""
    for folder, name in ((directory, ""), (directory / "autoencoder", " of the autoencoder")):
        if (step := CheckpointStore(folder / "checkpoints").newest()) is not None:
            return f"the checkpoint{name} of step {step} is whole: the same command goes on from there"
    return "no checkpoint was written yet: the same command starts again"
