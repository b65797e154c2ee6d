"""The README's commands and code run, as written, on the shipped model or in miniature."""

import re
import shlex
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
SHELL = [
    line.split("  #")[0].strip()
    for language, text in BLOCKS
    if language == "sh"
    for line in text.splitlines()
    if line.strip()
]
PYTHON = [text for language, text in BLOCKS if language == "python"]
SMALL = [
    "trainer.max_steps=2",
    "first_stage.max_steps=2",
    "evaluation.retrieval=1",
    "sampling.num_inference_steps=1",
]


def main_of(command):
    from ldm.cli import data, sample, train

    return {"ldm-train": train.main, "ldm-sample": sample.main, "ldm-data": data.main}[command]


def test_there_are_commands_and_code():
    assert len(SHELL) >= 8
    assert PYTHON


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("make ")])
def test_make_targets_of_the_readme_exist(line):
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    assert re.search(rf"^{shlex.split(line)[1]}:", makefile, re.M)


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("ldm-sample")])
def test_sampling_commands_of_the_readme_run(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *arguments = shlex.split(line)
    arguments = [a for a in arguments if not a.startswith("checkpoint=runs/")]
    assert main_of(command)([*arguments, "num_inference_steps=2", "threads=1"]) == 0
    assert list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    "line", [line for line in SHELL if line.startswith("ldm-train") and "--" not in line]
)
def test_training_commands_of_the_readme_run_in_miniature(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *arguments = shlex.split(line)
    if any("emoji" in a for a in arguments):
        arguments += ["evaluation.held_out=[]", "evaluation.prompts=[pizza]", "data.batch_size=4"]
    assert main_of(command)([*arguments, *SMALL, "threads=1", f"hydra.run.dir={tmp_path}/run"]) == 0
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize("code", PYTHON)
def test_code_of_the_readme_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert list(tmp_path.glob("*.png"))
