"""Metrics as a CSV file that a resumed run continues."""

import csv
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from ldm.utils.files import replacing


def read_rows(path: Path) -> dict[int, dict[str, float]]:
    """The numbers of each step in a file of `CSVLog`; none if it is not there."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {
            int(row["step"]): {k: float(v) for k, v in row.items() if v and k != "step"}
            for row in csv.DictReader(file)
        }


class CSVLog(Logger):
    """One row per step in `metrics.csv`, written whole (temporary name, rename) every few seconds.

    A file that is there is continued: its rows from the first logged step on are replaced, so that a run
    resumed from an earlier checkpoint has no step twice. (Lightning's CSVLogger deletes the file instead.)

    Args:
        save_dir: folder of the file.
        every_seconds: least time between two writes.
    """

    def __init__(self, save_dir: str, every_seconds: float = 5.0) -> None:
        super().__init__()
        self.path, self.every_seconds = Path(save_dir) / "metrics.csv", every_seconds
        self._rows: dict[int, dict[str, float]] | None = None
        self._written = 0.0

    @property
    def name(self) -> str:
        """Always "csv"."""
        return "csv"

    @property
    def version(self) -> str:
        """Always empty: one file per run directory."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the run directory holds the config."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds numbers to a step's row."""
        step = step or 0
        if self._rows is None:
            self._rows = {s: row for s, row in read_rows(self.path).items() if s < step}
        self._rows.setdefault(step, {}).update({k: float(v) for k, v in metrics.items()})
        if time.monotonic() - self._written > self.every_seconds:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Writes the file."""
        if self._rows is None:
            return
        columns = sorted({name for row in self._rows.values() for name in row})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", *columns])
            writer.writeheader()
            writer.writerows({"step": step, **row} for step, row in sorted(self._rows.items()))
        self._written = time.monotonic()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes what is left."""
        self.save()
