"""The README's commands and code run, as written, on the shipped model or in miniature."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from PIL import Image

from ldm.checkpoints.converter import write_checkpoint

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


CHECKPOINT = "path/to/checkpoint"
RUN = "runs/mine"
ELSEWHERE = ("--", RUN, "trainer=", "debug=")  # tested below


def main_of(command):
    from ldm.cli import convert, data, ema, plan, sample, train

    mains = {
        "train": train.main,
        "sample": sample.main,
        "data": data.main,
        "convert": convert.main,
        "ema": ema.main,
        "plan": plan.main,
    }
    return mains[command.removeprefix("ldm-")]


@pytest.fixture
def with_checkpoint(stable_diffusion, tmp_path, monkeypatch):
    """A working directory with a small checkpoint, an image, a mask and a file of prompts."""
    monkeypatch.chdir(tmp_path)
    Path(CHECKPOINT).parent.mkdir(parents=True)
    write_checkpoint(stable_diffusion("sd1", 0, f8=True), Path(CHECKPOINT), "diffusers")
    Image.new("RGB", (64, 64), "red").save("input.png")
    Image.new("L", (64, 64), 255).save("mask.png")
    Path("prompts.txt").write_text("a cat\na dog\n")
    return tmp_path


def test_there_are_commands_and_code():
    assert len(SHELL) >= 8
    assert PYTHON


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("make ")])
def test_make_targets_of_the_readme_exist(line):
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    assert re.search(rf"^{shlex.split(line)[1]}:", makefile, re.M)


@pytest.mark.parametrize(
    "line",
    [
        line
        for line in SHELL
        if line.startswith("ldm-sample") and not any(word in line for word in (CHECKPOINT, "replay", RUN))
    ],
)
def test_sampling_commands_of_the_readme_run(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *arguments = shlex.split(line)
    arguments = [a for a in arguments if not a.startswith("checkpoint=runs/")]
    assert main_of(command)([*arguments, "num_inference_steps=2", "threads=1"]) == 0
    assert list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    "line",
    [
        line
        for line in SHELL
        if line.startswith("ldm-train")
        and not any(word in line for word in ("--", RUN, "trainer=", "debug="))
    ],
)
def test_training_commands_of_the_readme_run_in_miniature(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *arguments = shlex.split(line)
    if any("emoji" in a for a in arguments):
        arguments += ["evaluation.held_out=[]", "evaluation.prompts=[pizza]", "data.batch_size=4"]
    assert main_of(command)([*arguments, *SMALL, "threads=1", f"hydra.run.dir={tmp_path}/run"]) == 0
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_commands_on_a_checkpoint_run_in_order(with_checkpoint):
    """As written, but for fewer steps and a smaller image."""
    lines = [line for line in SHELL if line.startswith(("ldm-sample", "ldm-convert")) and RUN not in line]
    lines = lines[next(i for i, line in enumerate(lines) if CHECKPOINT in line) :]
    assert len(lines) == 8
    for line in lines:
        command, *arguments = shlex.split(line.replace("num_inference_steps=50", ""))
        if command == "ldm-sample":
            small = [] if "mode=" in line or "replay" in line else ["height=64", "width=64"]
            arguments += [*small, *([] if "replay" in line else ["num_inference_steps=2"]), "threads=1"]
        assert main_of(command)(arguments) == 0, line
    sunset, again = Path("outputs/sunset.png"), Path("again.png")
    assert sunset.read_bytes() == again.read_bytes()
    assert len(list(Path("outputs/many").iterdir())) == 2
    assert Path("single.safetensors").is_file()


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_the_commands_on_a_run_run_in_order(tmp_path, monkeypatch):
    """As written, but for a shorter first stage."""
    monkeypatch.chdir(tmp_path)
    lines = [line for line in SHELL if RUN in line]
    assert len(lines) == 5
    for line in lines:
        command, *arguments = shlex.split(line)
        small = ["first_stage.max_steps=2", "evaluation.retrieval=1"] if command == "ldm-train" else []
        threads = ["threads=1"] if command in ("ldm-train", "ldm-sample") else []
        assert main_of(command)([*arguments, *small, *threads]) == 0, line
    assert list(Path("outputs").glob("*.png"))
    assert Path("mine.safetensors").is_file()
    assert Path("wide.safetensors").is_file()
    assert Path("runs/branch/checkpoints/step_00000120").is_dir()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_commands_on_data_run_in_order(with_checkpoint, monkeypatch):
    """As written, but on a few small images and measured for a moment."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(with_checkpoint / "cache"))
    Path("photos/cat").mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (20, 16), (50 * i, 0, 0)).save(f"photos/cat/{i}.png")
    images = [path.read_bytes() for path in sorted(Path("photos/cat").iterdir())]
    datasets.Dataset.from_dict({"image": images, "text": ["a cat"] * 4}).to_parquet("photos.parquet")
    lines = [line for line in SHELL if line.startswith("ldm-data")]
    assert len(lines) == 5
    for line in lines:
        command, *arguments = shlex.split(line)
        small = ["data.batch_size=2", "data.image_size=16", "seconds=0.01"] if "bench" in line else []
        small = ["data.num_workers=0", "data.image_size=16"] if "precompute" in line else small
        assert main_of(command)([*arguments, *small]) == 0, line
    assert list(Path("shards").glob("*.tar"))
    assert list(Path("hf").glob("*.tar"))
    assert Path("latents/latents.json").is_file()


