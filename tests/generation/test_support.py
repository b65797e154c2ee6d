from types import SimpleNamespace

import pytest

from ldm.diffusion.thresholding import Clip
from ldm.generation.support import check_guidance, check_thresholding
from ldm.guidance import CFG, PAG, Autoguidance
from ldm.utils.errors import UserError

PLAIN, PERTURBED = SimpleNamespace(supports=frozenset()), SimpleNamespace(supports=frozenset({"pag"}))


def test_a_rule_needs_what_the_net_supports():
    check_guidance(PAG(), 1.0, PERTURBED, 0.1, weak=False)
    with pytest.raises(UserError) as caught:
        check_guidance(PAG(), 1.0, PLAIN, 0.1, weak=False)
    assert str(caught.value) == (
        "guidance must be a rule that this SimpleNamespace supports, got PAG, which needs pag"
    )


def test_autoguidance_needs_a_weak_net_unless_its_scale_is_one():
    check_guidance(Autoguidance(), 2.0, PLAIN, 0.0, weak=True)
    check_guidance(Autoguidance(), 1.0, PLAIN, 0.0, weak=False)
    with pytest.raises(UserError, match="got Autoguidance, which needs weak_checkpoint"):
        check_guidance(Autoguidance(), 2.0, PLAIN, 0.0, weak=False)


@pytest.mark.parametrize(("scale", "dropout"), [(1.0, 0.0), (3.0, 0.1), (3.0, None)])
def test_guidance_by_the_empty_caption_where_the_net_may_have_seen_it(scale, dropout):
    check_guidance(CFG(), scale, PLAIN, dropout, weak=False)


def test_guidance_by_a_caption_that_the_net_has_never_seen_is_refused():
    message = "guidance_scale must be 1 for a model trained without caption dropout, got 3.0"
    with pytest.raises(UserError, match=message):
        check_guidance(CFG(), 3.0, PLAIN, 0.0, weak=False)


def test_only_pixels_have_bounds():
    check_thresholding(None, PLAIN)
    check_thresholding(Clip(), SimpleNamespace(supports=frozenset({"thresholding"})))
    with pytest.raises(UserError, match=r"thresholding must be null for a model of latents, .*got Clip\("):
        check_thresholding(Clip(), PLAIN)
