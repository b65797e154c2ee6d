"""What a sweep of ldm-sample ends in: one contact sheet with labels and one CSV."""

import csv
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig

from ldm.cli.recipe import read_recipe

NOTE, SHEET, TABLE = "job.json", "sweep.png", "sweep.csv"


def sweep_folder() -> Path | None:
    """The folder of this job of a sweep; None for a single run."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().runtime.output_dir)


class ContactSheet(Callback):
    """Notes what each job was asked for and, after the last, shows all images side by side."""

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
        folder = Path(config.hydra.sweep.dir)
        if jobs := read_jobs(folder):
            write_table(jobs, folder / TABLE)
            write_sheet(jobs, folder / SHEET)
            print(folder / SHEET)


class Job(NamedTuple):
    """One job of a sweep."""

    number: int
    given: dict[str, str]
    seconds: float
    images: list[Path]


def read_jobs(folder: Path) -> list[Job]:
    """The jobs of a sweep that have made images, in order; `given` holds what differs between them."""
    jobs = []
    for file in folder.glob(f"**/{NOTE}"):
        note = json.loads(file.read_text())
        given = dict(override.lstrip("+").split("=", 1) for override in note["overrides"] if "=" in override)
        images = sorted(p for p in file.parent.glob("**/*.png") if p.name != SHEET)
        jobs.append(Job(note["job"], given, note["seconds"], images))
    keys = jobs[0].given if jobs else {}
    swept = [key for key in keys if len({job.given.get(key) for job in jobs}) > 1]
    jobs = [job._replace(given={key: job.given.get(key, "") for key in swept}) for job in sorted(jobs)]
    return [job for job in jobs if job.images]


def write_table(jobs: list[Job], path: Path) -> None:
    """One line for each image: what was swept, prompt, seed, evaluations, and the seconds of the job."""
    said = ("prompt", "seed", "net_evaluations")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["job", *jobs[0].given, *said, "seconds", "image"])
        for job in jobs:
            for image in job.images:
                recipe = read_recipe(str(image))
                cells = [recipe.get(name, "") for name in said]
                place = image.relative_to(path.parent)
                writer.writerow([job.number, *job.given.values(), *cells, job.seconds, place])


def write_sheet(jobs: list[Job], path: Path) -> None:
    """The images in a grid: the values swept last from left to right, the others and further images below."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    from ldm.utils.image_io import labelled_grid

    columns = len({list(job.given.values())[-1] for job in jobs}) if jobs[0].given else 1
    cells, captions, blank = [], [], None
    count = max(len(job.images) for job in jobs)
    for row in range(0, len(jobs), columns):
        for i in range(count):
            for job in jobs[row : row + columns]:
                cells.append(Image.open(job.images[i]).convert("RGB") if i < len(job.images) else blank)
                captions.append(", ".join(job.given.values()))
    width, height = (max(cell.size[k] for cell in cells if cell is not None) for k in (0, 1))
    blank = Image.new("RGB", (width, height), "white")
    pixels = [np.asarray(ImageOps.pad(cell or blank, (width, height), color="white")) for cell in cells]
    grid = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    labelled_grid(grid, captions, columns).save(path)
