"""DPM-Solver++: options, and order 1 in closed form."""

import pytest
import torch

from ldm.diffusion.schedule import scaled_linear
from ldm.evaluation.oracle import gaussian
from ldm.schedulers import (
    DDIM,
    DPMSolverPP,
    DPMSolverPPSingle,
)

SCHEDULE = scaled_linear()


def no_noise(t, s):
    raise AssertionError("a deterministic step draws no noise")


@pytest.mark.parametrize(
    ("kind", "given", "name"),
    [
        (DPMSolverPP, {"order": 4}, "order"),
        (DPMSolverPP, {"eta": 1.5}, "eta"),
        (DPMSolverPPSingle, {"order": 0}, "order"),
        (DPMSolverPPSingle, {"order": 3, "noise_at": "stages"}, "noise_at"),
    ],
)
def test_options_out_of_range_are_refused(kind, given, name):
    with pytest.raises(ValueError, match=name) as caught:
        kind(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("solver", [DPMSolverPP(order=1), DPMSolverPPSingle(order=1)])
def test_order_one_is_ddim(solver):
    """DPM-Solver++ of order 1 is DDIM (Lu et al. 2022, arXiv:2211.01095, section 4)."""
    data, times = gaussian(0.5, 0.6), torch.tensor([[800.0], [600.0]], dtype=torch.float64)
    x, denoise = torch.linspace(-2, 2, 5).double(), data.denoiser(SCHEDULE)
    step = (denoise, SCHEDULE, x, *times, None, no_noise)
    torch.testing.assert_close(solver.step(*step)[0], DDIM().step(*step)[0])
