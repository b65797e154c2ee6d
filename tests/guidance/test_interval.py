"""Guidance inside of an interval of noise levels only."""

import math

import pytest
import torch

from ldm.guidance import CFG, Interval


@pytest.mark.parametrize("case", ["eps", "v", "x0", "flow", "edm"])
def test_guidance_is_left_out_outside_of_the_interval(toy, case: str):
    diffusion, net = toy.diffusion_of(case), toy.Net()
    asked, rule = toy.branches(net), Interval(low=0.5, high=3.0)
    inside = diffusion.schedule.time(torch.tensor([-2 * math.log(1.5)])).float()
    for sigma, guided in ((0.4, False), (0.6, True), (2.9, True), (3.1, False)):
        t = diffusion.schedule.time(torch.tensor([-2 * math.log(sigma)])).float().expand(3)
        net.rows = 0
        out = rule(asked, toy.W, diffusion)(toy.inputs()[0], t)
        assert net.rows == (6 if guided else 3)
        expected = CFG()(asked, toy.W if guided else 1.0, diffusion)(toy.inputs()[0], t)
        assert torch.equal(out, expected)
    mixed = torch.cat([t[:2], inside])  # rows of several times
    out = rule(asked, toy.W, diffusion)(toy.inputs()[0], mixed)
    torch.testing.assert_close(out[:2], CFG()(asked, 1.0, diffusion)(toy.inputs()[0], mixed)[:2])
    torch.testing.assert_close(out[2:], CFG()(asked, toy.W, diffusion)(toy.inputs()[0], mixed)[2:])


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="low"):
        Interval(**{"low": 2.0, "high": 1.0})
