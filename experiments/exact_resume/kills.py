"""Kills a training run with SIGKILL, again and again, and compares what it becomes with a run left alone.

python experiments/exact_resume/kills.py [--kills 100] [--seed 0] writes kills.md beside this file.
"""

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ldm.evaluation.report import read_metrics

PRELOADED = [
    "ldm.cli.train",
    "ldm.training.run",
    "ldm.evaluation.report",
    "ldm.training.callbacks.checkpoints",
]
STEPS = 24
TINY = [
    "experiment=tiny",
    "threads=1",
    "trainer.max_steps=24",
    "trainer.log_every_n_steps=5",
    "callbacks.checkpoint.every_n_steps=3",
    "callbacks.samples.every_n_steps=8",
    "callbacks.validation.every_n_steps=8",
    "callbacks.validation.draws=8",
    "callbacks.validation.strata=4",
    "callbacks.ema.every_n_images=48",
    "callbacks.ema.budget_gigabytes=0.0075",  # 4 of 6 snapshots
    "sampling.num_inference_steps=2",
    "backbone.dropout=0.1",
    "evaluation=prompts",
]
STAGE_OF_ITS_OWN = ["first_stage.max_steps=9"]
# What of metrics.csv is a function of the step; the rest are times.
EXACT = ("train/loss", "grad_norm", "lr", "val/", "loss_t/")


@dataclass(frozen=True, kw_only=True)
class Blow:
    """When a process is killed: `where` is "start", "training", "batch", "write", "commit" or "prune".

    Args:
        where: since when `amount` counts: seconds since the process began or training did; or number of the
            batch that has been computed, of the piece of a checkpoint that is written, of the checkpoint that
            is about to get its name, or of the old one that is about to go.
        amount: seconds or number.
    """

    where: str
    amount: float


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _on_call(owner: Any, name: str, number: int, after: bool = False) -> None:
    """Kills this process at the `number`-th call of a method, before it or after it."""
    original, calls = getattr(owner, name), itertools.count(1)

    def counting(*args: Any, **kwargs: Any) -> Any:
        last = next(calls) == number
        if last and not after:
            _kill()
        result = original(*args, **kwargs)
        if last:
            _kill()
        return result

    setattr(owner, name, counting)


def _arm(blow: Blow) -> None:
    from ldm.checkpoints.store import CheckpointStore, HashedFile
    from ldm.training.autoencoder import AutoencoderTraining
    from ldm.training.callbacks.checkpoints import Checkpoints
    from ldm.training.latent_diffusion import LatentDiffusion

    if blow.where == "start":
        threading.Timer(blow.amount, _kill).start()
    elif blow.where == "training":
        original = Checkpoints.on_train_start

        def start(self: Any, *args: Any) -> None:
            threading.Timer(blow.amount, _kill).start()
            original(self, *args)

        Checkpoints.on_train_start = start  # type: ignore[method-assign]
    elif blow.where == "batch":
        for module in (AutoencoderTraining, LatentDiffusion):
            _on_call(module, "training_step", int(blow.amount), after=True)
    elif blow.where == "write":
        _on_call(HashedFile, "write", int(blow.amount), after=True)
    elif blow.where == "commit":
        _on_call(CheckpointStore, "damage", 1 + int(blow.amount))  # 1: of the one gone on from
    else:
        _on_call(CheckpointStore, "_prune", int(blow.amount))


def _record(path: Path) -> None:
    """Writes down the draws of each sample: key, visit, time and noise."""
    from ldm.diffusion.process import Diffusion
    from ldm.training.latent_diffusion import LatentDiffusion

    loss, training_step = Diffusion.loss, LatentDiffusion.training_step
    drawn: list[str] = []

    def recording_loss(self: Any, net: Any, x0: Any, noise: Any, t: Any) -> Any:
        drawn[:] = [
            f"{hashlib.sha256(n.numpy().tobytes()).hexdigest()[:16]} {s.item().hex()}"
            for n, s in zip(noise, t, strict=True)
        ]
        return loss(self, net, x0, noise, t)

    def recording_step(self: Any, batch: Any, batch_idx: int) -> Any:
        result = training_step(self, batch, batch_idx)
        rows = zip(batch["key"].tolist(), batch["visit"].tolist(), batch["caption"], drawn, strict=True)
        with path.open("a") as file:
            file.writelines(json.dumps([self.global_step, *row]) + "\n" for row in rows)
        return result

    Diffusion.loss = recording_loss  # type: ignore[method-assign]
    LatentDiffusion.training_step = recording_step  # type: ignore[method-assign]


