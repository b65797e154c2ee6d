"""Properties of every solver: independent rows, and the declared evaluations, noise, order and source."""

import pytest
import torch

from ldm.diffusion.sampling import Scheduler, sample
from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.timesteps import trailing
from ldm.evaluation.oracle import gaussian
from ldm.utils.options import options

SOLVERS = options("scheduler")


def run(solver, x, rows, steps=6):
    """Samples of a mixture-free oracle, the noise of a row being its own."""

    def noise(n, t, s):
        return (
            torch.tensor([[float(torch.sin(torch.tensor(7.0 * n + 3.0 * row))) for row in rows]])
            .double()
            .view(-1)
        )

    schedule = scaled_linear()
    return sample(gaussian(0.5, 0.6).denoiser(schedule), schedule, solver, x, trailing(1000, steps), noise)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_sample_depends_on_neither_batch_nor_position(name):
    x = torch.tensor([0.3, -1.1, 2.0, 0.0], dtype=torch.float64)
    whole = run(SOLVERS[name], x, range(4))
    for i in range(4):
        assert torch.equal(run(SOLVERS[name], x[i : i + 1], [i]), whole[i : i + 1])
    order = [2, 0, 3, 1]
    assert torch.equal(run(SOLVERS[name], x[order], order), whole[order])


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_says_its_evaluations_and_its_noise(name):
    solver, calls, draws = SOLVERS[name], [], []
    assert isinstance(solver, Scheduler)
    schedule, data = scaled_linear(), gaussian(0.5, 0.6)

    def denoise(x, t):
        calls.append(t)
        return data.denoiser(schedule)(x, t)

    def noise(t, s):
        draws.append(t)
        return torch.zeros(1).double()

    t, s = (
        schedule.time(torch.tensor([value]).double()) for value in (4.0, 5.0)
    )  # over the lower end of Restart, and short enough for rules of second order
    state = None
    x = torch.ones(1).double()
    for _ in range(2):  # PLMS asks twice in its first step
        calls.clear()
        _, state = solver.step(denoise, schedule, x, t, s, state, noise)
    assert len(calls) == solver.evaluations
    assert bool(draws) == solver.stochastic
    assert solver.order >= 1
    assert "arXiv" in solver.source
