"""Perturbed-attention guidance against its formula."""

from dataclasses import replace

import pytest
import torch

from ldm.guidance import PAG, Branches


def test_pag_extrapolates_from_perturbed_attention_with_and_without_cfg(toy):
    asked, diffusion = toy.branches(toy.Net()), toy.diffusion_of("eps")
    cond, uncond = toy.answers(asked, *toy.inputs())
    rows = torch.ones(3, dtype=torch.bool)
    perturbed = asked.cond.net(*toy.inputs(), replace(asked.cond.cond, identity_attention=rows))
    out = PAG(scale=2.0)(asked, toy.W, diffusion)(*toy.inputs())
    torch.testing.assert_close(out, uncond + toy.W * (cond - uncond) + 2 * (cond - perturbed))
    out = PAG(scale=2.0)(Branches(asked.cond), 1.0, diffusion)(*toy.inputs())
    torch.testing.assert_close(out, cond + 2 * (cond - perturbed))


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="scale"):
        PAG(**{"scale": -1.0})
