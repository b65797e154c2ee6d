"""The commands and the code of README.md and docs/*.md run, page by page, in miniature.

A block of `sh` or `python` runs in the order of its page, in a folder of the page's own; one with
title="FILE" is written to that file. A comment right above a block changes how it runs:

    <!-- in tests: OVERRIDES -->                   appended to each command
    <!-- in tests: ldm-train + OVERRIDES -->       appended to the commands that start so
    <!-- in tests, at full size: OVERRIDES -->     without the overrides that make every command small
    <!-- in tests: "cuda" -> "cpu"; 512 -> 64 -->  text replaced in a Python block
    <!-- not run: REASON -->                       shown only; what its commands name must exist
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from PIL import Image

from ldm.checkpoints.converter import write_checkpoint
from ldm.cli import convert, data, ema, plan, sample, train

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- (?P<how>not run|in tests|in tests, at full size): (?P<detail>[^\n]*?) -->\n)?"
    r'^```(?P<language>\w+)(?: title="(?P<file>[^"]+)")?\n(?P<text>.*?)^```$',
    re.S | re.M,
)
COMMANDS = {
    "ldm-train": train.main,
    "ldm-sample": sample.main,
    "ldm-data": data.main,
    "ldm-convert": convert.main,
    "ldm-ema": ema.main,
    "ldm-plan": plan.main,
}
SHOWN = ("make", "source", "git", "sbatch")  # never run: their targets and scripts must exist
SMALL = {
    "ldm-train": [
        "trainer.max_steps=2",
        "first_stage.max_steps=2",
        "sampling.num_inference_steps=1",
    ],
    "ldm-sample": ["num_inference_steps=2"],
    "ldm-plan": [
        "data.batch_size=16",
        "data.image_size=64",
        "trainer.accumulate_grad_batches=1",
        "backbone.channels=[32, 64, 64, 64]",
    ],
}


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    file: str | None = None
    how: str = "in tests"
    detail: str = ""

    @property
    def commands(self):
        """The words of each line, comments left out."""
        lines = [shlex.split(line, comments=True) for line in self.text.splitlines()]
        return [words for words in lines if words]

    def appended(self, words):
        """The overrides that a command gets in a test."""
        first, plus, overrides = self.detail.partition(" + ")
        own = shlex.split(overrides if plus else self.detail)
        return own if not plus or " ".join(words).startswith(first) else []

    def code(self):
        """The code with its replacements."""
        code = self.text
        for pair in filter(None, self.detail.split("; ")):
            old, new = pair.split(" -> ")
            assert old in code, f"{old!r} is not in the block"
            code = code.replace(old, new)
        return code


def blocks(page):
    """The fenced blocks of a page, in order."""
    found = (match.groupdict() for match in BLOCK.finditer(page.read_text()))
    return [Block(**{name: value for name, value in groups.items() if value}) for groups in found]


def small(words, block):
    """The arguments of a command in miniature."""
    command, *arguments = words
    replay = any(a.startswith("replay=") for a in arguments)
    arguments = [a for a in arguments if not a.startswith("checkpoint=runs/emoji/")]  # the shipped model
    if block.how == "in tests" and not replay:
        arguments += SMALL.get(command, [])
        if any(a == "checkpoint=path/to/checkpoint" for a in arguments) and command == "ldm-sample":
            arguments += [] if any(a.startswith("mode=") for a in arguments) else ["height=64", "width=64"]
        if any(a.startswith("experiment=emoji") for a in arguments):
            arguments += ["evaluation=prompts", "prompts=[pizza]", "data.batch_size=4"]
        if command == "ldm-train" and not any(a.startswith("evaluation=") for a in arguments):
            arguments += ["evaluation.retrieval.limit=1"]
    if command in ("ldm-train", "ldm-sample", "ldm-plan"):
        arguments += ["threads=1"]
    return [*arguments, *block.appended(words)]


def several_ranks(words):
    return "trainer.devices=2" in words


def names_a_file(words):
    return any(re.search(r"\.dir=|output=|folder=|/|config-dir", word) for word in words)


def run(words, block, done, python):
    """Runs one command, unless it names no file and has run on another page."""
    command, arguments = words[0], small(words, block)
    if (command, *arguments) in done and not names_a_file(words):
        return
    done.add((command, *arguments))
    if "--help" in words or several_ranks(words):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        module = f"ldm.cli.{command.removeprefix('ldm-')}"
        finished = subprocess.run(
            [python, "-m", module, *(words[1:] if "--help" in words else arguments)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        return
    assert COMMANDS[command](arguments) == 0, (words, arguments)


def check_shown(words):
    """A command that is not run names targets, scripts and overrides that exist."""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), words
    scripts = [word for word in words if word.endswith(".sbatch")]
    assert all((ROOT / script).is_file() for script in scripts), words
    if words[0] == "sbatch" or words[0] in COMMANDS:
        overrides = [w for w in words if "=" in w and not w.startswith(("-", "hydra", "seed=0,1"))]
        config = "train" if words[0] == "sbatch" else words[0].removeprefix("ldm-")
        with initialize_config_module("ldm.conf", version_base="1.3"):
            compose(config, overrides)


@pytest.fixture(scope="module")
def commands_run():
    """The commands that have run on the pages before."""
    return set()


@pytest.fixture
def folder(stable_diffusion, tmp_path, monkeypatch):
    """A working directory with what the pages name: a checkpoint, an image, a mask, prompts and photos."""
    monkeypatch.chdir(tmp_path)
    Path("path/to").mkdir(parents=True)
    write_checkpoint(stable_diffusion("sd1", 0, f8=True), Path("path/to/checkpoint"), "diffusers")
    Image.new("RGB", (64, 64), "red").save("input.png")
    Image.new("L", (64, 64), 255).save("mask.png")
    Path("prompts.txt").write_text("a cat\na dog\n")
    Path("photos/cat").mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (20, 16), (50 * i, 0, 0)).save(f"photos/cat/{i}.png")
    return tmp_path


@pytest.fixture
def table_of_photos(folder, monkeypatch):
    """photos.parquet, for the conversion of Hugging Face datasets."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
    images = [path.read_bytes() for path in sorted(Path("photos/cat").iterdir())]
    datasets.Dataset.from_dict({"image": images, "text": ["a cat"] * 4}).to_parquet("photos.parquet")


@pytest.mark.dist  # those of many-machines.md start ranks
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run_in_order(page, folder, commands_run, warm_python, request):
    names = {}
    if "photos.parquet" in page.read_text():
        request.getfixturevalue("table_of_photos")
    for block in blocks(page):
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text)
        elif block.language == "python" and block.how != "not run":
            exec(compile(block.code(), page.name, "exec"), names)
        elif block.language == "sh":
            for words in block.commands:
                if block.how == "not run" or words[0] in SHOWN:
                    check_shown(words)
                else:
                    run(words, block, commands_run, warm_python)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_that_are_not_run_have_a_reason(page):
    """And every block is of a language that the runner knows."""
    assert {block.language for block in blocks(page)} <= {"sh", "python", "yaml", "text"}
    assert all(len(block.detail) > 10 for block in blocks(page) if block.how == "not run")
    assert page.read_text().count("\n```") == 2 * len(blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_lead_to_files(page):
    targets = re.findall(r"\]\((?!http|#)([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 7000


def test_every_command_is_shown_somewhere():
    shell = [block for page in PAGES for block in blocks(page) if block.language == "sh"]
    shown = {words[0] for block in shell for words in block.commands}
    assert shown >= COMMANDS.keys()
