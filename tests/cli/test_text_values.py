"""Text survives Hydra's grammar and OmegaConf's interpolation; lists are read as people type them."""

import random

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from ldm.cli.text_values import as_list, quoted, quoted_list, typed_list

PIECES = ["a", " ", "'", '"', "\\", "$", "{", "}", "${", "${HOME}", "\\${", "[", "]", ",", "=", "\n", "\t"]
PIECES += [
    "🎉",
    "\u2019",
    "~",
    "+",
    "(",
    ")",
    "<",
    ":",
    "|",
    "é",
    "#",
    "%",
    ";",
    "null",
    "1e3",
    "\u2028",
    "\r",
]


def read(value):
    """What a config holds after an override with this value."""
    config = OmegaConf.create({"key": None})
    OmegaConf.update(config, "key", OverridesParser.create().parse_override(f"key={value}").value())
    return OmegaConf.to_container(config, resolve=True)["key"]


def texts(count):
    draws = random.Random(0)
    return ["".join(draws.choices(PIECES, k=draws.randint(0, 7))) for _ in range(count)]


def test_any_text_is_itself_after_hydra_and_interpolation():
    for text in texts(500):
        assert read(quoted(text)) == text


def test_any_list_of_texts_is_itself():
    for text in texts(200):
        items = [text, None, "null", "1"]
        assert read(quoted_list(items)) == items
        assert as_list(typed_list(items)) == items


@pytest.mark.parametrize(
    ("value", "items"),
    [
        ("[pizza,rocket]", ["pizza", "rocket"]),
        ("[red heart, it's a cat , don\u2019t]", ["red heart", "it's a cat", "don\u2019t"]),
        ("['a, b', \"c, 'd'\"]", ["a, b", "c, 'd'"]),
        ('["quoted" cat, dog]', ['"quoted" cat', "dog"]),
        ("[a [red] cat, (b:1.2)]", ["a [red] cat", "(b:1.2)"]),
        ("[1, 1.50, true]", ["1", "1.50", "true"]),
        ('[null, "null", ""]', [None, "null", ""]),
        ("[two\nlines, ${HOME}]", ["two\nlines", "${HOME}"]),
        ("[]", []),
    ],
)
def test_a_value_whose_first_bracket_closes_at_its_end_is_a_list(value, items):
    assert as_list(value) == items


@pytest.mark.parametrize(
    "value", ["[cat] sitting", "[a], [b]", "[a", "a]", "[a,]", "[,a]", "[a]]", "cat [a]", ""]
)
def test_other_values_are_no_lists(value):
    assert as_list(value) is None
