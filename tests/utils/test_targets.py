"""Targets are the project's own and those of the user's folders, nothing else."""

import sys

import pytest

from ldm.utils.construct import construct, reconstruct
from ldm.utils.errors import UserError
from ldm.utils.targets import STORED, locate, user_modules

NET = "from torch import nn\nfrom subprocess import run\n\n\nclass Net(nn.Identity):\n    name = {name!r}\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with a module and a package of the user's."""
    (tmp_path / "own_net.py").write_text(NET.format(name="module"))
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text("")
    (tmp_path / "own_package" / "inner.py").write_text("from own_net import Net\n\n\nclass Other(Net): ...\n")
    return tmp_path


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "torch.load", "torch.hub.load", 3, None, "x"])
def test_a_foreign_target_is_refused(name):
    with pytest.raises(UserError, match=r"^a\._target_: .* is not allowed; targets start with ldm\., "):
        construct({"_target_": name}, "a")


def test_a_foreign_target_behind_an_allowed_module_is_refused():
    with pytest.raises(UserError, match=r"^'ldm\.cli\.app\.os\.system' not found"):
        locate("ldm.cli.app.os.system")


def test_a_misspelt_target_gets_the_nearest_name():
    with pytest.raises(UserError, match=r"not found; did you mean 'torch\.optim\.AdamW'\?$"):
        locate("torch.optim.AdamWW")
    with pytest.raises(UserError, match=r"^'ldm\.modells\.unet\.UNet' not found"):
        locate("ldm.modells.unet.UNet")


def test_an_unknown_module_is_named_with_the_ways_to_give_it():
    with pytest.raises(UserError, match=r"no module 'own_net' .*--config-dir FOLDER, .*modules='FOLDER'"):
        locate("own_net.Net", STORED)


@pytest.mark.parametrize("build", [construct, reconstruct])
def test_modules_of_a_folder_are_targets_while_inside(folder, build):
    with user_modules(folder):
        assert build({"_target_": "own_net.Net"}).name == "module"
        assert build({"_target_": "own_package.inner.Other"}).name == "module"
    assert "own_net" not in sys.modules
    assert str(folder) not in sys.path
    with pytest.raises(UserError, match="is not allowed"):
        build({"_target_": "own_net.Net"})


def test_two_folders_may_have_modules_of_one_name(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "own_net.py").write_text(NET.format(name="other"))
    for place, name in ((folder, "module"), (other, "other"), (folder, "module")):
        with user_modules(place):
            assert locate("own_net.Net").name == name


def test_a_folder_inside_itself_keeps_its_modules(folder):
    with user_modules(folder):
        first = locate("own_net.Net")
        with user_modules(folder):
            pass
        assert locate("own_net.Net") is first


def test_what_a_module_imports_is_no_target(folder):
    with user_modules(folder), pytest.raises(UserError, match="is not a class or function of"):
        locate("own_net.run")


@pytest.mark.parametrize("name", ["subprocess", "yaml"])
def test_a_module_named_like_an_installed_one_is_refused(folder, name):
    (folder / f"{name}.py").write_text("class Net: ...\n")
    with user_modules(folder), pytest.raises(UserError, match="is not allowed"):
        locate(f"{name}.Net")


@pytest.mark.parametrize(
    ("text", "message"),
    [("import not_installed_anywhere\n", "not_installed_anywhere"), ("class A(:\n", "invalid syntax")],
)
def test_a_module_that_cannot_be_imported_is_one_line(folder, text, message):
    (folder / "broken.py").write_text(text)
    with (
        user_modules(folder),
        pytest.raises(UserError, match=f"^'broken\\.Net' cannot be imported: .*{message}"),
    ):
        locate("broken.Net")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with (
        pytest.raises(UserError, match=r"^modules must be a folder, got '.*none'$"),
        user_modules(tmp_path / "none"),
    ):
        pass
