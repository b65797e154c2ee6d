"""Help: only what a command uses, each group and key with its comment, from the files of `conf/`."""

import re
from pathlib import Path

import pytest

from ldm.cli.arguments import parse
from ldm.cli.help import shown
from ldm.cli.pages import Files
from ldm.utils.errors import UserError

COMMANDS = ("train", "sample", "data", "convert", "ema", "plan")


def text(command, *words):
    return shown(command, parse(command, [*words, "--help"]))


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_its_groups_keys_and_five_examples(command):
    page = text(command)
    assert page.startswith(f"usage: ldm-{command} ")
    assert len(re.findall(rf"^  ldm-{command} ", page, re.MULTILINE)) == 5
    assert max(map(len, page.splitlines())) <= 100
    shown_groups = {d.group for d in Files().groups(command)}
    assert ("backbone" in shown_groups) == (command in ("train", "plan"))
    assert ("mode" in shown_groups) == (command == "sample")
    for group in shown_groups:
        assert re.search(rf"^  {group}=", page, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_group_and_key_of_a_command_has_a_comment(command):
    files = Files()
    assert [e.key for e in files.keys(command) if not e.comment] == []
    assert [d.group for d in files.groups(command) if not (files.describe(d.group)[0] or d.comment)] == []


GROUPS = sorted({d.group for command in COMMANDS for d in Files().groups(command)} - {"experiment", "debug"})
OPTIONS = [(group, name) for group in GROUPS for name in Files().options(group)]


@pytest.mark.parametrize(("group", "name"), OPTIONS, ids="=".join)
def test_every_option_has_a_title_and_comments_on_its_keys(group, name):
    files = Files()
    assert files.title(group, name)
    assert [e.key for e in files.option(group, name) if not e.comment] == []


def test_required_keys_come_first():
    page = text("convert")
    assert page.index("Required") < page.index("input=???") < page.index("Keys") < page.index("format=ldm")


def test_a_group_shows_options_keys_and_contract():
    page = text("train", "backbone")
    assert "backbone=sd15 " in page
    assert "backbone.channels=" in page
    assert "Contract: ldm.models.protocols.Backbone" in page
    assert "context_dim: int | None" in page


def test_an_option_shows_its_keys_with_comments_and_enumerated_values():
    page = text("train", "data=emoji")
    assert page.startswith("data=emoji: ")
    assert re.search(r"data\.batch_size=64 +\w", page)
    assert "cross" in text("train", "backbone=toy")


def test_an_experiment_shows_what_it_chooses_and_sets():
    page = text("train", "experiment=emoji")
    assert "  prediction=x0" in page
    assert "  data.batch_size=32" in page


def test_a_group_or_option_that_does_not_exist_is_one_line():
    with pytest.raises(UserError, match=r"^dat: no such group; did you mean 'data'"):
        text("train", "dat")
    with pytest.raises(UserError, match=r"^data=emojis: no such option; did you mean 'emoji'"):
        text("train", "data=emojis")
    with pytest.raises(UserError, match=r"^backbone: no such group"):
        text("sample", "backbone")


def test_options_in_a_folder_of_the_users_are_shown(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("# My images.\nroot: here # where they are\n")
    assert "mine" in text("train", "--config-dir", str(tmp_path))
    page = text("train", "data=mine", "--config-dir", str(tmp_path))
    assert page.splitlines()[0] == "data=mine: My images."
    assert re.search(r"data\.root=here +where they are", page)


def test_the_actions_of_ldm_data_are_listed():
    from ldm.cli.data import WORDS

    page = text("data")
    for word in WORDS:
        assert word in page


def test_version_is_that_of_ldm():
    assert re.fullmatch(r"ldm \d+\.\d+\.\d+", shown("train", parse("train", ["--version"])))
