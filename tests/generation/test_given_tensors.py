"""Tensors in place of prompts and noise."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ldm.generation.given_tensors import check_embeds, check_latents, embeds_of, placeholders
from ldm.generation.settings import Settings
from ldm.utils.errors import UserError

TOKENS = SimpleNamespace(context_dim=4, pooled_dim=None, max_length=7)
POOLED = SimpleNamespace(context_dim=4, pooled_dim=4, max_length=7)
PROMPT = torch.zeros(2, 7, 4)


def test_encoded_prompts_are_repeated_for_each_image():
    given = Settings(
        prompt_embeds=torch.arange(2.0).view(2, 1, 1), negative_prompt_embeds=torch.full((1, 1, 1), 5.0)
    )
    given = Settings(
        num_images_per_prompt=2,
        prompt_embeds=given.prompt_embeds,
        negative_prompt_embeds=given.negative_prompt_embeds,
    )
    assert placeholders(None, given) == [""] * 4
    found = embeds_of(given, 4, torch.device("cpu"), torch.float16)
    assert found["embeds"].flatten().tolist() == [0, 0, 1, 1]
    assert found["negative_embeds"].flatten().tolist() == [5] * 4
    assert found["embeds"].dtype == torch.float16
    assert embeds_of(Settings(), 3, torch.device("cpu"), torch.float32) == {}
    assert placeholders("a", Settings()) == []


@pytest.mark.parametrize(
    ("given", "encoder", "weak", "says"),
    [
        ({"prompt_embeds": PROMPT}, POOLED, False, "prompt_embeds must be left out for a model that is"),
        ({"prompt_embeds": PROMPT}, TOKENS, True, "prompt_embeds must be left out"),
        ({"prompt_embeds": PROMPT[..., :3]}, TOKENS, False, r"must be a tensor \(n, l, 4\), got \(2, 7, 3\)"),
        ({"prompt_embeds": PROMPT[0]}, TOKENS, False, r"must be a tensor \(n, l, 4\), got \(7, 4\)"),
        ({"prompt_embeds": PROMPT, "clip_skip": 1}, TOKENS, False, "clip_skip must be 0"),
        ({"prompt_embeds": PROMPT[:, :5]}, TOKENS, False, "must be as long as the prompts, 5, got 7"),
        ({"negative_prompt_embeds": PROMPT[:, :5]}, TOKENS, False, "as long as the prompts, 7, got 5"),
        (
            {"negative_prompt_embeds": PROMPT, "negative_prompt": "x"},
            TOKENS,
            False,
            "negative_prompt must be left out",
        ),
    ],
)
def test_encoded_prompts_that_a_model_cannot_read_are_refused(
    given: dict[str, Any], encoder: Any, weak: bool, says: str
):
    with pytest.raises(UserError, match=says):
        check_embeds(Settings(**given), encoder, True, weak)


def test_lengths_matter_only_where_both_are_read():
    check_embeds(Settings(prompt_embeds=PROMPT[:, :5]), TOKENS, False, False)
    check_embeds(Settings(prompt_embeds=PROMPT, negative_prompt_embeds=PROMPT), TOKENS, True, False)


@pytest.mark.parametrize(
    ("prompt", "given", "says"),
    [
        ("a", {"prompt_embeds": PROMPT}, "prompt must be left out where prompt_embeds are given"),
        (None, {"prompt_embeds": PROMPT, "num_images": 2}, "num_images must be left out"),
        (None, {"prompt_embeds": PROMPT[0]}, r"prompt_embeds must be a tensor \(n, l, d\)"),
    ],
)
def test_prompts_besides_encoded_ones_are_refused(prompt: Any, given: dict[str, Any], says: str):
    with pytest.raises(UserError, match=says):
        placeholders(prompt, Settings(**given))


def test_negative_ones_are_one_or_as_many():
    given = Settings(num_images_per_prompt=2, negative_prompt_embeds=PROMPT)
    with pytest.raises(UserError, match="negative_prompt_embeds must be one or 3, one a prompt, got 2"):
        embeds_of(given, 6, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("latents", "says"),
    [
        (torch.zeros(1, 4, 2, 2), r"latents must be a floating-point tensor \(2, 4, 2, 2\), one for each"),
        (torch.zeros(2, 4, 2, 2, dtype=torch.int64), "got torch.int64"),
        ([1.0], "got list"),
        (torch.full((2, 4, 2, 2), float("inf")), "latents must be finite"),
    ],
)
def test_latents_are_one_for_each_image(latents: Any, says: str):
    with pytest.raises(UserError, match=says):
        check_latents(latents, (2, 4, 2, 2))
    check_latents(None, (2, 4, 2, 2))
    check_latents(torch.zeros(2, 4, 2, 2).half(), (2, 4, 2, 2))
