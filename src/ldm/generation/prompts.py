"""Prompts and negative prompts of a call, one per image."""

from collections.abc import Iterable, Sequence
from typing import Any

from ldm.generation.settings import Settings
from ldm.utils.errors import UserError


def as_prompts(value: Any, name: str) -> list[str]:
    """A list of at least one prompt.

    Args:
        value: one prompt or several.
        name: of the argument.

    Raises: ValueError for anything else.
    """
    prompts = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else []
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise UserError(f"{name} must be a text or a list of at least one text, got {value!r}")
    return prompts


def all_prompts(prompt: str | Sequence[str] | None, given: Settings, unconditional: bool) -> list[str]:
    """One prompt per image; "" for those of an unconditional model.

    Args:
        prompt: one prompt, several, or None for an unconditional model.
        given: further arguments.
        unconditional: True if the model takes no prompts.

    Raises: ValueError for a prompt that the model ignores, or for none where it needs one.
    """
    if unconditional:
        both = {"prompt": prompt, "negative_prompt": given.negative_prompt}
        texts = [text for name, value in both.items() if value for text in as_prompts(value, name)]
        if any(texts):
            raise UserError(
                f"prompt must be left out for an unconditional model (give num_images), got {texts[0]!r}"
            )
        if prompt is None:
            return [""] * (given.num_images or 1) * given.num_images_per_prompt
    if given.num_images is not None:
        raise UserError(
            "num_images must be left out where there are prompts: use num_images_per_prompt, "
            f"got {given.num_images}"
        )
    if prompt is None:
        raise UserError("prompt must be given: this model is conditional")
    return [p for p in as_prompts(prompt, "prompt") for _ in range(given.num_images_per_prompt)]


def as_negatives(value: Any, prompts: list[str], repeats: int) -> list[str]:
    """Negative prompts, one per image; "" stands for none.

    Args:
        value: one for all prompts, one for each, or None.
        prompts: one per image.
        repeats: images of each prompt.

    Raises: ValueError if there are neither one nor as many as prompts.
    """
    if value is None or isinstance(value, str):
        return [value or ""] * len(prompts)
    negatives = [p for p in as_prompts(value, "negative_prompt") for _ in range(repeats)]
    if len(negatives) != len(prompts):
        raise UserError(
            f"negative_prompt must be one text or {len(prompts) // repeats}, one for each prompt, "
            f"got {len(negatives) // repeats}"
        )
    return negatives
