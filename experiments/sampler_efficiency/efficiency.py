"""Error of every solver and grid after few evaluations of a trained net: efficiency.md, .csv and .png.

python experiments/sampler_efficiency/efficiency.py [--resume] [folder]

About 30 minutes on one core. --resume keeps the rows of efficiency.csv in the folder and measures the solvers
that have none: to measure a solver again, delete its rows.

The shipped emoji model with its own guidance. The error is the root mean square of the latents' difference
to a run of 1000 steps from the same noise, in units of their standard deviation. Runs without noise are
compared with one fine solution of the ODE, a stochastic solver with itself on the same Brownian path.
"""

import csv
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm import Text2ImagePipeline
from ldm.utils.options import options

HERE = Path(__file__).parent
PROMPTS = ["red heart", "pizza", "penguin", "sunflower on a blue background"]
STEPS = (5, 10, 20, 40)
GRIDS = ("trailing", "leading", "linspace", "karras", "exponential", "log_snr", "beta")
LEFT_OUT = ("lcm", "tcd", "restart")  # for distilled models; of 18 evaluations in one step
REFERENCE = 1000
Row = dict[str, Any]


class Study:
    """Runs of one model from one noise."""

    def __init__(self) -> None:
        self.pipeline = Text2ImagePipeline.from_pretrained()
        self.schedulers, self.grids = options("scheduler"), options("timesteps")
        self.references: dict[tuple[str, str], Tensor] = {}

    def run(self, scheduler: str, grid: str, steps: int) -> tuple[Tensor, int]:
        """Latents and evaluations for an image."""
        latents = self.pipeline(
            PROMPTS,
            scheduler=self.schedulers[scheduler],
            timesteps=self.grids[grid],
            num_inference_steps=steps,
            noise="brownian",
            output="latent",
            seed=0,
        )
        return latents, self.pipeline.net_evaluations[0]

    def reference(self, scheduler: str, grid: str) -> Tensor:
        """The run of 1000 steps that a solver on a grid is compared with.

        Grids end at different levels (log_snr at t = 0, the others at clean data).
        """
        own = scheduler if self.schedulers[scheduler].stochastic else "dpmpp_2m"
        end = "log_snr" if grid == "log_snr" else "trailing"
        if (own, end) not in self.references:
            self.references[own, end] = self.run(own, end, REFERENCE)[0]
        return self.references[own, end]

    def row(self, scheduler: str, grid: str, steps: int) -> Row:
        """One measurement."""
        latents, evaluations = self.run(scheduler, grid, steps)
        wanted = self.reference(scheduler, grid)
        error = float((latents - wanted).square().mean().sqrt() / wanted.std())
        return {"scheduler": scheduler, "grid": grid, "steps": steps, "nfe": evaluations, "error": error}


def best(rows: list[Row], budget: int) -> list[Row]:
    """The most exact run of each solver within a budget of evaluations."""
    found: dict[str, Row] = {}
    for row in rows:
        if row["nfe"] <= budget and row["error"] < found.get(row["scheduler"], {"error": 1e9})["error"]:
            found[row["scheduler"]] = row
    return sorted(found.values(), key=lambda row: row["error"])


def worse(rows: list[Row], stochastic: dict[str, bool], factor: float = 1.2) -> str:
    """Rows of a table: where a solver's error exceeds DDIM's (ancestral, if it draws noise) by a factor."""
    at = {(row["scheduler"], row["grid"], row["steps"]): row["error"] for row in rows}
    lines = []
    for name in stochastic:
        other = "euler_a" if stochastic[name] else "ddim"
        for grid in GRIDS:
            ratios = {n: at[name, grid, n] / at[other, grid, n] for n in STEPS}
            if found := {n: ratio for n, ratio in ratios.items() if ratio > factor}:
                cell = ", ".join(f"{n}: {ratio:.1f}" for n, ratio in found.items())
                lines.append(f"| `{name}` | `{grid}` | {cell} |")
    return "\n".join(lines)


def plot(rows: list[Row], stochastic: dict[str, bool], path: Path) -> None:
    """Error against evaluations, the best grid of each solver at each count."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, both = pyplot.subplots(1, 2, figsize=(13, 6), layout="constrained")
    for axes, noisy in zip(both, (False, True), strict=True):
        for i, name in enumerate(n for n in stochastic if stochastic[n] == noisy):
            points: dict[int, float] = {}
            for row in rows:
                if row["scheduler"] == name:
                    points[row["nfe"]] = min(row["error"], points.get(row["nfe"], 1e9))
            style = {"marker": "osD^v<>pPX*hd+x"[i % 15], "linestyle": ("-", "--")[i // 8]}
            axes.loglog(*zip(*sorted(points.items()), strict=True), label=name, **style)
        axes.set_title("with noise, one Brownian path" if noisy else "without noise")
        axes.set_xlabel("evaluations of the net for an image")
        axes.grid(alpha=0.3, which="both")
        axes.legend(ncols=2, fontsize="small")
    both[0].set_ylabel("error, best grid")
    figure.savefig(path, dpi=100)


def lines_of(rows: list[Row]) -> str:
    """Rows of the table."""
    cells = ((r["scheduler"], r["grid"], r["steps"], r["nfe"], r["error"]) for r in rows)
    return "\n".join(f"| `{s}` | `{g}` | {n} | {nfe} | {e:.3f} |" for s, g, n, nfe, e in cells)


def kept(path: Path) -> list[Row]:
    """The measurements in a file; none if there is no file."""
    if not path.is_file():
        return []
    kinds = {"scheduler": str, "grid": str, "steps": int, "nfe": int, "error": float}
    with path.open(newline="") as file:
        return [{key: kinds[key](value) for key, value in row.items()} for row in csv.DictReader(file)]


def write(rows: list[Row], path: Path) -> None:
    """Writes the measurements, in the order of the solvers' names."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: str(row["scheduler"])))


def main() -> None:
    """Runs the study and writes its results."""
    given = [argument for argument in sys.argv[1:] if argument != "--resume"]
    folder, start = Path(given[0]) if given else HERE, time.perf_counter()
    study, path = Study(), folder / "efficiency.csv"
    names = [name for name in study.schedulers if name not in LEFT_OUT]
    rows = kept(path) if "--resume" in sys.argv else []
    done = {row["scheduler"] for row in rows}
    for name in (name for name in names if name not in done):
        rows += [study.row(name, grid, n) for grid in GRIDS for n in STEPS]
        write(rows, path)
        print(f"{name} {time.perf_counter() - start:.0f} s", flush=True)
    head = "| scheduler | grid | steps | NFE | error |\n|---|---|---|---|---|\n"
    tables = {f"best_{n}": head + lines_of(best(rows, n)) for n in (20, 40, 80)}
    stochastic = {name: study.schedulers[name].stochastic for name in names}
    plot(rows, stochastic, folder / "efficiency.png")
    tables["worse"] = worse(rows, stochastic)
    text = (HERE / "template.md").read_text().format(torch=torch.__version__, **tables)
    (folder / "efficiency.md").write_text(text)


if __name__ == "__main__":
    main()