def test_plans_and_dry_runs_leave_nothing_behind(tmp_path, monkeypatch, capsys):
    """As written, but for a small net."""
    monkeypatch.chdir(tmp_path)
    lines = [line for line in SHELL if line.startswith("ldm-plan") or "debug=dry" in line]
    assert len(lines) == 2
    for line in lines:
        command, *arguments = shlex.split(line.replace("sd_scale", "tiny"))
        small = ["data.batch_size=16", "first_stage.data.batch_size=16"] if command == "ldm-plan" else []
        assert main_of(command)([*arguments, *small, "threads=1"]) == 0, line
    said = capsys.readouterr().out
    assert "fastest that fits" in said
    assert "a dry run, nothing is written" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.dist
@pytest.mark.parametrize(
    "line", [line for line in SHELL if re.search("trainer=(ddp|fsdp)", line) and "--multirun" not in line]
)
def test_commands_on_several_ranks_run(line, tmp_path):
    """As written, but for two steps."""
    _, *arguments = shlex.split(line)
    more = [*SMALL, "threads=1", f"hydra.run.dir={tmp_path}/run"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "ldm.cli.train", *arguments, *more],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize(
    "line", [line for line in SHELL if line.startswith("sbatch") or "hydra/launcher" in line]
)
def test_jobs_of_the_readme_name_what_there_is(line):
    """Scripts that are there, overrides that fit; tests/slurm submits such jobs."""
    words = shlex.split(line)
    scripts = [word for word in words if word.endswith(".sbatch")]
    assert all((Path(__file__).parents[1] / script).is_file() for script in scripts)
    assert len(scripts) == (words[0] == "sbatch")
    with initialize_config_module("ldm.conf", version_base="1.3"):
        compose("train", [w for w in words if "=" in w and not w.startswith(("-", "hydra", "seed="))])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("code", [text for text in PYTHON if CHECKPOINT in text])
def test_code_on_a_checkpoint_runs(code, with_checkpoint):
    """As written, but on the CPU, with fewer steps and smaller images."""
    small = {
        '"cuda"': '"cpu"',
        '"fp16"': '"fp32"',
        "=50": "=2",
        "512": "64",
        'wearing a hat", ': 'on", height=64, width=64, ',
    }
    for ours, replacement in small.items():
        assert ours in code
        code = code.replace(ours, replacement)
    exec(compile(code, "README.md", "exec"), {})
    with Image.open("result.png") as result:
        assert result.size == (64, 64)


@pytest.mark.parametrize("code", [text for text in PYTHON if CHECKPOINT not in text])
def test_code_of_the_readme_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert list(tmp_path.glob("*.png"))


def test_the_table_of_samplers_is_made_from_the_configs():
    path = Path(__file__).parents[1] / "experiments" / "sampler_certificate" / "table.py"
    spec = importlib.util.spec_from_file_location("table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.written(README) == README
