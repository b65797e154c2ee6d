"""Groups, options and keys as help reads them from the config files of `ldm` and of a user's folder."""

from pathlib import Path

import pytest

from ldm.cli.pages import Files

CONF = Path(__file__).parents[2] / "conf"
GROUPS = sorted(path.name for path in CONF.iterdir() if (path / "README.md").is_file())


@pytest.mark.parametrize("group", GROUPS)
def test_options_of_a_group_are_its_files_and_have_titles(group):
    options = Files().options(group)
    assert options == sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    assert all(Files().title(group, option) for option in options)
    first, _ = Files().describe(group)
    assert first


def test_options_of_a_folder_join_those_of_ldm(tmp_path):
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "mine.yaml").write_text("# My solver.\n_target_: mine.Solver\n")
    files = Files(str(tmp_path))
    assert set(files.options("scheduler")) == {*Files().options("scheduler"), "mine"}
    assert files.title("scheduler", "mine") == "My solver."


def test_an_option_shows_the_keys_that_users_set_with_their_comments():
    entries = {entry.key: entry for entry in Files().option("data", "imagefolder")}
    assert entries["root"].comment
    assert not any(key.rpartition(".")[2] in ("_target_", "_partial_") for key in entries)
    assert "seed" not in entries  # ${seed}: the config's own wiring


def test_an_option_has_the_keys_of_the_one_that_it_extends(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("defaults: [imagefolder]\n# where mine are\nroot: here\n")
    found = {entry.key: entry for entry in Files(str(tmp_path)).option("data", "mine")}
    assert found["root"][1:] == ("here", "where mine are")
    assert found.keys() == {entry.key for entry in Files().option("data", "imagefolder")}


def test_a_command_has_the_groups_and_keys_of_the_one_that_it_extends():
    files = Files()
    train, plan = ({default.group for default in files.groups(name)} for name in ("train", "plan"))
    assert train < plan
    assert {"max_steps"} & {entry.key for entry in files.keys("train")} == set()
    assert {entry.key for entry in files.keys("train")} - {entry.key for entry in files.keys("plan")} == set()
