"""Certifies every solver on every grid against exact solutions, beside diffusers: certificate.md and plots.

python experiments/sampler_certificate/certify.py [folder]
"""

import math
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ldm.cli.groups import options
from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.timesteps import times_of
from ldm.evaluation.oracle import Mixture, flow_error, gaussian, level_error, measured_order, sampled_moments

HERE = Path(__file__).parent
SCHEDULE, MIXTURE, GAUSSIAN = scaled_linear(), Mixture(), gaussian(0.5, 0.6)
SOLVERS, GRIDS = options("scheduler"), options("timesteps")
DISTILLED = ("lcm", "tcd")
for name in ("explicit", "sd2"):  # a list of one's own; the same as sd15
    del GRIDS[name]
COUNTS = (*range(1, 21), 25, 30, 50, 100, 250, 500, 999, 1000)
PEER_COUNTS, STEPS = (10, 30, 50), 40
COMPARED = (10, 20, STEPS)
NAN = math.nan
Row = dict[str, Any]


def transitions(grid: str, counts: tuple[int, ...] = COUNTS) -> tuple[torch.Tensor, torch.Tensor]:
    """All different (t, s) of some step counts."""
    grids = [times_of(GRIDS[grid], SCHEDULE, n) for n in counts]
    pairs = torch.cat([torch.stack([g[:-1], g[1:]], 1) for g in grids])
    t, s = torch.unique(pairs, dim=0).unbind(1)
    return t, s


def smooth(n: int) -> torch.Tensor:
    """Equal steps in the log-SNR between two inner levels."""
    ends = SCHEDULE.log_snr(torch.tensor([900.0, 20.0], dtype=torch.float64))
    return SCHEDULE.time(torch.lerp(ends[0], ends[1], torch.linspace(0, 1, n + 1, dtype=torch.float64)))


def attempt(function: Callable[[], float]) -> float | str:
    """The value, or the name of what was raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function()
    except Exception as error:  # a peer's crash is a result
        return type(error).__name__


def ours(solver: str, grid: str) -> Row:
    """Our measurements of a row."""
    rule = SOLVERS[solver]

    def moments(n: int) -> Any:
        return sampled_moments(rule, SCHEDULE, GAUSSIAN, times_of(GRIDS[grid], SCHEDULE, n))

    def error(n: int) -> float:
        if rule.stochastic:
            return float(moments(n).error)
        return flow_error(rule, SCHEDULE, MIXTURE, times_of(GRIDS[grid], SCHEDULE, n))

    found = moments(STEPS)
    return {
        "level": level_error(rule, SCHEDULE, *transitions(grid)),
        "moments": found.error,
        "order": measured_order(error, STEPS),
        "nfe": found.evaluations / STEPS,
    }


def theirs(solver: str, grid: str) -> Row:
    """diffusers' measurements of a row; empty where it has no such solver or grid."""
    import peers

    if solver not in peers.SOLVERS or grid not in peers.GRIDS or peers.make(solver, grid, 10) is None:
        return {}
    kind = peers.moment_error if SOLVERS[solver].stochastic else peers.flow_error
    data = GAUSSIAN if SOLVERS[solver].stochastic else MIXTURE
    compared = {n: beside(solver, grid, n) for n in COMPARED}
    return {
        "level": attempt(lambda: max(peers.level_error(solver, grid, n, SCHEDULE) for n in PEER_COUNTS)),
        "moments": compared[STEPS][1],
        "order": attempt(lambda: measured_order(lambda n: kind(solver, grid, n, SCHEDULE, data), STEPS)),
        "compared": compared,
    }


def beside(solver: str, grid: str, steps: int) -> tuple[float, float | str, float | str | None]:
    """Moment errors of ours, of diffusers, and of ours on the levels of diffusers."""
    import peers

    def moments(times: torch.Tensor) -> float:
        return sampled_moments(SOLVERS[solver], SCHEDULE, GAUSSIAN, times).error

    other = attempt(lambda: peers.moment_error(solver, grid, steps, SCHEDULE, GAUSSIAN))
    there = None
    if solver not in peers.SINGLE:  # the stages of those are on the grid
        there = attempt(lambda: moments(peers.levels(solver, grid, steps, SCHEDULE)))
    return moments(times_of(GRIDS[grid], SCHEDULE, steps)), other, there


def certify(solver: str) -> dict[str, Any]:
    """All rows of a solver, and its errors on the smooth grid."""
    torch.set_num_threads(1)
    rule, curve = SOLVERS[solver], {}
    for n in (5, 10, 20, 40, 80, 160):
        found = sampled_moments(rule, SCHEDULE, GAUSSIAN, smooth(n))
        error = found.error if rule.stochastic else flow_error(rule, SCHEDULE, MIXTURE, smooth(n))
        curve[found.evaluations] = error
    rows = {grid: {"ours": ours(solver, grid), "theirs": theirs(solver, grid)} for grid in GRIDS}
    coarse, fine = list(curve.values())[-2:]
    return {"solver": solver, "curve": curve, "rows": rows, "order": math.log2(coarse / fine)}


