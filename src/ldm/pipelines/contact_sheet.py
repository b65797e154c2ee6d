"""The images of a sweep in one picture and one table."""

import csv
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from ldm.pipelines.recipe import read_recipe
from ldm.utils.image_io import labelled_grid

SHEET, TABLE = "sweep.png", "sweep.csv"


class Job(NamedTuple):
    """One job of a sweep."""

    number: int
    given: dict[str, str]
    seconds: float
    images: list[Path]


def read_jobs(folder: Path, note_name: str) -> list[Job]:
    """The jobs of a sweep that have written images, in order; `given` holds what differs between them.

    Args:
        folder: of the sweep.
        note_name: name of the JSON file beside the images of a job: its number, overrides and seconds.
    """
    jobs = []
    for file in folder.glob(f"**/{note_name}"):
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
    names = ("prompt", "seed", "net_evaluations")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["job", *jobs[0].given, *names, "seconds", "image"])
        for job in jobs:
            for image in job.images:
                recipe = read_recipe(image)
                cells = [recipe.get(name, "") for name in names]
                place = image.relative_to(path.parent)
                writer.writerow([job.number, *job.given.values(), *cells, job.seconds, place])


def write_sheet(jobs: list[Job], path: Path) -> None:
    """The images in a grid: the values swept last from left to right, the others and further images below."""
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
