"""The jobs of a sweep on disk: one folder each, with images and a note."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.pipelines.contact_sheet import SHEET, read_jobs, write_sheet, write_table
from ldm.pipelines.recipe import save_with_recipe

RECIPE = {"kind": "text2img", "checkpoint": None, "prompt": "a cat", "negative_prompt": None, "seed": 5}
RECIPE |= {"number": 0, "sha256": {}, "scale": 1}
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def job(folder: Path, number: int, overrides: list[str], *colours: tuple[int, int, int]) -> None:
    place = folder / f"job {number}"
    place.mkdir(parents=True)
    note = {"job": number, "overrides": overrides, "seconds": 0.5 + number}
    (place / "note.json").write_text(json.dumps(note))
    for i, colour in enumerate(colours):
        image = Image.new("RGB", (100, 100), colour)
        image.info["net_evaluations"] = 4
        save_with_recipe(image, place / f"{i}.png", RECIPE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    job(tmp_path, 2, ["prompt=a cat", "+eta=1", "steps=10"], BLUE)
    job(tmp_path, 0, ["prompt=a cat", "+eta=0", "steps=10"], RED, GREEN)
    job(tmp_path, 1, ["prompt=a cat", "+eta=0.5", "steps=10"])
    return tmp_path


def test_jobs_with_images_are_read_in_order_with_what_differs(folder: Path):
    Image.new("RGB", (1, 1)).save(folder / "job 0" / SHEET)  # the sheet of an earlier sweep is no image
    first, second = read_jobs(folder, "note.json")
    assert (first.number, first.given, first.seconds) == (0, {"eta": "0"}, 0.5)
    assert (second.number, second.given, second.seconds) == (2, {"eta": "1"}, 2.5)
    assert [p.relative_to(folder).as_posix() for p in first.images] == ["job 0/0.png", "job 0/1.png"]


def test_a_folder_without_notes_holds_no_jobs(tmp_path: Path):
    assert read_jobs(tmp_path, "note.json") == []


def test_the_table_has_a_line_for_each_image(folder: Path):
    write_table(read_jobs(folder, "note.json"), folder / "t.csv")
    with (folder / "t.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines == [
        ["job", "eta", "prompt", "seed", "net_evaluations", "seconds", "image"],
        ["0", "0", "a cat", "5", "4", "0.5", "job 0/0.png"],
        ["0", "0", "a cat", "5", "4", "0.5", "job 0/1.png"],
        ["2", "1", "a cat", "5", "4", "2.5", "job 2/0.png"],
    ]


def test_values_stand_side_by_side_and_further_images_below(folder: Path):
    write_sheet(read_jobs(folder, "note.json"), folder / "s.png")
    pixels = np.asarray(Image.open(folder / "s.png"))
    height, width, _ = pixels.shape
    row, column = height // 2, width // 2
    found = [tuple(pixels[y, x].tolist()) for y in (50, row + 50) for x in (50, column + 50)]
    assert found == [RED, BLUE, GREEN, (255, 255, 255)]  # the second job has one image