def grid_curves() -> dict[str, tuple[list[float], list[float]]]:
    """Level errors of DDIM for many step counts on three grids, ours and diffusers'."""
    import peers

    found = {}
    for grid in ("leading", "trailing", "linspace"):
        mine, other = [], []
        for n in range(1, 101):
            mine.append(level_error(SOLVERS["ddim"], SCHEDULE, *transitions(grid, (n,))))
            value = attempt(lambda: peers.level_error("ddim", grid, n, SCHEDULE))  # noqa: B023
            other.append(value if isinstance(value, float) else NAN)
        found[grid] = (mine, other)
    return found


def number(value: float | str | None, digits: str = ".1e") -> str:
    """A cell of the table."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else format(value, digits)


def table(results: list[dict[str, Any]]) -> list[str]:
    """One row for each solver and grid."""
    lines = [
        "| solver | grid | order | diffusers | grid error | diffusers | moment error | diffusers | NFE |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for grid, row in result["rows"].items():
            mine, other = row["ours"], row["theirs"]
            cells = [f"`{result['solver']}`", f"`{grid}`"]
            for key, digits in (("order", ".2f"), ("level", ".0e"), ("moments", ".4f")):
                cells += [number(mine[key], digits), number(other.get(key), digits)]
            lines.append(f"| {' | '.join([*cells, number(mine['nfe'], '.2f')])} |")
    return lines


def summary(results: list[dict[str, Any]]) -> list[str]:
    """One row for each solver."""
    lines = [
        "| solver | order | measured | NFE per step | noise | largest grid error | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        rule = SOLVERS[result["solver"]]
        worst = max(row["ours"]["level"] for row in result["rows"].values())
        cells = [
            f"`{result['solver']}`",
            str(rule.order),
            number(result["order"], ".2f"),
            str(rule.evaluations),
            "yes" if rule.stochastic else "no",
            number(worst, ".0e"),
            rule.source,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def off_grid(results: list[dict[str, Any]]) -> list[str]:
    """What of diffusers leaves its levels, fails, or is not finite, as sentences."""
    lines = []
    for result in results:
        wrong = {}
        for grid, row in result["rows"].items():
            value = row["theirs"].get("level")
            if isinstance(value, str) or (value is not None and not value < 1e-3):
                wrong[grid] = number(value, ".0e")
        if wrong:
            listed = ", ".join(f"`{grid}` {value}" for grid, value in wrong.items())
            lines.append(f"- `{result['solver']}`: {listed}")
    return lines


def closer(results: list[dict[str, Any]]) -> list[str]:
    """Where diffusers' moments are nearer to the data's at four digits, as rows of a table."""
    lines = [
        "| solver | grid | steps | ldm | diffusers | ldm on its levels |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        for grid, row in result["rows"].items():
            for steps, (mine, other, there) in row["theirs"].get("compared", {}).items():
                if isinstance(other, float) and round(other, 4) < round(mine, 4):
                    cells = (number(value, ".4f") for value in (mine, other, there))
                    lines.append(f"| `{result['solver']}` | `{grid}` | {steps} | {' | '.join(cells)} |")
    return lines


def plot(results: list[dict[str, Any]], folder: Path) -> None:
    """convergence.png, moments.png and grid_error.png."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    for file, stochastic, label in (
        ("convergence.png", False, "largest error of trajectories, mixture of Gaussians"),
        ("moments.png", True, "error of mean or deviation, Gaussian data"),
    ):
        figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
        chosen = [r for r in results if SOLVERS[r["solver"]].stochastic == stochastic]
        for i, result in enumerate(r for r in chosen if r["solver"] not in DISTILLED):
            style = {"marker": "osD^v<>pPX*hd+x"[i % 15], "linestyle": ("-", "--", ":")[i // 10]}
            axes.loglog(*zip(*result["curve"].items(), strict=True), label=result["solver"], **style)
        axes.set_xlabel("evaluations of the net")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend(ncols=2, fontsize="small")
        figure.savefig(folder / file, dpi=110)
    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for color, (grid, (mine, other)) in zip(("C0", "C1", "C2"), grid_curves().items(), strict=True):
        axes.semilogy(range(1, 101), other, ".", color=color, label=f"diffusers DDIM, {grid}")
        axes.semilogy(
            range(1, 101), [max(v, 1e-17) for v in mine], "-", color=color, label=f"ldm ddim, {grid}"
        )
    axes.set_xlabel("steps")
    axes.set_ylabel("largest error of the noise level after a step")
    axes.grid(alpha=0.3)
    axes.legend(ncols=2, fontsize="small")
    figure.savefig(folder / "grid_error.png", dpi=110)


TEXT = (HERE / "template.md").read_text()


def main() -> None:
    """Runs everything on all cores and writes the results."""
    import diffusers

    folder, start = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE, time.perf_counter()
    with multiprocessing.get_context("fork").Pool() as pool:
        results = pool.map(certify, SOLVERS, chunksize=1)
    plot(results, folder)
    text = TEXT.format(
        seconds=time.perf_counter() - start,
        torch=torch.__version__,
        diffusers=diffusers.__version__,
        counts=len(COUNTS),
        steps=STEPS,
        summary="\n".join(summary(results)),
        off_grid="\n".join(off_grid(results)),
        closer="\n".join(closer(results)),
        table="\n".join(table(results)),
    )
    (folder / "certificate.md").write_text(text)
    print(folder / "certificate.md")


if __name__ == "__main__":
    main()
