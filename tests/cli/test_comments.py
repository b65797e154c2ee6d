"""Comments of a config file: above a key, at the end of its line, and the title at the top."""

from ldm.cli.comments import Default, Entry, choices, defaults, entries, examples, title

TEXT = """\
# @package _global_
# What is it?
# More.
#   ldm-train one  # comment
defaults:
  - base
  - data: emoji  # images
  - override /prediction: x0
  - optional local: null
  - _self_

first: 1
# above
second: [1, "a"]
third: ""  # behind
# all
plain: {a: 1, b: 2}
node:
  _target_: x.Y
  # inner
  key: 1.0e-4
  empty:
"""


def test_title_examples_and_defaults():
    assert title(TEXT) == "What is it?"
    assert title("a: 1\n# b") == ""
    assert examples(TEXT) == ["ldm-train one  # comment"]
    expected = [("", "base", ""), ("data", "emoji", "images"), ("local", "null", "")]
    assert defaults(TEXT) == [Default(*values) for values in expected]
    assert choices(TEXT) == ["prediction=x0"]


def test_entries_have_dotted_names_values_as_written_and_comments():
    assert entries(TEXT) == [
        Entry("first", "1", ""),
        Entry("second", "[1,a]", "above"),
        Entry("third", '""', "behind"),
        Entry("plain", "{a:1,b:2}", "all"),
        Entry("node._target_", "x.Y", ""),
        Entry("node.key", "1.0e-4", "inner"),
        Entry("node.empty", "null", ""),
    ]


def test_leaves_of_plain_mappings_on_demand():
    assert Entry("plain.a", "1", "") in entries(TEXT, leaves=True)


def test_the_title_is_no_comment_of_the_first_key():
    text = "# Title.\n_target_: x\n# c\nkey: 1"
    assert entries(text) == [Entry("_target_", "x", ""), Entry("key", "1", "c")]


def test_an_empty_file_has_no_keys():
    assert entries("# nothing\n") == []
    assert defaults("") == []
