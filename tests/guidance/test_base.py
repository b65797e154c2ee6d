"""A rule is refused for a model that lacks what it relies on."""

import pytest

from ldm.cli.groups import options
from ldm.guidance import CFG, PAG, Autoguidance, Interval
from ldm.guidance.base import Guidance, check_rule

RULES = options("guidance")


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_model_with_everything_takes_every_rule(rule):
    assert isinstance(rule, Guidance)
    check_rule(rule, {"pag", "weak_checkpoint"})


@pytest.mark.parametrize(
    ("rule", "missing"), [(PAG(), "pag"), (Interval(rule=PAG()), "pag"), (Autoguidance(), "weak_checkpoint")]
)
def test_what_a_model_lacks_is_named(rule, missing):
    with pytest.raises(
        ValueError, match=rf"needs {missing}, which this model does not have; use guidance=cfg$"
    ):
        check_rule(rule, set())


def test_rules_that_rely_on_nothing_are_for_all_models():
    for rule in (CFG(), PAG(scale=0.0), Interval(rule=CFG())):
        check_rule(rule, set())
