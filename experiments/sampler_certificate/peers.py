"""diffusers' solvers on the exact solutions of `ldm.evaluation.oracle`, for comparison with ours."""

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import torch
from torch import Tensor

from ldm.cli.groups import options as options_of
from ldm.diffusion.schedule import NoiseSchedule, scaled_linear
from ldm.diffusion.timesteps import times_of
from ldm.evaluation.oracle import Mixture, gaussian, marginal

diffusers.logging.set_verbosity_error()
SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "deis": ("DEISMultistepScheduler", {"solver_order": 3}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"solver_order": 2}),
    "dpmpp_3m": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "dpmpp_2m_sde": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"},
    ),
    "dpmpp_3m_sde": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"},
    ),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {"solver_order": 2}),
    "dpmpp_3s": ("DPMSolverSinglestepScheduler", {"solver_order": 3}),
    "dpmpp_sde": ("DPMSolverSDEScheduler", {}),  # needs the package torchsde
    "unipc": ("UniPCMultistepScheduler", {}),
    "sa": ("SASolverScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}
GRIDS: dict[str, dict[str, Any]] = {
    "leading": {"timestep_spacing": "leading"},
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
    "sd15": {"timestep_spacing": "leading", "steps_offset": 1},
    "karras": {"timestep_spacing": "linspace", "use_karras_sigmas": True},
    "exponential": {"timestep_spacing": "linspace", "use_exponential_sigmas": True},
}
ENDS = dict.fromkeys(("deis", "sa", "tcd"), 0.0) | dict.fromkeys(
    ("ddpm", "euler_a", "heun", "dpm2", "dpm2_a", "lms", "dpmpp_sde", "lcm"), -1.0
)
"""Where solvers without an option for it end: at the first level of the table or at clean data."""
TIMES = options_of("timesteps")
SCALED = {"euler", "euler_a", "heun", "dpm2", "dpm2_a", "lms", "dpmpp_sde"}  # work on x / alpha
STAGES = dict.fromkeys(("heun", "dpm2", "dpm2_a", "dpmpp_sde", "dpmpp_2s"), 2) | {"dpmpp_3s": 3}
"""Calls of `step` for one step of ours."""
SINGLE = {"dpmpp_2s", "dpmpp_3s"}  # their stages are times of the grid: it is one of as many evaluations
LISTED = {"dpmpp_2s", "dpmpp_3s", "lcm", "tcd"}  # know no spacings: given the times of our grids as a list
COMMON = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
}


def make(solver: str, grid: str, steps: int) -> Any:
    """A scheduler with its times set; None if diffusers has no such solver or grid."""
    if solver not in SOLVERS or grid not in GRIDS:
        return None
    name, options = SOLVERS[solver]
    kind = getattr(diffusers, name)
    known = inspect.signature(kind.__init__).parameters
    wanted, listed = GRIDS[grid], solver in LISTED and "sigmas" not in "".join(GRIDS[grid])
    if listed:
        wanted = {}
    elif solver in LISTED:
        wanted = {key: value for key, value in wanted.items() if key != "timestep_spacing"}
    if any(key not in known for key in wanted):
        return None
    final = {"set_alpha_to_one": grid != "sd15"}
    final["final_sigmas_type"] = "sigma_min" if grid == "sd15" else "zero"
    given = {k: v for k, v in {**COMMON, **final}.items() if k in known} | options | wanted
    scheduler, count = kind(**given), steps * (STAGES[solver] if solver in SINGLE else 1)
    if listed:
        times = times_of(TIMES[grid], scaled_linear(), count)[:-1]
        scheduler.set_timesteps(timesteps=times.long().tolist())
    else:
        scheduler.set_timesteps(count)
    return scheduler


def levels(solver: str, grid: str, steps: int, schedule: NoiseSchedule) -> Tensor:
    """The times of the levels that the steps lead to, the end included, as a grid of ours."""
    scheduler, stages = make(solver, grid, steps), STAGES.get(solver, 1)
    times = scheduler.timesteps.double()
    if hasattr(scheduler, "sigmas"):  # its times may be rounded
        times = schedule.time(-2 * scheduler.sigmas[: len(times)].double().log())
    found: list[float] = []
    for time in [*times[::stages].tolist(), ENDS.get(solver, 0.0 if grid == "sd15" else -1.0)]:
        nearest = round(time) if abs(time - round(time)) < 1e-3 else time  # sigmas are float32
        if not found or nearest < found[-1]:
            found.append(float(nearest))
    return torch.tensor(found, dtype=torch.float64)


