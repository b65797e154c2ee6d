"""Hydra's notes in a run directory (.hydra/*.yaml) stay those of the run when a later command is refused."""

import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

_earlier: dict[Path, tuple[bytes, tuple[int, int]]] = {}


class EarlierNotes(Callback):
    """Hydra's callback that reads the notes of an earlier command before Hydra replaces them."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Reads the notes in the run directory."""
        _earlier.clear()
        try:
            home, subdir = config.hydra.run.dir, config.hydra.output_subdir
        except OmegaConfBaseException:  # reported where the directory is made
            return
        for path in [] if subdir is None else Path(home, subdir).absolute().glob("*.yaml"):
            times = path.stat()
            _earlier[path] = (path.read_bytes(), (times.st_atime_ns, times.st_mtime_ns))


def restore_notes() -> bool:
    """Write the earlier notes back; True if there were some."""
    for path, (content, times) in _earlier.items():
        path.write_bytes(content)
        os.utime(path, ns=times)
    return bool(_earlier)
