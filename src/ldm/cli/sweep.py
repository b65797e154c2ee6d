"""The end of a sweep of ldm-sample: a contact sheet with labels and a CSV."""

import json
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig

NOTE = "job.json"  # what a job leaves beside its images, for the sheet


def sweep_folder() -> Path | None:
    """The folder of this job of a sweep; None for a single run."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().runtime.output_dir)


class ContactSheet(Callback):
    """Notes the overrides of each job and, after the last one, shows all images side by side."""

    def on_job_start(self, config: DictConfig, *, task_function: TaskFunction, **kwargs: Any) -> None:
        """Starts the clock."""
        self.start = time.perf_counter()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Writes the job's overrides and seconds beside its images."""
        folder = sweep_folder()
        if folder is not None and folder.is_dir():
            note = {
                "job": config.hydra.job.num,
                "overrides": list(config.hydra.overrides.task),
                "seconds": round(time.perf_counter() - self.start, 2),
            }
            (folder / NOTE).write_text(json.dumps(note))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Writes sheet and table and prints where they are."""
        from ldm.pipelines.contact_sheet import SHEET, TABLE, read_jobs, write_sheet, write_table

        folder = Path(config.hydra.sweep.dir)
        if jobs := read_jobs(folder, NOTE):
            write_table(jobs, folder / TABLE)
            write_sheet(jobs, folder / SHEET)
            print(folder / SHEET)
