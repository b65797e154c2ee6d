"""A folder of training checkpoints: each whole or not there, verified before older ones go."""

import hashlib
import io
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ldm.utils.errors import UserError
from ldm.utils.files import replacing_folder

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATE = "state.ckpt"
REST = "rest.ckpt"  # of a sharded checkpoint: what is no tensor of nets or optimizers
FINISHED = ("model.safetensors", "autoencoder.safetensors")  # in the directory of a run
NAME = re.compile(r"step_(\d{8,})")


class HashedFile(io.RawIOBase):
    """A file opened for writing that keeps the SHA-256 and the number of the bytes it was given."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash, self.bytes = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any) -> int:
        """Writes all of the data."""
        self.hash.update(data)
        count = self.file.write(data)
        self.bytes += count
        return count


@contextmanager
def _own_errors(path: Path) -> Iterator[None]:
    """While inside, an error of a write comes with its path; torch raises one of its own after it."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, OSError) and cause.errno is not None:
            raise OSError(cause.errno, os.strerror(cause.errno), str(path)) from error
        raise


def _entry(path: Path) -> dict[str, Any]:
    """Entry of a file in a manifest: its size and SHA-256."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


class CheckpointStore:
    """Checkpoints `step_00000300/` with a manifest of their files' sizes and SHA-256.

    A checkpoint is filled under another name, synced, and renamed, so a process that is killed leaves none
    that is torn. The hashes of `save` are those of the bytes written, from memory: reading them back proves
    what is on the disk. Older checkpoints go after the new one was read back.

    Args:
        folder: of the checkpoints.
        keep: how many of the newest stay.
        milestone_every: steps whose multiples stay for good; None: none do.
    """

    def __init__(self, folder: Path, keep: int = 2, milestone_every: int | None = None) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        if milestone_every is not None and milestone_every < 1:
            raise ValueError(f"milestone_every must be at least 1 or null, got {milestone_every}")
        self.folder, self.keep, self.milestone_every = folder, keep, milestone_every

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of a step."""
        return self.folder / f"step_{step:08d}"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, torn or not, in order."""
        if not self.folder.is_dir():
            return []
        found = (NAME.fullmatch(path.name) for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(match[1]) for match in found if match)

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Writes a state of tensors and plain types as the checkpoint of a step.

        Returns: the folder, verified.
        Raises: OSError if it cannot be written, or differs when read back; older checkpoints then stay.
        """

        def fill(folder: Path) -> dict[str, dict[str, Any]]:
            with (folder / STATE).open("wb") as file:
                hashed = HashedFile(file)
                with _own_errors(self.path(step)):
                    torch.save(state, hashed)  # type: ignore[arg-type]  # all that it needs
            return {STATE: {"bytes": hashed.bytes, "sha256": hashed.hash.hexdigest()}}

        return self.add(step, fill)

    def add(
        self, step: int, fill: Callable[[Path], dict[str, dict[str, Any]]], leave: str | None = None
    ) -> Path:
        """Makes the checkpoint of a step by a function that puts its files into a folder.

        Args:
            step: its optimizer step.
            fill: writes the files; returns the manifest's entries of those whose hash it knows.
            leave: name of a hidden folder that `fill` needs; others are leftovers of a killed process.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(".*"):
            if left.name != leave:
                shutil.rmtree(left, ignore_errors=True)
        path = self.path(step)
        self._remove(path)  # a torn one, or one of a run that went back behind it
        with replacing_folder(path) as temporary:
            known = fill(temporary)
            names = sorted(str(p.relative_to(temporary)) for p in temporary.rglob("*") if p.is_file())
            files = {name: known.get(name) or _entry(temporary / name) for name in names}
            (temporary / MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1))
        if leave is not None:
            shutil.rmtree(self.folder / leave, ignore_errors=True)
        wrong = self.damage(step)
        if wrong is not None:
            raise OSError(f"{path} was not written as it should be: {wrong}")
        self._prune(step)
        return path

    def damage(self, step: int) -> str | None:
        """Description of the damage to the checkpoint of a step; None if all bytes match its manifest."""
        path = self.path(step)
        try:
            files = json.loads((path / MANIFEST).read_text())["files"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"its manifest cannot be read ({type(error).__name__})"
        for name, expected in files.items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if (size := (path / name).stat().st_size) != expected["bytes"]:
                return f"{name} has {size} bytes instead of {expected['bytes']}"
            if _entry(path / name) != expected:
                return f"{name} is damaged"
        return None

    def newest(self) -> int | None:
        """Step of the newest checkpoint that is whole; damaged ones are skipped with a warning."""
        for step in reversed(self.steps()):
            wrong = self.damage(step)
            if wrong is None:
                return step
            log.warning("%s is passed over: %s", self.path(step), wrong)
        return None

    def _prune(self, step: int) -> None:
        """Removes what is neither among the newest nor a milestone."""
        passed = [s for s in self.steps() if s <= step]
        for old in passed[: -self.keep]:
            if self.milestone_every is None or old % self.milestone_every:
                self._remove(self.path(old))

    def _remove(self, path: Path) -> None:
        """Removes a checkpoint; a process killed meanwhile leaves nothing that looks like one."""
        if path.is_dir():
            trash = path.with_name(f".{path.name}.old")
            shutil.rmtree(trash, ignore_errors=True)
            path.rename(trash)
            shutil.rmtree(trash)


def resumable(path: Path) -> tuple[Path, int]:
    """Path for the trainer and step of a checkpoint named by the user.

    Args:
        path: a checkpoint's folder, or the file in it; a run directory or a folder of checkpoints: its
            newest.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged.
    """
    path = newest_in(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
    folder = path.parent if path.name == STATE else path
    match = NAME.fullmatch(folder.resolve().name)
    if match is None or not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    step = int(match[1])
    wrong = CheckpointStore(folder.resolve().parent).damage(step)
    if wrong is not None:
        raise UserError(f"{path}: {wrong}")
    return state_of(folder), step


def of_run(path: Path) -> Path:
    """Path to read for a run directory: its finished model, else its checkpoints; other paths unchanged."""
    for name in FINISHED:
        if (path / name).is_file():
            return path / name
    return path / "checkpoints" if CheckpointStore(path / "checkpoints").steps() else path


def of_training(path: Path) -> Path:
    """Path to read for a run directory, a training checkpoint or a folder of them (its newest).

    Other paths are returned unchanged.

    Raises: ValueError if none in the folder is whole.
    """
    path = newest_in(of_run(path))
    return state_of(path) if (path / MANIFEST).is_file() else path


def newest_in(path: Path) -> Path:
    """The newest checkpoint in a folder of them; other paths unchanged.

    Raises: ValueError if none in the folder is whole.
    """
    store = CheckpointStore(path)
    if not store.steps():
        return path
    if (step := store.newest()) is None:
        raise UserError(f"no checkpoint in {path} is whole")
    return store.path(step)


def state_of(folder: Path) -> Path:
    """The file of a checkpoint, or its folder if it is sharded."""
    return folder / STATE if (folder / STATE).is_file() else folder


def is_sharded(path: Path) -> bool:
    """True for the folder of a sharded checkpoint."""
    return (path / REST).is_file()


def files_of(path: Path) -> list[Path]:
    """The files of tensors of a checkpoint, whether it is one file or sharded."""
    if not is_sharded(path):
        return [path]
    names = json.loads((path / MANIFEST).read_text())["files"]
    return [*(path / Path(name).name for name in names if name != REST), path / REST]
