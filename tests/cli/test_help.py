"""The head of `--help`: usage and every group with its options, those of the user among them."""

from importlib import resources

from ldm.cli.help import print_help_head


def groups(capsys):
    text = capsys.readouterr().out.split("== Groups (group=option) ==")[1].split("== Config")[0]
    return {line.split(": ")[0]: line.split(": ")[1].split(", ") for line in text.strip().splitlines()}


def test_every_group_file_is_listed(capsys):
    print_help_head("train", None)
    shown = groups(capsys)
    conf = resources.files("ldm.conf")
    for group in ("experiment", "data", "scheduler", "task", "autoencoder"):
        names = [child.name for child in (conf / group).iterdir() if child.name.endswith(".yaml")]
        assert shown[group] == sorted(name.removesuffix(".yaml") for name in names)
    assert "hydra" not in shown


def test_options_of_the_users_folder_are_listed_too(tmp_path, capsys):
    for path in ("data/mine.yaml", "data/notes.txt", "own/deep/x.yaml", "primary.yaml"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    print_help_head("train", str(tmp_path))
    shown = groups(capsys)
    assert {"mine", "emoji"} <= set(shown["data"])
    assert shown["own/deep"] == ["x"]
    assert "notes" not in shown["data"]
    assert not any("primary" in options for options in shown.values())


def test_a_folder_that_is_not_there_changes_nothing(tmp_path, capsys):
    """Hydra itself says so, when it composes the config."""
    print_help_head("train", None)
    before = groups(capsys)
    print_help_head("train", str(tmp_path / "nowhere"))
    assert groups(capsys) == before


def test_the_command_is_named(capsys):
    print_help_head("sample", None)
    assert capsys.readouterr().out.startswith("usage: ldm-sample ")
