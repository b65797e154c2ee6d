"""Each rule is its formula, is CFG at its neutral settings and no guidance at scale 1, and asks no more."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ldm.cli.groups import options
from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.continuous import FlowMatching, VarianceExploding
from ldm.diffusion.prediction import Epsilon, FlowVelocity, Sample, Velocity
from ldm.diffusion.process import Diffusion
from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.weighting import Uniform
from ldm.guidance import APG, CFG, PAG, Autoguidance, Branch, Branches, CFGRescale, CFGZeroStar, Interval
from ldm.guidance.base import Backbone

RULES = options("guidance")
NEUTRAL = {
    "rescale": CFGRescale(phi=0.0),
    "interval": Interval(low=0.0, high=None),
    "apg": APG(eta=1.0, momentum=0.0, norm_threshold=None),
    "pag": PAG(scale=0.0),
}
CASES = {
    "eps": (scaled_linear(), Epsilon()),
    "v": (scaled_linear(), Velocity()),
    "x0": (scaled_linear(), Sample()),
    "flow": (FlowMatching(), FlowVelocity()),
    "edm": (VarianceExploding(), Velocity()),
}
W = 4.0


def diffusion_of(case: str) -> Diffusion:
    schedule, prediction = CASES[case]
    return Diffusion(schedule=schedule, prediction=prediction, weighting=Uniform())


class Net:
    """A net that depends on all it reads, and that counts the rows it is asked about."""

    def __init__(self, gain: float = 1.0):
        self.gain, self.rows = gain, 0

    def __call__(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        self.rows += len(x_t)
        assert cond.pooled is not None
        told = cond.pooled[:, :, None, None]
        if cond.identity_attention is not None:
            told = torch.where(cond.identity_attention.view(-1, 1, 1, 1), 0.3 * told, told)
        return self.gain * ((x_t + told).sin() + (t / 1000).view(-1, 1, 1, 1) * told)


def inputs(b: int = 3, time: float = 600.0) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randn(b, 2, 4, 4, generator=draws), torch.full((b,), time)


def branches(net: Net, b: int = 3, weak: Net | None = None) -> Branches:
    draws = torch.Generator().manual_seed(1)
    cond, uncond = (Conditioning(pooled=torch.randn(b, 2, generator=draws)) for _ in range(2))
    return Branches(Branch(net, cond), Branch(net, uncond), weak and Branch(weak, cond))


def answers(asked: Branches, *inputs: Tensor) -> list[Tensor]:
    return [b.net(*inputs, b.cond) for b in (asked.cond, asked.uncond, asked.weak) if b is not None]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_settings_are_cfg(name: str, case: str):
    asked, diffusion = branches(Net()), diffusion_of(case)
    expected = CFG()(asked, W, diffusion)(*inputs())
    torch.testing.assert_close(NEUTRAL[name](asked, W, diffusion)(*inputs()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", [name for name in RULES if name != "pag"])
def test_scale_one_is_the_conditional_net_alone(name: str, case: str):
    net, weak = Net(), Net(0.5)
    asked = branches(net, weak=weak)
    out = RULES[name](asked, 1.0, diffusion_of(case))(*inputs())
    assert (net.rows, weak.rows) == (3, 0)
    assert torch.equal(out, answers(asked, *inputs())[0])


@pytest.mark.parametrize(
    ("name", "rows"),
    [("cfg", 6), ("cfg_rescale", 6), ("cfg_zero_star", 6), ("apg", 6), ("interval", 6), ("pag", 9)],
)
def test_a_rule_asks_as_often_as_it_says(name: str, rows: int):
    net = Net()
    RULES[name](branches(net), W, diffusion_of("eps"))(*inputs())
    assert net.rows == rows


def test_rescaling_keeps_the_spread_of_the_conditional_answer():
    asked, diffusion = branches(Net()), diffusion_of("v")
    out, plain = (rule(asked, W, diffusion)(*inputs()) for rule in (CFGRescale(phi=1.0), CFG()))
    cond = answers(asked, *inputs())[0]
    torch.testing.assert_close(out.flatten(1).std(1), cond.flatten(1).std(1))
    half = CFGRescale(phi=0.5)(asked, W, diffusion)(*inputs())
    torch.testing.assert_close(half, (out + plain) / 2)


@pytest.mark.parametrize("case", CASES)
def test_guidance_is_left_out_outside_of_the_interval(case: str):
    diffusion, net = diffusion_of(case), Net()
    asked, rule = branches(net), Interval(low=0.5, high=3.0)
    inside = diffusion.schedule.time(torch.tensor([-2 * math.log(1.5)])).float()
    for sigma, guided in ((0.4, False), (0.6, True), (2.9, True), (3.1, False)):
        t = diffusion.schedule.time(torch.tensor([-2 * math.log(sigma)])).float().expand(3)
        net.rows = 0
        out = rule(asked, W, diffusion)(inputs()[0], t)
        assert net.rows == (6 if guided else 3)
        expected = CFG()(asked, W if guided else 1.0, diffusion)(inputs()[0], t)
        assert torch.equal(out, expected)
    mixed = torch.cat([t[:2], inside])  # rows of several times
    out = rule(asked, W, diffusion)(inputs()[0], mixed)
    torch.testing.assert_close(out[:2], CFG()(asked, 1.0, diffusion)(inputs()[0], mixed)[:2])
    torch.testing.assert_close(out[2:], CFG()(asked, W, diffusion)(inputs()[0], mixed)[2:])


def test_the_scale_of_zero_star_is_the_best_one():
    """s minimises |out_c - s out_u|; the rule is CFG towards the answers scaled by it."""
    asked, diffusion = branches(Net()), diffusion_of("flow")
    cond, uncond = answers(asked, *inputs())
    best = [
        torch.linalg.lstsq(u.reshape(-1, 1), c.reshape(-1, 1)).solution
        for c, u in zip(cond, uncond, strict=True)
    ]
    s = torch.stack(best).view(-1, 1, 1, 1)
    out = CFGZeroStar()(asked, W, diffusion)(*inputs())
    torch.testing.assert_close(out, s * uncond + W * (cond - s * uncond))


@pytest.mark.parametrize("case", CASES)
def test_zero_star_stands_still_at_first(case: str):
    diffusion = diffusion_of(case)
    net = CFGZeroStar(zero_share=0.1)(branches(Net()), W, diffusion)
    x_t, _ = inputs()
    found = diffusion.denoiser(net)(x_t, torch.tensor([950.0]))
    torch.testing.assert_close(found.x0, found.eps, rtol=1e-3, atol=1e-3)
    later = diffusion.denoiser(net)(x_t, torch.tensor([850.0]))
    assert not torch.allclose(later.x0, later.eps, atol=1e-2)


def test_apg_is_its_algorithm():
    """With x0 as the prediction no conversion stands between: Alg. 1, line by line."""
    diffusion, asked = diffusion_of("x0"), branches(Net())
    rule = APG(eta=0.3, momentum=-0.5, norm_threshold=1.5)
    net, running = rule(asked, W, diffusion), torch.zeros(3, 32)
    for time in (900.0, 600.0, 300.0):
        x_t, t = inputs(time=time)
        cond, uncond = (a.flatten(1) for a in answers(asked, x_t, t))
        running = cond - uncond - 0.5 * running
        step = running * (1.5 / running.norm(dim=1, keepdim=True)).clamp(max=1)
        unit = cond / cond.norm(dim=1, keepdim=True)
        parallel = (step * unit).sum(1, keepdim=True) * unit
        expected = cond + (W - 1) * (step - parallel + 0.3 * parallel)
        torch.testing.assert_close(net(x_t, t).flatten(1), expected)


@pytest.mark.parametrize("case", CASES)
def test_apg_acts_on_x0_whatever_is_predicted(case: str):
    """The same estimates of x0 in other words give the same guided x0."""
    diffusion, x0_net = diffusion_of(case), Net()
    schedule, prediction = diffusion.schedule, diffusion.prediction

    def data(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        return x0_net(x * schedule.spread(t, 4) if schedule.scales_input else x, t, cond)

    def net(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        (alpha, sigma), x0 = schedule(t, 4), data(x, t, cond)
        x_t = x * schedule.spread(t, 4) if schedule.scales_input else x
        return prediction.target(x0, (x_t - alpha * x0) / sigma, alpha, sigma)

    def guided(diffusion: Diffusion, net: Backbone) -> Tensor:
        asked = branches(Net())
        assert asked.uncond is not None
        both = Branches(asked.cond._replace(net=net), asked.uncond._replace(net=net))
        return diffusion.denoiser(APG()(both, W, diffusion))(*inputs()).x0

    plain = Diffusion(schedule=schedule, prediction=Sample(), weighting=Uniform())
    torch.testing.assert_close(guided(diffusion, net), guided(plain, data), rtol=1e-3, atol=1e-3)


def test_autoguidance_leads_away_from_the_weaker_net():
    net, weak = Net(), Net(0.5)
    asked = branches(net, weak=weak)
    cond, _, other = answers(asked, *inputs())
    net.rows = weak.rows = 0
    out = Autoguidance()(asked, W, diffusion_of("v"))(*inputs())
    torch.testing.assert_close(out, other + W * (cond - other))
    assert (net.rows, weak.rows) == (3, 3)


def test_autoguidance_without_a_weaker_net_is_refused():
    with pytest.raises(ValueError, match=r"\(weak_checkpoint\)"):
        Autoguidance()(branches(Net()), W, diffusion_of("v"))


def test_perturbed_attention_is_led_away_from_with_and_without_cfg():
    asked, diffusion = branches(Net()), diffusion_of("eps")
    cond, uncond = answers(asked, *inputs())
    rows = torch.ones(3, dtype=torch.bool)
    perturbed = asked.cond.net(*inputs(), replace(asked.cond.cond, identity_attention=rows))
    out = PAG(scale=2.0)(asked, W, diffusion)(*inputs())
    torch.testing.assert_close(out, uncond + W * (cond - uncond) + 2 * (cond - perturbed))
    out = PAG(scale=2.0)(Branches(asked.cond), 1.0, diffusion)(*inputs())
    torch.testing.assert_close(out, cond + 2 * (cond - perturbed))


@pytest.mark.parametrize("name", RULES)
def test_the_variance_that_a_net_learned_is_the_conditional_one(name: str):
    plain, weak = Net(), Net(0.5)

    def twice(net: Net):
        return lambda x_t, t, cond: torch.cat([net(x_t, t, cond), net(x_t, t, cond) + 7], dim=1)

    def asked(f) -> Branches:
        net, other, b = f(plain), f(weak), branches(plain, weak=weak)
        assert b.uncond is not None
        assert b.weak is not None
        return Branches(b.cond._replace(net=net), b.uncond._replace(net=net), b.weak._replace(net=other))

    out = RULES[name](asked(twice), W, diffusion_of("eps"))(*inputs())
    expected = RULES[name](asked(lambda net: net), W, diffusion_of("eps"))(*inputs())
    torch.testing.assert_close(out[:, :2], expected)
    torch.testing.assert_close(out[:, 2:], answers(branches(plain), *inputs())[0] + 7)


@pytest.mark.parametrize("name", RULES)
def test_a_row_does_not_depend_on_its_batch(name: str):
    diffusion, asked = diffusion_of("v"), branches(Net(), weak=Net(0.5))
    whole = RULES[name](asked, W, diffusion)(*inputs())

    def only(branch: Branch | None, i: int) -> Branch | None:
        assert branch is not None
        return branch._replace(cond=Conditioning(pooled=branch.cond.pooled[i : i + 1]))

    for i in range(3):
        one = Branches(*(only(b, i) for b in (asked.cond, asked.uncond, asked.weak)))
        out = RULES[name](one, W, diffusion)(*(v[i : i + 1] for v in inputs()))
        torch.testing.assert_close(out, whole[i : i + 1])


@pytest.mark.parametrize(
    ("rule", "given", "says"),
    [
        (CFGRescale, {"phi": 1.5}, r"phi must be in \[0, 1\], got 1.5"),
        (CFGZeroStar, {"zero_share": -0.1}, r"\(guidance.zero_share\)"),
        (Interval, {"low": 2.0, "high": 1.0}, r"\(guidance.low, guidance.high\)"),
        (APG, {"momentum": 1.0}, r"\(guidance.momentum\)"),
        (APG, {"norm_threshold": 0.0}, r"\(guidance.norm_threshold\)"),
        (PAG, {"scale": -1.0}, r"\(guidance.scale\)"),
    ],
)
def test_settings_out_of_range_are_refused(rule, given, says: str):
    with pytest.raises(ValueError, match=says):
        rule(**given)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_apg_rescaling_and_zero_star_equal_diffusers():
    guiders = pytest.importorskip("diffusers.guiders")
    apg = pytest.importorskip("diffusers.guiders.adaptive_projected_guidance")
    star = pytest.importorskip("diffusers.guiders.classifier_free_zero_star_guidance")
    rescale = pytest.importorskip("diffusers.guiders.guider_utils").rescale_noise_cfg
    assert guiders is not None
    asked, diffusion = branches(Net()), diffusion_of("x0")
    cond, uncond = answers(asked, *inputs())
    net, buffer = (
        APG(eta=0.2, momentum=-0.5, norm_threshold=1.0)(asked, W, diffusion),
        apg.MomentumBuffer(-0.5),
    )
    for _ in range(3):
        theirs = apg.normalized_guidance(cond, uncond, W - 1, buffer, 0.2, 1.0, use_original_formulation=True)
        torch.testing.assert_close(net(*inputs()), theirs)
    theirs = rescale(uncond + W * (cond - uncond), cond, 0.7)
    torch.testing.assert_close(CFGRescale(phi=0.7)(asked, W, diffusion)(*inputs()), theirs)
    s = star.cfg_zero_star_scale(cond.flatten(1), uncond.flatten(1)).view(-1, 1, 1, 1)
    theirs = s * uncond + W * (cond - s * uncond)
    torch.testing.assert_close(CFGZeroStar()(asked, W, diffusion)(*inputs()), theirs)
