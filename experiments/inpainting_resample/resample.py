"""Covariance of known and unknown pixels that inpainting keeps with RePaint's resampling, exactly."""

import argparse
from pathlib import Path

import torch

from ldm.diffusion.resampling import Resampling
from ldm.diffusion.schedule import cosine, scaled_linear
from ldm.diffusion.timesteps import times_of, trailing
from ldm.evaluation.inpainting_oracle import inpainted
from ldm.schedulers import DDIM, DDPM, DPMSolverPP

COLUMNS = ("schedule", "solver", "steps", "`resample`", "`jump_length`", "NFE")
COLUMNS += ("covariance", "variance", "variance, fresh noise")
HEAD = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
SOLVERS = {"ddim": DDIM(), "ddpm": DDPM(), "dpmpp_2m": DPMSolverPP()}
CASES = [
    ("cosine", "ddim", 25, [(1, 1), (2, 1), (5, 1), (10, 1), (20, 1), (5, 5), (10, 5), (10, 10)]),
    ("cosine", "ddpm", 25, [(1, 1), (2, 1), (5, 1), (10, 1), (10, 5)]),
    ("cosine", "dpmpp_2m", 25, [(1, 1), (5, 1), (5, 5), (10, 5)]),
    ("scaled_linear", "ddim", 25, [(1, 1), (5, 1), (10, 1), (10, 5)]),
    ("cosine", "ddim", 50, [(1, 1), (5, 1), (10, 5)]),
    ("cosine", "ddim", 120, [(1, 1)]),
    ("cosine", "ddim", 240, [(1, 1)]),
]


def rows(correlation: float) -> str:
    """The rows of the table."""
    schedules, found = {"cosine": cosine(), "scaled_linear": scaled_linear()}, []
    for schedule, solver, steps, ways in CASES:
        grid = times_of(trailing, schedules[schedule], steps)
        for count, jump in ways:
            kept, fresh = (
                inpainted(
                    SOLVERS[solver],
                    schedules[schedule],
                    grid,
                    Resampling(count=count, jump=jump),
                    correlation,
                    fresh,
                )
                for fresh in (False, True)
            )
            cells = (schedule, f"`{solver}`", steps, count, jump, kept.evaluations)
            numbers = (f"{100 * v:.0f}%" for v in (kept.kept, kept.variance, fresh.variance))
            found.append("| " + " | ".join(str(cell) for cell in (*cells, *numbers)) + " |")
    return "\n".join(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--correlation", type=float, default=0.8)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("table.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.write_text(HEAD + rows(arguments.correlation) + "\n")
