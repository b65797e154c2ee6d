"""One prompt and one negative prompt for each image of a call."""

from typing import Any

import pytest

from ldm.generation.prompts import all_prompts, as_negatives, as_prompts
from ldm.generation.settings import Settings
from ldm.utils.errors import UserError


def test_prompts_are_repeated_for_their_images():
    given = Settings(num_images_per_prompt=2)
    assert all_prompts(["x", "y"], given, unconditional=False) == ["x", "x", "y", "y"]
    assert all_prompts("x", Settings(), unconditional=False) == ["x"]


def test_images_of_an_unconditional_model_are_counted():
    assert all_prompts(None, Settings(num_images=3), unconditional=True) == ["", "", ""]
    assert all_prompts(None, Settings(), unconditional=True) == [""]
    assert all_prompts(["", ""], Settings(), unconditional=True) == ["", ""]


@pytest.mark.parametrize(
    ("prompt", "given", "unconditional", "says"),
    [
        (None, {}, False, "prompt must be given: this model is conditional"),
        ("x", {"num_images": 2}, False, "num_images must be left out where there are prompts"),
        ("x", {}, True, "prompt must be left out for an unconditional model"),
        (None, {"negative_prompt": "x"}, True, "prompt must be left out for an unconditional model"),
        ([], {}, False, "prompt must be a text or a list of at least one text"),
    ],
)
def test_what_a_model_would_ignore_or_lacks_is_refused(
    prompt: Any, given: dict[str, Any], unconditional: bool, says: str
):
    with pytest.raises(UserError, match=says):
        all_prompts(prompt, Settings(**given), unconditional)


def test_negatives_are_one_for_all_or_one_for_each_prompt():
    prompts = ["x", "x", "y", "y"]
    assert as_negatives(None, prompts, 2) == [""] * 4
    assert as_negatives("n", prompts, 2) == ["n"] * 4
    assert as_negatives(["n", "m"], prompts, 2) == ["n", "n", "m", "m"]
    with pytest.raises(UserError, match="negative_prompt must be one text or 2"):
        as_negatives(["n", "m", "o"], prompts, 2)


@pytest.mark.parametrize("value", [5, [5], b"x", None])
def test_prompts_of_another_kind_are_refused(value: Any):
    with pytest.raises(UserError, match=r"prompt must be a text or a list of at least one text, got "):
        as_prompts(value, "prompt")
    if value is not None:
        with pytest.raises(UserError, match=r"negative_prompt must be a text or a list"):
            as_negatives(value, ["x"], 1)


def test_a_single_text_is_a_list_of_one():
    assert as_prompts("x", "prompt") == ["x"]
