import sys

import pytest

from ldm.cli.arguments import command_line, parse
from ldm.utils.errors import UserError


def test_flags_stand_on_either_side_of_the_overrides():
    line = ["seed=1", "-m", "text=a,b", "--config-name=own", "~logger"]
    found = parse("train", line)
    assert found.overrides == ["seed=1", "text=a,b", "~logger"]
    assert (found.multirun, found.config_name, found.run) == (True, "own", False)


def test_a_flag_of_another_program_is_told_with_its_value():
    for words in (["--steps", "20"], ["--steps=20"]):
        with pytest.raises(UserError, match=r"^--steps: write num_inference_steps=20$"):
            parse("sample", words)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--multirun", "--cfg", "job"], "argument --cfg/-c: not allowed with argument --multirun/-m"),
        (["--cfg", "everything"], "argument --cfg/-c: invalid choice: 'everything'"),
        (["--resolve"], "--resolve: only with --cfg"),
        (["-q"], "unrecognized arguments: -q"),
        (["a", "cat"], 'a cat: write prompt="a cat"'),
    ],
)
def test_a_mistake_is_one_line(words, line):
    with pytest.raises(UserError) as caught:
        parse("sample", words)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_words_after_help_name_groups():
    assert parse("train", ["--help", "data"]).overrides == ["data"]


def test_flags_are_not_abbreviated():
    with pytest.raises(UserError, match=r"^--multi: no such flag; did you mean '--multirun'"):
        parse("train", ["--multi"])


def test_arguments_replace_those_of_the_process_for_a_while(monkeypatch):
    before = ["prog", "seed=1"]
    monkeypatch.setattr(sys, "argv", before)
    with command_line(["a=1"]) as words:
        assert (sys.argv, words) == (["prog", "a=1"], ["a=1"])
    assert sys.argv is before


def test_without_arguments_those_of_the_process_are_taken(monkeypatch):
    before = ["prog", "seed=1"]
    monkeypatch.setattr(sys, "argv", before)
    with command_line(None) as words:
        assert words == ["seed=1"]
        sys.argv.append("more")
    assert sys.argv == ["prog", "seed=1"]
