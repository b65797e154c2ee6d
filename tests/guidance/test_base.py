"""Branches evaluated in one batch: learned variances, independent rows."""

import pytest
import torch

from ldm.diffusion.conditioning import Conditioning
from ldm.guidance import Branch, Branches
from ldm.utils.options import options

RULES = options("guidance")


@pytest.mark.parametrize("name", RULES)
def test_the_variance_that_a_net_learned_is_the_conditional_one(toy, name: str):
    plain, weak = toy.Net(), toy.Net(0.5)

    def twice(net):
        return lambda x_t, t, cond: torch.cat([net(x_t, t, cond), net(x_t, t, cond) + 7], dim=1)

    def asked(f) -> Branches:
        net, other, b = f(plain), f(weak), toy.branches(plain, weak=weak)
        assert b.uncond is not None
        assert b.weak is not None
        return Branches(b.cond._replace(net=net), b.uncond._replace(net=net), b.weak._replace(net=other))

    out = RULES[name](asked(twice), toy.W, toy.diffusion_of("eps"))(*toy.inputs())
    expected = RULES[name](asked(lambda net: net), toy.W, toy.diffusion_of("eps"))(*toy.inputs())
    torch.testing.assert_close(out[:, :2], expected)
    torch.testing.assert_close(out[:, 2:], toy.answers(toy.branches(plain), *toy.inputs())[0] + 7)


@pytest.mark.parametrize("name", RULES)
def test_a_row_does_not_depend_on_its_batch(toy, name: str):
    diffusion, asked = toy.diffusion_of("v"), toy.branches(toy.Net(), weak=toy.Net(0.5))
    whole = RULES[name](asked, toy.W, diffusion)(*toy.inputs())

    def only(branch: Branch | None, i: int) -> Branch | None:
        assert branch is not None
        return branch._replace(cond=Conditioning(pooled=branch.cond.pooled[i : i + 1]))

    for i in range(3):
        one = Branches(*(only(b, i) for b in (asked.cond, asked.uncond, asked.weak)))
        out = RULES[name](one, toy.W, diffusion)(*(v[i : i + 1] for v in toy.inputs()))
        torch.testing.assert_close(out, whole[i : i + 1])
