"""CFG-Zero*: the optimal scale, and zero velocity in the first steps."""

import pytest
import torch

from ldm.guidance import CFGZeroStar


def test_the_scale_of_zero_star_is_the_best_one(toy):
    """s minimises |out_c - s out_u|; the rule is CFG towards the answers scaled by it."""
    asked, diffusion = toy.branches(toy.Net()), toy.diffusion_of("flow")
    cond, uncond = toy.answers(asked, *toy.inputs())
    best = [
        torch.linalg.lstsq(u.reshape(-1, 1), c.reshape(-1, 1)).solution
        for c, u in zip(cond, uncond, strict=True)
    ]
    s = torch.stack(best).view(-1, 1, 1, 1)
    out = CFGZeroStar()(asked, toy.W, diffusion)(*toy.inputs())
    torch.testing.assert_close(out, s * uncond + toy.W * (cond - s * uncond))


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
