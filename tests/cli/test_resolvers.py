import pytest
from omegaconf import OmegaConf

from ldm.cli import train
from ldm.cli.resolvers import register_resolvers


@pytest.fixture(autouse=True)
def _registered():
    register_resolvers()


def test_a_product_follows_its_factors():
    cfg = OmegaConf.create({"steps": 100, "batch": 12, "images": "${mul:${steps},${batch}}"})
    assert cfg.images == 1200
    cfg.steps = 1_000
    assert cfg.images == 12_000
    assert isinstance(cfg.images, int)


@pytest.mark.parametrize("key", ["data.batch_size", "trainer.max_steps"])
def test_a_factor_that_is_no_number_is_an_error_of_its_own_key(key, capsys):
    assert train.main(["experiment=tiny", f"{key}=many", "debug=dry"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"ldm-train: {key}: must be int, got 'many'"


@pytest.mark.parametrize(("mode", "offline"), [("online", False), ("offline", True), ("disabled", False)])
def test_wandb_is_offline_as_its_variable_says(monkeypatch, mode, offline):
    monkeypatch.setenv("WANDB_MODE", mode)
    assert OmegaConf.create({"offline": "${wandb_offline:}"}).offline is offline


def test_wandb_is_offline_without_a_login(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert OmegaConf.create({"offline": "${wandb_offline:}"}).offline is True