def _train(
    argv: list[str], environment: dict[str, str], blow: Blow | None, draws: Path | None, log: Path
) -> None:
    os.environ.update(environment)
    with log.open("a") as file:  # file descriptors: also what libraries and loader processes write
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if blow is not None:
        _arm(blow)
    if draws is not None:
        _record(draws)
    # loader processes as ldm-train starts them: of a fork server of their own they would outlive the run
    multiprocessing.set_start_method("fork", force=True)
    from ldm.cli import train

    status = train.main(argv)
    sys.stdout.flush()
    os._exit(status)


@dataclass
class Runner:
    """Starts `ldm-train` in processes forked from one that has imported everything.

    Args:
        folder: for logs.
    """

    folder: Path
    context: Any = field(init=False)

    def __post_init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        self.log = self.folder / "train.log"

    def start(
        self, argv: list[str], blow: Blow | None = None, draws: Path | None = None, **environment: str
    ) -> Any:
        """A process that trains, to be killed by a blow."""
        environment = {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"} | environment
        process = self.context.Process(target=_train, args=(argv, environment, blow, draws, self.log))
        process.start()
        return process

    def finish(self, argv: list[str], blow: Blow | None = None, draws: Path | None = None) -> bool:
        """Trains until the end or a blow. Returns: whether the blow fell."""
        process = self.start(argv, blow, draws)
        process.join()
        if process.exitcode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"ldm-train ended with {process.exitcode}: {self.log.read_text()[-3000:]}")
        return process.exitcode != 0

    def ranks(
        self, argv: list[str], world: int, draws: Path | None, blow: Blow | None = None, trainer: str = "ddp"
    ) -> bool:
        """Trains on several ranks; a blow falls on all. Returns: whether it fell."""
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        group = world > 1 or trainer == "fsdp"
        several = (
            [f"trainer={trainer}", "trainer.accelerator=cpu", f"trainer.devices={world}"] if group else []
        )
        processes = []
        for rank in range(world):
            there = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": world,
                "LOCAL_WORLD_SIZE": world,
                "GROUP_RANK": 0,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "TORCHELASTIC_RUN_ID": "test",
            }
            environment = {k: str(v) for k, v in there.items()} if group else {}
            file = None if draws is None else draws.with_suffix(f".{rank}.jsonl")
            processes.append(self.start([*argv, *several], blow, file, **environment))
        while all(process.exitcode is None for process in processes):
            time.sleep(0.02)
        ended = next(process for process in processes if process.exitcode is not None)
        if ended.exitcode != 0:
            for process in processes:
                process.kill()
        for process in processes:
            process.join()
        codes = {process.exitcode for process in processes}
        if -signal.SIGKILL in codes:
            codes.discard(1)  # a rank that has seen another one die
        if not codes <= {0, -signal.SIGKILL}:
            raise RuntimeError(f"ranks ended with {codes}: {self.log.read_text()[-3000:]}")
        return codes != {0}


def final_state(run: Path) -> dict[str, Any]:
    """All that the last checkpoint of a run's last stage holds."""
    path = run / "checkpoints" / f"step_{STEPS:08d}" / "state.ckpt"
    return torch.load(path, weights_only=True)


def differences(a: Path, b: Path) -> dict[str, int]:
    """How many weights, optimizer states, logged numbers, pictures and snapshots of two runs differ."""
    ours, theirs = final_state(a), final_state(b)
    found = {}
    for name, part in (("parameters", "nets."), ("EMA", ("ema.", "powers."))):
        found[name] = _unequal(
            *({k: v for k, v in s["state_dict"].items() if k.startswith(part)} for s in (ours, theirs))
        )
    found["optimizer"] = _unequal(*({"o": s["optimizer_states"]} for s in (ours, theirs)))
    for stage in (".", "autoencoder"):
        ours, theirs = (_exact(run / stage / "metrics.csv") for run in (a, b))
        found["logged numbers"] = found.get("logged numbers", 0) + _unequal(ours, theirs)
    pictures = [{p.name: p.read_bytes() for p in (run / "samples").glob("*.png")} for run in (a, b)]
    found["pictures"] = _unequal(*pictures)
    snapshots = [{p.name: p.read_bytes() for p in (run / "ema").iterdir()} for run in (a, b)]
    found["EMA snapshots"] = _unequal(*snapshots)
    found["model"] = _unequal(*(_model(run / "model.safetensors") for run in (a, b)))
    return found


