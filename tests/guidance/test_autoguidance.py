"""Guidance by a weaker net against its formula."""

import pytest
import torch

from ldm.guidance import Autoguidance


def test_autoguidance_extrapolates_from_the_weaker_net(toy):
    net, weak = toy.Net(), toy.Net(0.5)
    asked = toy.branches(net, weak=weak)
    cond, _, other = toy.answers(asked, *toy.inputs())
    net.rows = weak.rows = 0
    out = Autoguidance()(asked, toy.W, toy.diffusion_of("v"))(*toy.inputs())
    torch.testing.assert_close(out, other + toy.W * (cond - other))
    assert (net.rows, weak.rows) == (3, 3)


def test_autoguidance_without_a_weaker_net_is_refused(toy):
    with pytest.raises(ValueError, match="autoguidance needs a weak checkpoint"):
        Autoguidance()(toy.branches(toy.Net()), toy.W, toy.diffusion_of("v"))
