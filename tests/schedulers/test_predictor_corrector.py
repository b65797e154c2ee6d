"""UniPC and SA-Solver: options, and order 1 in closed form."""

import pytest
import torch

from ldm.diffusion.schedule import scaled_linear
from ldm.evaluation.oracle import gaussian
from ldm.schedulers import (
    DDIM,
    SASolver,
    UniPC,
)

SCHEDULE = scaled_linear()


def no_noise(t, s):
    raise AssertionError("a deterministic step draws no noise")


@pytest.mark.parametrize(
    ("kind", "given", "name"),
    [
        (UniPC, {"order": 4}, "order"),
        (SASolver, {"order": 5}, "order"),
        (SASolver, {"corrector_order": 5}, "corrector_order"),
        (SASolver, {"tau": 3.0}, "tau"),
    ],
)
def test_options_out_of_range_are_refused(kind, given, name):
    with pytest.raises(ValueError, match=name) as caught:
        kind(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "solver", [UniPC(order=1, correct=False), SASolver(order=1, corrector_order=0, tau=0.0)]
)
def test_order_one_without_corrector_is_ddim(solver):
    data, times = gaussian(0.5, 0.6), torch.tensor([[800.0], [600.0]], dtype=torch.float64)
    x, denoise = torch.linspace(-2, 2, 5).double(), data.denoiser(SCHEDULE)
    step = (denoise, SCHEDULE, x, *times, None, no_noise)
    torch.testing.assert_close(solver.step(*step)[0], DDIM().step(*step)[0])
