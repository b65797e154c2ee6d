"""Jobs on whatever SLURM is on PATH; its nodes have to see this checkout, its Python and pytest's folder.

LDM_TEST_CLUSTER is the path of a tool that takes nodes away: `TOOL crash|boot|cut|mend NODE`.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from ldm.checkpoints import save_model
from ldm.evaluation.report import read_metrics
from ldm.utils.construct import construct

ROOT = Path(__file__).parents[2]
STEPS = 12
TINY = [
    "experiment=tiny",
    "threads=1",
    f"trainer.max_steps={STEPS}",
    "trainer.log_every_n_steps=1",
    "trainer.strategy.timeout=30.0",
    "callbacks.watchdog.silence=10.0",
    "callbacks.checkpoint.every_n_steps=3",
    "callbacks.samples.every_n_steps=6",
    "callbacks.validation.every_n_steps=6",
    "callbacks.validation.draws=8",
    "callbacks.validation.strata=4",
    "sampling.num_inference_steps=2",
    "evaluation=prompts",
    "backbone.channels=[8]",
    "backbone.attention=[cross]",
]


def ask(*command: str) -> str:
    """What a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


def wait(what: str, holds: Callable[[], object], seconds: float) -> None:
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.5)


@dataclass
class Job:
    """A run of train_cpu.sbatch: what SLURM and the run say of it.

    Args:
        number: its job id.
        folder: of its log, its run directory and the notes of its ranks.
    """

    number: str
    folder: Path
    log: Path = field(init=False)
    run: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder / f"ldm-cpu-{self.number}.log"
        self.run = self.folder / "runs" / "tiny" / self.number

    def state(self) -> str:
        """RUNNING, PENDING, COMPLETED ..."""
        return re.search(r"JobState=(\w+)", ask("scontrol", "--oneliner", "show", "job", self.number))[1]

    def restarts(self) -> int:
        """How often it was put into the queue again."""
        return int(re.search(r"Restarts=(\d+)", ask("scontrol", "--oneliner", "show", "job", self.number))[1])

    def wait(self, state: str, seconds: float) -> None:
        """Waits for a state of the job."""
        try:
            wait(f"{state} of job {self.number}", lambda: self.state() == state, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}, but {self.state()}: {self.log.read_text()[-5000:]}") from None

    def place(self, rank: int) -> tuple[int, str, str]:
        """Step, host and process of a rank; step -1 before training."""
        path = self.folder / str(rank)
        step, host, process = path.read_text().split() if path.exists() else ("-1", "", "")
        return int(step), host, process

    def wait_for_step(self, step: int, ranks: tuple[int, ...] = (0, 1), seconds: float = 120) -> None:
        """Waits until the ranks are at a step, and tells why if they do not get there."""
        try:
            wait(f"step {step}", lambda: all(self.place(rank)[0] == step for rank in ranks), seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}, {self.state()}: {self.log.read_text()[-5000:]}") from None

    def go(self, step: int) -> None:
        """Lets the ranks go on that wait at a step."""
        (self.folder / f"go_{step}").touch()

    def wait_for_words(self, words: str, seconds: float) -> None:
        """Waits until the log has words in it."""
        wait(words, lambda: words in self.log.read_text(), seconds)

    def losses(self) -> dict[str, list[tuple[float, float]]]:
        """The curves that are functions of the step."""
        curves = read_metrics(self.run / "metrics.csv")
        return {name: curves[name] for name in ("train/loss", "grad_norm", "val/loss")}


@pytest.fixture(scope="session")
def cluster() -> None:
    """Skips where no SLURM answers."""
    if shutil.which("sbatch") is None:
        pytest.skip("no sbatch on PATH")
    told = subprocess.run(
        ["sinfo", "-h", "-o", "%P"], capture_output=True, text=True, check=False, timeout=60
    )
    if told.returncode != 0:
        pytest.skip(f"SLURM does not answer: {told.stderr.strip()}")


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A first stage that need not be trained."""
    path: Path = tmp_path_factory.mktemp("slurm") / "autoencoder.safetensors"
    node = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "autoencoder" / "tiny.yaml"))
    assert isinstance(node, dict)
    node.pop("_partial_")
    torch.manual_seed(0)
    save_model(path, {"autoencoder": construct(node, "autoencoder")}, {"autoencoder": node})
    return path


@pytest.fixture(scope="session")
def submit(
    cluster: None, autoencoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Job]]:
    """Submits train_cpu.sbatch: (options of sbatch, overrides, ranks that wait at a step)."""

    def start(options: list[str], overrides: list[str], holds: str = "{}") -> Job:
        folder = Path(tmp_path_factory.mktemp("job"))
        own = [f"--config-dir={Path(__file__).parent}/conf"]
        own.append(f"+callbacks.hold={{_target_:hold.Hold,folder:{folder},steps:{holds}}}")
        script = str(ROOT / "experiments" / "sd_scale" / "train_cpu.sbatch")
        environment = {**os.environ, "LDM_RUNS": f"{folder}/runs", "OMP_NUM_THREADS": "1"}
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        argv = ["sbatch", "--parsable", *options, script, *own, *TINY]
        argv += [f"first_stage.checkpoint={autoencoder}", *overrides]
        number = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=True)
        started.append(number.stdout.strip())
        return Job(started[-1], folder)

    started: list[str] = []
    yield start
    subprocess.run(["scancel", *started], check=False, capture_output=True)
