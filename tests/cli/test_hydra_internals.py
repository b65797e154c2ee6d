"""Hydra 1.3 still has the objects that are used beyond its public interface."""

from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from hydra.types import RunMode
from omegaconf import OmegaConf

from ldm.cli.arguments import parse
from ldm.cli.hydra_internals import mode, opened
from ldm.cli.resolvers import register_resolvers
from ldm.utils.errors import UserError


def composed(hydra, command, *overrides):
    register_resolvers()
    return hydra.compose_config(command, [*overrides], run_mode=RunMode.RUN)


def test_options_in_a_folder_of_the_users_are_found_beside_ours(tmp_path):
    (tmp_path / "thresholding").mkdir()
    (tmp_path / "thresholding" / "own.yaml").write_text("mine: 1\n")
    with opened("sample", str(tmp_path)) as hydra:
        assert composed(hydra, "sample", "thresholding=own").thresholding.mine == 1
        assert composed(hydra, "sample", "thresholding=clip").thresholding._target_.startswith("ldm.")
    with opened("sample", None) as hydra, pytest.raises(MissingConfigException, match="thresholding/own"):
        composed(hydra, "sample", "thresholding=own")


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with (
        pytest.raises(UserError, match=r"^--config-dir: no folder at .*none$"),
        opened("ema", f"{tmp_path}/none"),
    ):
        pass


def test_a_plain_key_is_no_choice_in_the_group_of_its_name():
    """`prediction` is a group of ldm-train, and a key of ldm-sample."""
    with opened("sample", None, {"prediction"}) as hydra:
        assert composed(hydra, "sample", "prediction=eps")["prediction"] == "eps"
        assert not hydra.config_loader.repository.group_exists("prediction")
    with opened("sample", None) as hydra:
        assert hydra.config_loader.repository.group_exists("prediction")


def test_the_global_hydra_is_as_it_was_within_and_after():
    assert GlobalHydra.instance().hydra is None
    with opened("ema", None) as outer:
        with opened("ema", None) as inner:
            assert GlobalHydra.instance().hydra is inner
        assert GlobalHydra.instance().hydra is outer
    assert GlobalHydra.instance().hydra is None


@pytest.mark.parametrize(
    ("words", "method"),
    [
        ([], "run"),
        (["--run"], "run"),
        (["-m"], "multirun"),
        (["hydra.mode=MULTIRUN"], "multirun"),
        (["++hydra.mode=MULTIRUN"], "multirun"),
        (["+hydra={mode: MULTIRUN}"], "multirun"),
        (["hydra.run.dir=somewhere"], "run"),
        (["--cfg", "job"], "show_cfg"),
        (["--info"], "show_info"),
        (["-sc", "install=bash"], "shell_completion"),
        (["--hydra-help"], "hydra_help"),
    ],
)
def test_flags_choose_the_mode(words, method):
    def job(cfg):
        raise AssertionError

    register_resolvers()
    with opened("ema", None) as hydra:
        call = mode(hydra, "ema", job, parse("ema", words))
    assert call.func == getattr(hydra, method)
    if method in ("run", "multirun"):
        assert call.args[-1][-1] == f"hydra.mode={method.upper()}"
        assert call.args[:2] == ("ema", job)


def test_a_config_of_the_users_may_choose_to_sweep(tmp_path):
    text = "# @package _global_\nhydra:\n  mode: MULTIRUN\n"
    (tmp_path / "averages").mkdir()
    (tmp_path / "averages" / "own.yaml").write_text(text)
    register_resolvers()
    with opened("train", str(tmp_path)) as hydra:
        words = ["--config-dir", str(tmp_path), "averages=own"]
        call = mode(hydra, "train", lambda cfg: None, parse("train", words))
        assert call.func == hydra.multirun


def test_no_config_of_ours_chooses_the_mode():
    """So that it need not be composed to find out."""
    for path in sorted((Path(__file__).parents[2] / "conf").rglob("*.yaml")):
        node = OmegaConf.load(path)
        assert "mode" not in (node.get("hydra") or {}), path
        assert "hydra" not in path.relative_to(path.parents[1]).parts[0] or "mode" not in node, path
