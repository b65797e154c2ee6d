"""CFG-Zero*: the optimal scale, and zero velocity in the first steps."""

import pytest
import torch

from ldm.guidance import CFGZeroStar
from ldm.guidance.base import alone


@pytest.mark.parametrize("case", ["eps", "v", "x0", "flow", "edm"])
def test_the_scale_of_zero_star_is_the_best_one_of_velocities(toy, case: str):
    """s minimises |v_c - s v_u|; the rule is CFG towards the velocities scaled by it, for any prediction."""
    asked, diffusion = toy.branches(toy.Net()), toy.diffusion_of(case)
    x_t, t = toy.inputs()

    def velocity(net):
        found = diffusion.denoiser(net)(x_t, t)
        return found.eps - found.x0

    cond, uncond = (velocity(alone(branch)) for branch in (asked.cond, asked.uncond))
    best = [
        torch.linalg.lstsq(u.reshape(-1, 1), c.reshape(-1, 1)).solution
        for c, u in zip(cond, uncond, strict=True)
    ]
    s = torch.stack(best).view(-1, 1, 1, 1)
    found = velocity(CFGZeroStar()(asked, toy.W, diffusion))
    torch.testing.assert_close(found, s * uncond + toy.W * (cond - s * uncond), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("case", ["eps", "v", "x0", "flow", "edm"])
def test_the_velocity_is_zero_in_the_first_steps(toy, case: str):
    diffusion = toy.diffusion_of(case)
    net = CFGZeroStar(zero_share=0.1)(toy.branches(toy.Net()), toy.W, diffusion)
    x_t, _ = toy.inputs()
    found = diffusion.denoiser(net)(x_t, torch.tensor([950.0]))
    torch.testing.assert_close(found.x0, found.eps, rtol=1e-3, atol=1e-3)
    later = diffusion.denoiser(net)(x_t, torch.tensor([850.0]))
    assert not torch.allclose(later.x0, later.eps, atol=1e-2)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="zero_share"):
        CFGZeroStar(**{"zero_share": -0.1})