def brownian(sigmas: Tensor, x: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A Brownian path in sigma as `DPMSolverSDEScheduler` draws it, of normal numbers that are 1 in one row.

    The path's increment over piece k between the levels and the middles of steps is in row k + 2.
    """
    ends = sigmas[sigmas > 0].double().unique().flip(0)
    middles = (ends[:-1] * ends[1:]).sqrt()
    nodes = torch.cat([ends, middles]).sort(descending=True).values

    def noise(start: Tensor, end: Tensor) -> Tensor:
        first, last = ((nodes - level.double()).abs().argmin() for level in (start, end))
        pieces = nodes[first:last] - nodes[first + 1 : last + 1]
        drawn = torch.zeros_like(x).view(-1, 1, 1, 1)
        drawn[first + 2 : last + 2, 0, 0, 0] = (pieces / pieces.sum()).sqrt()
        return drawn

    return noise


def states(
    solver: str, grid: str, steps: int, schedule: NoiseSchedule, data: Mixture, x: Tensor, draws: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """The states (n,) after each call of `step`, with the time that the net is told of next; -1 is clean.

    Args:
        solver: by our name.
        grid: by our name.
        steps: number of them.
        schedule: ours, of the same levels.
        data: whose exact denoiser is asked.
        x: start, at unit scale.
        draws: whether draw k is 1 in row k + 2 and else 0; no draw is allowed without.
    """
    scheduler, scaled, count = make(solver, grid, steps), solver in SCALED, 0
    denoise = data.denoiser(schedule)

    def noise(shape: Any, **_: Any) -> Tensor:
        nonlocal count
        if not draws:
            raise ValueError("a deterministic solver draws no noise")
        count += 1
        one = torch.zeros(shape, dtype=torch.float64)
        one[count + 1] = 1.0
        return one

    if solver == "dpmpp_sde":
        scheduler.noise_sampler = brownian(scheduler.sigmas, x)
    sys.modules[type(scheduler).__module__].randn_tensor = noise
    end = ENDS.get(solver, 0.0 if grid == "sd15" else -1.0)
    times = [*scheduler.timesteps.double().tolist(), end]

    def alpha(t: float) -> Tensor:
        return schedule(torch.tensor([t], dtype=torch.float64), 1, torch.float64)[0]

    sample = (x / alpha(times[0]) if scaled else x).view(-1, 1, 1, 1)
    for t, told, following in zip(scheduler.timesteps, times, times[1:], strict=False):
        read = scheduler.scale_model_input(sample, t).double().flatten()
        out = denoise(read, torch.tensor([told], dtype=torch.float64)).eps.view(-1, 1, 1, 1)
        sample = scheduler.step(out, t, sample, return_dict=False)[0].double()
        after = sample.flatten() * alpha(following) if scaled else sample.flatten()
        yield torch.tensor([following], dtype=torch.float64), after


def moments(
    solver: str, grid: str, steps: int, schedule: NoiseSchedule, data: Mixture
) -> Iterator[tuple[float, float, float, float]]:
    """After each call: mean and standard deviation, and those that the next level has."""
    x = torch.zeros(2 * steps + 8, dtype=torch.float64)
    x[1] = 1.0
    first = make(solver, grid, steps).timesteps[:1].double()
    mean_t, variance_t = marginal(schedule, data, first)
    for following, end in states(solver, grid, steps, schedule, data, x):
        parts = end - end[0]
        variance = parts[1] ** 2 * variance_t + parts[2:].square().sum()
        wanted_mean, wanted = marginal(schedule, data, following)
        yield (
            float(end[0] + parts[1] * mean_t),
            float(variance.sqrt()),
            float(wanted_mean),
            float(wanted.sqrt()),
        )


def level_error(solver: str, grid: str, steps: int, schedule: NoiseSchedule) -> float:
    """Largest error of the level that a step led to, which the net is told, for data at a point."""
    found = moments(solver, grid, steps, schedule, gaussian(0.7, 0.0))
    return max(max(abs(m - a), abs(s - b)) for m, s, a, b in found)


def moment_error(solver: str, grid: str, steps: int, schedule: NoiseSchedule, data: Mixture) -> float:
    """Error of mean or standard deviation at the end, in standard deviations."""
    *_, (mean, std, wanted_mean, wanted) = moments(solver, grid, steps, schedule, data)
    return max(abs(mean - wanted_mean), abs(std - wanted)) / wanted


def flow_error(solver: str, grid: str, steps: int, schedule: NoiseSchedule, data: Mixture) -> float:
    """Largest error at the end of trajectories that start within two standard deviations."""
    start = torch.linspace(-2, 2, 16, dtype=torch.float64)
    first = float(make(solver, grid, steps).timesteps[0])
    *_, (last, end) = states(solver, grid, steps, schedule, data, start, draws=False)
    return float((end - data.flow(schedule, start, first, float(last))).abs().max())
