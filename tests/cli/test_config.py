"""Configs become plain before anything is built from them."""

import pytest
from omegaconf import OmegaConf

from ldm.cli.config import plain
from ldm.utils.errors import UserError


def test_interpolations_are_resolved_and_bad_ones_named():
    assert plain(OmegaConf.create({"a": {"b": "${c}"}, "c": [1]})) == {"a": {"b": [1]}, "c": [1]}
    with pytest.raises(UserError, match=r"^a\.b: Interpolation key 'nope' not found$"):
        plain(OmegaConf.create({"a": {"b": "${nope}"}}))