def _model(path: Path) -> dict[str, Any]:
    """Tensors and metadata of a model file; the order of its header's metadata is left to chance."""
    with safe_open(path, "pt") as file:
        return {"metadata": file.metadata(), **{name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118


def _exact(path: Path) -> dict[str, Any]:
    """Numbers of metrics.csv, with their steps, that are functions of the step."""
    if not path.is_file():
        return {}
    return {name: rows for name, rows in read_metrics(path).items() if name.startswith(EXACT)}


def _unequal(a: Any, b: Any) -> int:
    """Leaves that differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return len(a.keys() ^ b.keys()) + sum(_unequal(a[k], b[k]) for k in a.keys() & b.keys())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return abs(len(a) - len(b)) + sum(map(_unequal, a, b))
    if isinstance(a, torch.Tensor):
        return int(not (a.dtype == b.dtype and torch.equal(a, b)))
    return int(a != b)


def blows(count: int, seed: int, accumulate: int = 1) -> list[Blow]:
    """Blows of all kinds, at random, with every kind among the first six."""
    rng = random.Random(seed)
    kinds = ["prune", "training", "write", "batch", "commit", "start"]
    result = [Blow(where="prune", amount=1)]  # the first stage has just written its first checkpoint
    for i in range(1, count):
        where = kinds[i] if i < len(kinds) else rng.choice(["training"] * 4 + kinds)
        amount = {
            "start": lambda: rng.uniform(0.0, 3.0),
            "training": lambda: rng.uniform(0.0, 0.6),
            "batch": lambda: rng.randint(1, 7 * accumulate),
            "write": lambda: rng.randint(1, 400),
            "commit": lambda: rng.randint(0, 2),
            "prune": lambda: rng.randint(1, 2),
        }[where]()
        result.append(Blow(where=where, amount=amount))
    return result


def endure(
    runner: Runner, argv: list[str], run: Path, wanted: int, seed: int, accumulate: int = 1
) -> tuple[dict[str, int], list[Path]]:
    """Trains under blows, going on after each; a run that gets to its end before is followed by another.

    Args:
        runner: of the processes.
        argv: overrides without the run directory.
        run: the first run directory; others get a number.
        wanted: blows that have to fall.
        seed: of the blows.
        accumulate: batches of a step.

    Returns: how many blows fell, by kind, and the runs, all at their end.
    """
    fallen: dict[str, int] = {}
    runs = [run]
    for blow in itertools.cycle(blows(10 * wanted, seed, accumulate)):
        if sum(fallen.values()) == wanted:
            break
        if runner.finish([*argv, f"hydra.run.dir={runs[-1]}"], blow):
            fallen[blow.where] = fallen.get(blow.where, 0) + 1
        else:
            runs.append(run.with_name(f"{run.name}-{len(runs)}"))
    runner.finish([*argv, f"hydra.run.dir={runs[-1]}"])
    return fallen, runs


def main() -> None:
    """Writes the table of kills and differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runner = Runner(folder)
        cases = {
            "workers 0": [],
            "workers 2": ["data.num_workers=2"],
            "4 accumulated": ["trainer.accumulate_grad_batches=4"],
        }
        for i, (case, more) in enumerate(cases.items()):
            argv = [*TINY, *STAGE_OF_ITS_OWN, *more]
            alone, killed = folder / f"alone{i}", folder / f"killed{i}"
            runner.finish([*argv, f"hydra.run.dir={alone}"])
            count = asked.kills // len(cases) + (i < asked.kills % len(cases))
            accumulate = 4 if "accumulated" in case else 1
            fallen, runs = endure(runner, argv, killed, count, asked.seed + i, accumulate)
            each = [differences(alone, run) for run in runs]
            found = {name: sum(one[name] for one in each) for name in each[0]}
            rows.append((case, fallen, found))
            print(case, fallen, found, flush=True)
    kinds = sorted({kind for _, fallen, _ in rows for kind in fallen})
    names = list(rows[0][2])
    lines = [
        "| run | kills | " + " | ".join(kinds) + " | " + " | ".join(f"{n} that differ" for n in names) + " |"
    ]
    lines.append("|---" * (2 + len(kinds) + len(names)) + "|")
    for case, fallen, found in rows:
        cells = [case, sum(fallen.values()), *(fallen.get(k, 0) for k in kinds), *found.values()]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    (Path(__file__).parent / "kills.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
