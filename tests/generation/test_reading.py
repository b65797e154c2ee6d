"""How prompts are read, and what is said about it."""

import logging

import pytest

from ldm.generation.reading import PLAIN, Reading, reading_of, warn_of_words
from ldm.generation.settings import Settings
from ldm.models.text_encoder import BaseTextEncoder

OWN = {"prompt_weights": True, "long_prompts": "chunks"}


class Short(BaseTextEncoder):
    """Reads two tokens."""

    max_length = 4


def test_the_call_decides_then_the_model():
    assert reading_of(Settings(), {}, OWN) == PLAIN == Reading(prompt_weights=False, long_prompts="cut")
    assert reading_of(Settings(), OWN, OWN) == Reading(prompt_weights=True, long_prompts="chunks")
    given = Settings(prompt_weights=False, long_prompts="cut")
    assert reading_of(given, OWN, OWN) == PLAIN
    assert reading_of(Settings(prompt_weights=True), {}, ()) == Reading(prompt_weights=True)


def test_what_a_text_encoder_lacks_is_plain_by_default():
    assert reading_of(Settings(), OWN, ()) == PLAIN
    assert reading_of(Settings(), OWN, {"long_prompts"}) == Reading(long_prompts="chunks")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"prompt_weights": "yes"}, "prompt_weights must be"),
        ({"long_prompts": "all"}, "long_prompts must be one"),
    ],
)
def test_other_values_are_refused(settings, says):
    with pytest.raises((ValueError, TypeError), match=says):
        Settings.__post_init__(type("Given", (), vars(Settings()) | settings)())


@pytest.mark.parametrize(
    ("prompt", "reading", "told", "says"),
    [
        ("a cat", Reading(True), False, None),
        (
            "a (cat:1.2)",
            Reading(True),
            False,
            "are read as weights, prompt_weights=false",
        ),
        ("a (cat:1.2)", Reading(True), True, None),
        ("a (cat:1.2)", PLAIN, False, "its end is left out"),
        (
            "a <lora:x:0.8>",
            Reading(True, "chunks"),
            True,
            "<lora:x:0.8> is read as text: give",
        ),
        ("[a:b:0.5]", Reading(True), True, "[a:b:0.5]: prompt editing"),
        ("[a|b]", Reading(True, "chunks"), True, "[a|b]: prompt editing"),
        ("a AND b", Reading(True, "chunks"), True, "AND: prompt editing"),
        ("a b c d", PLAIN, True, "more than 4 tokens, its end is left out: c d"),
        ("((a b)) c", Reading(True), True, "more than 4 tokens, its end is left out: c"),
        ("a b c d", Reading(False, "chunks"), True, None),
    ],
)
def test_what_is_not_read_as_text_is_said(prompt, reading, told, says, caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_words(Short(), [prompt], reading, told)
    assert says in caplog.text if says else not caplog.records
