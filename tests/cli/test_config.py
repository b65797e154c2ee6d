"""Configs become plain before anything is built from them."""

import pytest
from omegaconf import OmegaConf

from ldm.cli.config import build, plain
from ldm.utils.errors import UserError


def test_interpolations_are_resolved_and_bad_ones_named():
    assert plain(OmegaConf.create({"a": {"b": "${c}"}, "c": [1]})) == {"a": {"b": [1]}, "c": [1]}
    with pytest.raises(UserError, match=r"^a\.b: Interpolation key 'nope' not found$"):
        plain(OmegaConf.create({"a": {"b": "${nope}"}}))


def test_build_names_the_full_key_and_passes_plain_lists():
    cfg = OmegaConf.create({"a": {"b": {"_target_": "ldm.schedulers.ddim.DDIM", "eta": 2.0}}})
    with pytest.raises(UserError, match=r"^a\.b\.eta: must be in \[0, 1\], got 2"):
        build(cfg.a.b)
    node = {"_target_": "torch.optim.AdamW", "_partial_": True, "betas": [0.9, 0.99]}
    assert type(build(OmegaConf.create(node)).keywords["betas"]) is list
