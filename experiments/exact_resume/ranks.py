"""Changes ranks and accumulated batches at each restart and compares draws and losses with one rank's run.

python experiments/exact_resume/ranks.py writes ranks.md beside this file.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from kills import TINY, Blow, Runner

from ldm.evaluation.report import read_metrics

SHAPES = [(1, 4), (2, 2), (4, 1), (2, 2)]  # ranks, accumulated batches
EVERY = 7  # steps until all ranks are killed


def change(runner: Runner, folder: Path, first_stage: Path, shapes: list[tuple[int, int]]) -> None:
    """Trains in folder/run with one of the shapes after the other, each killed but the last.

    Args:
        runner: of the processes.
        folder: for the run and what its processes drew.
        first_stage: file of the autoencoder.
        shapes: ranks and accumulated batches of each start.
    """
    folder.mkdir()
    for i, (world, accumulate) in enumerate(shapes):
        last = i == len(shapes) - 1
        blow = None if last else Blow(where="batch", amount=EVERY * accumulate)
        argv = [*TINY, f"first_stage.checkpoint={first_stage}", f"hydra.run.dir={folder}/run"]
        argv.append(f"trainer.accumulate_grad_batches={accumulate}")
        if runner.ranks(argv, world, folder / f"draws{i}.jsonl", blow) == last:
            raise RuntimeError(f"{world} ranks were to be {'left alone' if last else 'killed'}")


def drawn(folder: Path) -> dict[tuple[int, int], Any]:
    """(step, key) -> visit, caption, noise and time of each sample.

    Raises: ValueError if a step that was trained twice had other draws the second time.
    """
    found: dict[tuple[int, int], Any] = {}
    for path in sorted(folder.glob("draws*.jsonl")):
        for line in path.read_text().splitlines():
            if not line.endswith("]"):  # the last one of a killed process
                continue
            step, key, *rest = json.loads(line)
            if found.setdefault((step, key), rest) != rest:
                raise ValueError(f"step {step} drew {found[step, key]} and then {rest} for sample {key}")
    return found


def losses(folder: Path) -> list[tuple[float, float]]:
    """The logged losses, with their steps."""
    return read_metrics(folder / "run" / "metrics.csv")["train/loss"]


def main() -> None:
    """Writes the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runner = Runner(folder)
        runner.finish([*TINY, "first_stage.max_steps=2", f"hydra.run.dir={folder}/first"])
        first = folder / "first" / "autoencoder.safetensors"
        lines = [
            "| ranks x accumulated batches | draws | that differ | largest relative difference of a loss |"
        ]
        lines.append("|---|---|---|---|")
        for i, shapes in enumerate(([(1, 4)], [(2, 2)], [(4, 1)], SHAPES)):
            there = folder / f"run{i}"
            label = ", then ".join(f"{world} x {accumulate}" for world, accumulate in shapes)
            change(runner, there, first, shapes)
            ours, curve = drawn(there), losses(there)
            if len(lines) == 2:
                expected, wanted = ours, curve
            differ = len(ours.keys() ^ expected.keys()) + sum(
                ours[k] != expected[k] for k in ours.keys() & expected.keys()
            )
            worst = max(abs(a / b - 1) for (_, a), (_, b) in zip(curve, wanted, strict=True))
            lines.append(f"| {label} | {len(ours)} | {differ} | {worst:.1e} |")
            print(lines[-1], flush=True)
    (Path(__file__).parent / "ranks.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
