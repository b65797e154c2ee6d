"""A sweep of ldm-sample ends in one sheet with labels and one table."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from ldm.cli.sample import main

FAST = ["prompt=pizza", "threads=1", "hydra.sweep.dir=sweep"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows():
    with open("sweep/sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_combination_is_drawn_once_and_shown(folder, capsys):
    assert main([*FAST, "-m", "scheduler=ddim,dpmpp_2m", "num_inference_steps=2,3,4"]) == 0
    found = rows()
    assert [(r["scheduler"], r["num_inference_steps"]) for r in found] == [
        (name, n) for name in ("ddim", "dpmpp_2m") for n in "234"
    ]
    assert [int(r["net_evaluations"]) for r in found] == [4, 6, 8] * 2
    assert {(r["prompt"], r["seed"]) for r in found} == {("pizza", "0")}
    assert all(float(r["seconds"]) > 0 for r in found)
    assert all((Path("sweep") / r["image"]).is_file() for r in found)
    assert capsys.readouterr().out.splitlines()[-1] == "sweep/sweep.png"
    with Image.open("sweep/sweep.png") as sheet, Image.open(Path("sweep") / found[0]["image"]) as image:
        assert sheet.width > 3 * image.width
        assert sheet.height > 2 * image.height
    assert not list(folder.glob("*.png"))


def test_several_images_of_a_job_stand_below_each_other(folder):
    two = "prompt=[pizza,rocket]"
    assert main([two, *FAST[1:], "-m", "guidance=cfg,apg", "num_inference_steps=2", "guidance_scale=2"]) == 0
    found = rows()
    assert [(r["guidance"], r["prompt"]) for r in found] == [
        (g, p) for g in ("cfg", "apg") for p in ("pizza", "rocket")
    ]
    assert "num_inference_steps" not in found[0]  # it was the same for all


def test_jobs_that_fail_are_left_out_and_the_status_is_theirs(folder, capsys):
    assert main([*FAST, "-m", "num_inference_steps=2,2000"]) == 2
    assert [r["num_inference_steps"] for r in rows()] == ["2"]
    assert "num_inference_steps" in capsys.readouterr().err


def test_an_output_for_all_jobs_is_refused(folder, capsys):
    assert main([*FAST, "output=a.png", "-m", "seed=1,2"]) == 2
    assert "hydra.sweep.dir" in capsys.readouterr().err
    assert not Path("a.png").exists()


def test_a_single_run_leaves_no_note(folder):
    assert main(["prompt=pizza", "threads=1", "num_inference_steps=2"]) == 0
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["pizza.png"]
