"""Single decisions of a training run; whole runs are in test_train.py."""

import pytest
from hydra import compose, initialize_config_module

from ldm.cli import stages
from ldm.cli.resolvers import register_resolvers


def run(tmp_path, *overrides):
    register_resolvers()
    with initialize_config_module("ldm.conf", version_base="1.3"):
        return stages.Run(compose("train", ["experiment=tiny", f"paths.run={tmp_path}", *overrides]))


@pytest.mark.parametrize(
    ("wanted", "there", "used"),
    [
        ("bf16-mixed", True, "bf16-mixed"),
        ("bf16-mixed", False, "32-true"),
        ("32-true", False, "32-true"),
        ("64-true", True, "64-true"),
    ],
)
def test_bfloat16_is_used_where_the_machine_has_it(wanted, there, used, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "has_bf16", lambda device: there)
    assert run(tmp_path, f"trainer.precision={wanted}")._precision() == used
