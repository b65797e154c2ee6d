"""Rescaled guidance keeps the conditional contrast."""

import pytest
import torch

from ldm.guidance import CFG, CFGRescale


def test_rescaling_keeps_the_spread_of_the_conditional_output(toy):
    asked, diffusion = toy.branches(toy.Net()), toy.diffusion_of("v")
    out, plain = (rule(asked, toy.W, diffusion)(*toy.inputs()) for rule in (CFGRescale(phi=1.0), CFG()))
    cond = toy.answers(asked, *toy.inputs())[0]
    torch.testing.assert_close(out.flatten(1).std(1), cond.flatten(1).std(1))
    half = CFGRescale(phi=0.5)(asked, toy.W, diffusion)(*toy.inputs())
    torch.testing.assert_close(half, (out + plain) / 2)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="phi"):
        CFGRescale(**{"phi": 1.5})
