"""The wheel holds every module, config and asset, and finds them from anywhere."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "-c", "from setuptools import build_meta as b; print(b.build_wheel('..'))"]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def wanted():
    """Files of the checkout that the package needs -> their names in the wheel."""
    source = [p for p in (ROOT / "src").rglob("*") if p.is_file() and "egg-info" not in str(p)]
    files = {p: p.relative_to(ROOT / "src") for p in source if p.suffix == ".py" or p.name == "py.typed"}
    files |= {p: p.relative_to(ROOT / "src") for p in source if p.parent.name == "assets"}
    return files | {p: Path("ldm") / p.relative_to(ROOT) for p in (ROOT / "conf").rglob("*.yaml")}


def test_the_wheel_holds_every_module_config_and_asset(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {str(name) for name in wanted().values()} - names == set()
    assert not any(name.startswith(("conf/", "tests/", "experiments/")) for name in names)


def test_an_installed_wheel_works_from_anywhere(wheel, tmp_path):
    """Installed beside nothing of the checkout: no editable finder, another working directory."""
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(target)
    elsewhere.mkdir()
    code = f"""
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
import ldm
assert ldm.__file__.startswith({str(target)!r}), ldm.__file__
from importlib.resources import files
assert files("ldm.conf").joinpath("trainer", "cpu.yaml").is_file()
from hydra import compose, initialize_config_module
with initialize_config_module("ldm.conf", version_base="1.3"):
    print(compose(overrides=["+trainer=fsdp"]).trainer.strategy.shard)
from ldm.cli.arguments import parse
from ldm.cli.help import shown
print(shown("train", parse("train", ["--help"])))
print(shown("train", parse("train", ["--help", "backbone"])))
"""
    env = {**os.environ, "PYTHONPATH": str(target)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, env=env, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("True\n")
    assert "(cpu, ddp, fsdp, gpu)" in result.stdout
    assert "Contract: ldm.models.protocols.Backbone" in result.stdout


def test_version_is_said_once_more_only_where_it_must():
    import tomllib

    import ldm

    assert ldm.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_public_names_are_importable():
    import ldm

    for name in ldm.__all__:
        assert getattr(ldm, name) is not None
    assert set(ldm.__all__) <= set(dir(ldm))
    with pytest.raises(AttributeError, match="module 'ldm' has no attribute 'Nothing'"):
        _ = ldm.Nothing


def test_all_extras_are_in_one():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert everything == f"ldm[{','.join(name for name in extras if name != 'all' and name != 'dev')},dev]"
