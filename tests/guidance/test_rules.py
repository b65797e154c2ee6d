"""Each rule is its formula, is CFG at its neutral settings and no guidance at scale 1, and asks no more."""

import pytest
import torch

from ldm.guidance import APG, CFG, PAG, CFGRescale, CFGZeroStar, Interval
from ldm.utils.options import options

RULES = options("guidance")
NEUTRAL = {
    "rescale": CFGRescale(phi=0.0),
    "interval": Interval(low=0.0, high=None),
    "apg": APG(eta=1.0, momentum=0.0, norm_threshold=None),
    "pag": PAG(scale=0.0),
}


@pytest.mark.parametrize("case", ["eps", "v", "x0", "flow", "edm"])
@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_settings_are_cfg(toy, name: str, case: str):
    asked, diffusion = toy.branches(toy.Net()), toy.diffusion_of(case)
    expected = CFG()(asked, toy.W, diffusion)(*toy.inputs())
    torch.testing.assert_close(
        NEUTRAL[name](asked, toy.W, diffusion)(*toy.inputs()), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("case", ["eps", "v", "x0", "flow", "edm"])
@pytest.mark.parametrize("name", [name for name in RULES if name != "pag"])
def test_scale_one_is_the_conditional_net_alone(toy, name: str, case: str):
    net, weak = toy.Net(), toy.Net(0.5)
    asked = toy.branches(net, weak=weak)
    out = RULES[name](asked, 1.0, toy.diffusion_of(case))(*toy.inputs())
    assert (net.rows, weak.rows) == (3, 0)
    assert torch.equal(out, toy.answers(asked, *toy.inputs())[0])


@pytest.mark.parametrize(
    ("name", "rows"),
    [("cfg", 6), ("cfg_rescale", 6), ("cfg_zero_star", 6), ("apg", 6), ("interval", 6), ("pag", 9)],
)
def test_a_rule_asks_as_often_as_it_says(toy, name: str, rows: int):
    net = toy.Net()
    RULES[name](toy.branches(net), toy.W, toy.diffusion_of("eps"))(*toy.inputs())
    assert net.rows == rows


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_apg_rescaling_and_zero_star_equal_diffusers(toy):
    guiders = pytest.importorskip("diffusers.guiders")
    apg = pytest.importorskip("diffusers.guiders.adaptive_projected_guidance")
    star = pytest.importorskip("diffusers.guiders.classifier_free_zero_star_guidance")
    rescale = pytest.importorskip("diffusers.guiders.guider_utils").rescale_noise_cfg
    assert guiders is not None
    asked, diffusion = toy.branches(toy.Net()), toy.diffusion_of("x0")
    cond, uncond = toy.answers(asked, *toy.inputs())
    net, buffer = (
        APG(eta=0.2, momentum=-0.5, norm_threshold=1.0)(asked, toy.W, diffusion),
        apg.MomentumBuffer(-0.5),
    )
    for _ in range(3):
        theirs = apg.normalized_guidance(
            cond, uncond, toy.W - 1, buffer, 0.2, 1.0, use_original_formulation=True
        )
        torch.testing.assert_close(net(*toy.inputs()), theirs)
    theirs = rescale(uncond + toy.W * (cond - uncond), cond, 0.7)
    torch.testing.assert_close(CFGRescale(phi=0.7)(asked, toy.W, diffusion)(*toy.inputs()), theirs)
    s = star.cfg_zero_star_scale(cond.flatten(1), uncond.flatten(1)).view(-1, 1, 1, 1)
    theirs = s * uncond + toy.W * (cond - s * uncond)
    velocities = toy.diffusion_of("flow")  # on which the rule is defined
    torch.testing.assert_close(CFGZeroStar()(asked, toy.W, velocities)(*toy.inputs()), theirs)
