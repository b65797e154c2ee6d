"""TensorBoard with one curve for a training, however often it was stopped."""

import json
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image


class TensorBoardLog(TensorBoardLogger):
    """Event files in a folder of the run directory, one for each start of the run.

    The first thing that is logged takes back what an earlier start logged at that step and later ones, so
    that no step is there twice. Nothing is lost of the steps before: checkpoints flush (`save`), and a run
    goes on from one.

    Args:
        save_dir: the run directory.
        version: the folder in it.
    """

    def __init__(self, save_dir: str, version: str = "tensorboard") -> None:
        super().__init__(save_dir, name="", version=version)
        self._begun = False

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Shows the config as text."""
        text = json.dumps(dict(params), indent=1)
        self.experiment.add_text("config", f"```\n{text}\n```")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds numbers of a step."""
        self._begin(step or 0)
        super().log_metrics(metrics, step)

    @rank_zero_only
    def log_image(self, key: str, images: list[Image.Image], step: int) -> None:
        """Adds pictures of a step."""
        self._begin(step)
        pixels = np.stack([np.asarray(image) for image in images])
        self.experiment.add_images(key, pixels, step, dataformats="NHWC")

    def _begin(self, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        if not self._begun:
            start = Event(session_log=SessionLog(status=SessionLog.START))
            self.experiment._get_file_writer().add_event(start, step)
            self._begun = True

    @rank_zero_only
    def save(self) -> None:
        """Writes what was logged to the disk."""
        self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes what is left and closes the file."""
        self.save()
        self.experiment.close()
