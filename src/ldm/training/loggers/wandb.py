"""Weights & Biases with one run for a training, however often it was stopped."""

import json
import logging
import os
import secrets
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from ldm.training.loggers.csv import read_rows
from ldm.utils.errors import UserError
from ldm.utils.files import write_text

log = logging.getLogger(__name__)

KEY_LENGTH = 40  # the least of a key of W&B
PATIENCE = 30.0  # seconds to wait for the server at the start


class WandbLog(WandbLogger):
    """A run whose id is kept in wandb.json in the run directory; W&B's step is the training's.

    What W&B holds of a run after a crash is not what it was sent: its own process may have lost the last
    minutes. So a resumed run asks how far W&B has come (offline: nothing, a resumed run is another folder),
    sends again what is missing from metrics.csv and samples/, and leaves out what is there. Folders of an
    offline run that are thereby repeated are renamed from offline-run-* to superseded-run-*.

    Training never ends for want of W&B: where the server cannot be reached or refuses the run, this goes on
    offline, and where W&B's process is lost on the way, in metrics.csv alone; each is one line. Of
    `WANDB_MODE=disabled` nothing is written.

    Args:
        save_dir: the run directory.
        project: of W&B.
        name: of the run.
        offline: write to save_dir/wandb for a later `wandb sync`.

    Raises: UserError for a `WANDB_API_KEY` that is too short to be one.
    """

    def __init__(self, save_dir: str, project: str, name: str, offline: bool) -> None:
        key = os.environ.get("WANDB_API_KEY", "").strip()
        if not offline and 0 < len(key) < KEY_LENGTH:
            raise UserError(f"WANDB_API_KEY must have at least {KEY_LENGTH} characters, got {len(key)}")
        self.folder, self.is_offline, self.is_lost = Path(save_dir), offline, False
        self.path = self.folder / "wandb.json"
        known = json.loads(self.path.read_text())["id"] if self.path.is_file() else None
        self.run_id: str = known or secrets.token_hex(4)
        self._start: int | None = None
        # to an offline run W&B says that it cannot ask for what is there
        more: dict[str, Any] = {} if offline else {"resume": "allow"}
        if not offline and "WANDB_INIT_TIMEOUT" not in os.environ:
            more["settings"] = wandb.Settings(init_timeout=PATIENCE)
        if os.environ.get("WANDB_MODE") == "disabled":
            more["mode"] = "disabled"
        super().__init__(
            name=name, save_dir=save_dir, project=project, offline=offline, id=self.run_id, **more
        )

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of W&B, offline if there is no other way."""
        try:
            return super().experiment
        except wandb.Error as error:
            if self.is_offline:
                raise
            log.warning("W&B: %s; the run goes on offline: `wandb sync` uploads it later", _line(error))
        self._offline = self.is_offline = True
        del self._wandb_init["resume"]
        return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Sends what W&B does not have."""
        if self.is_lost or getattr(self.experiment, "disabled", False):
            return
        try:
            self._send(metrics, step or 0)
        except (wandb.Error, ConnectionError) as error:
            self.is_lost = True
            log.warning("W&B is lost: %s; the run goes on without it, metrics.csv has all", _line(error))

    def log_image(self, *args: Any, **kwargs: Any) -> None:
        """Sends pictures, unless W&B is lost."""
        if not self.is_lost:
            super().log_image(*args, **kwargs)

    def _send(self, metrics: Any, step: int) -> None:
        if self._start is None:
            self._start = self.experiment.starting_step
            self._catch_up(step)
        if step >= self._start:
            self.experiment.log({**metrics, "trainer/global_step": step}, step=step)

    def _catch_up(self, step: int) -> None:
        """Sends what is missing before a step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps({"id": self.run_id}))
        pictures = {int(p.stem.removeprefix("step_")): p for p in self.folder.glob("samples/step_*.png")}
        rows = read_rows(self.folder / "metrics.csv")
        for there in sorted(s for s in rows.keys() | pictures.keys() if s < step):
            self._send(rows.get(there, {}), there)
            if there in pictures:
                self.log_image(key="samples", images=[str(pictures[there])], step=there)
        if self.is_offline:
            self._supersede()

    def _supersede(self) -> None:
        """Renames the folders of offline runs that this one repeats."""
        ours = Path(self.experiment.dir).parent
        # a killed run's own process of W&B may still leave pictures in a folder that was renamed before
        for file in self.folder.glob(f"wandb/offline-run-*-{self.run_id}/*.wandb"):
            if not file.parent.samefile(ours):
                name = file.parent.name.replace("offline-run-", "superseded-run-")
                file.parent.rename(file.parent.with_name(name))


def _line(error: Exception) -> str:
    """First line of an error's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
