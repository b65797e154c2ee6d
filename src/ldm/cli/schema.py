"""Types of the keys that primary configs have themselves; nodes have the annotations of their targets.

One table decides for every command which keys take text, character by character, and what is refused.
"""

import math
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from ldm.utils.construct import fits
from ldm.utils.errors import UserError

PATHS = {"paths.runs": str, "paths.data": str, "paths.run": str}
TRAIN = {
    "name": str,
    "seed": int,
    "resume": str,
    "init_checkpoint": str | None,
    "dry_run": bool,
    "threads": int | None,
    "prompts": list[str] | int,
    "weak_checkpoint": str | None,
    "sampling.num_inference_steps": int,
    "sampling.noise": str,
    "sampling.guidance_scale": float,
}
TYPES: dict[str, dict[str, Any]] = {
    "sample": PATHS
    | {
        "checkpoint": str | None,
        "prompt": str | list[str] | None,
        "prompts": str | None,
        "negative_prompt": str | list[str | None] | None,
        "num_images_per_prompt": int,
        "num_images": int | None,
        "seed": int | list[int],
        "num_inference_steps": int | None,
        "guidance_scale": float | None,
        "weak_checkpoint": str | None,
        "lora": str | list[str] | None,
        "lora_scale": float | list[float],
        "eta": float | None,
        "noise": str | None,
        "clip_skip": int,
        "replay": str | None,
        "output": str | None,
        "overwrite": bool,
        "scale": int,
        "batch_size": int,
        "device": str,
        "dtype": str,
        "vae_slicing": bool,
        "vae_tiling": bool,
        "threads": int | None,
        "variant": str | None,
        "prediction": str | None,
        "ema": bool,
        "kind": str,
        "image": str,
        "mask": str,
        "size": list[int] | None,
        "strength": float,
        "resample": int,
        "jump_length": int,
        "height": int | None,
        "width": int | None,
    },
    "train": PATHS | TRAIN,
    "plan": PATHS | TRAIN | {"precomputed": bool | None, "json": str | None},
    "data": PATHS
    | {
        "seed": int,
        "action": str,
        "seconds": float,
        "dataset": str | None,
        "split": str,
        "image_column": str,
        "caption_column": str,
        "per_shard": int,
        "checkpoint": str | None,
        "dtype": str,
        "precision": str,
        "batch_size": int,
        "device": str,
        "samples": int,
        "output": str | None,
        "overwrite": bool,
        "threads": int | None,
    },
    "convert": PATHS
    | {
        "input": str,
        "output": str,
        "format": str,
        "dtype": str | None,
        "overwrite": bool,
        "variant": str | None,
        "prediction": str | None,
        "ema": bool,
        "lora": str | list[str] | None,
        "lora_scale": float | list[float],
    },
    "ema": PATHS
    | {
        "run": str,
        "sigma_rel": float,
        "images": int | None,
        "output": str,
        "dtype": str,
        "overwrite": bool,
        "max_error": float,
    },
}
EMPTY = {"prompt", "negative_prompt"}
"""Keys whose text may be empty; an empty path or name is a variable of the shell that is not set."""
COUNTS = {
    *("num_images_per_prompt", "num_images", "batch_size", "scale", "threads", "per_shard", "samples"),
    *("num_inference_steps", "sampling.num_inference_steps"),
}
"""Keys whose whole number is at least 1."""
NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


class Kind(NamedTuple):
    """The values that a type allows, null aside.

    Attributes:
        text: a text.
        texts: a list of texts.
        other: something that is not text.
    """

    text: bool
    texts: bool
    other: bool


def kind(annotation: Any) -> Kind:
    """The kinds of values of a type; of one that is not known, something other than text."""
    text = texts = other = False
    for member in _members(annotation):
        origin, arguments = get_origin(member), get_args(member)
        if member in (str, Path) or (origin is Literal and all(isinstance(a, str) for a in arguments)):
            text = True
        elif origin in (list, tuple, Sequence) and str in _members(arguments[0]):
            texts = True
        elif member is not types.NoneType:
            other = True
    return Kind(text, texts, other)


def check_types(command: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a command whose values have the types of its keys.

    Numbers in place of text, which a sweep's grammar makes of digits, become text again.

    Raises: UserError naming the first key whose value has another type.
    """
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in config.items()}
    for key, annotation in TYPES.get(command, {}).items():
        parent, _, name = key.rpartition(".")
        node = result.get(parent) if parent else result
        if not isinstance(node, dict) or name not in node or node[name] == "???":
            continue
        value = node[name] = _as_text(node[name], annotation)
        if not fits(value, annotation):
            raise UserError(f"must be {describe(annotation)}, got {value!r}", key)
        if value == "" and key not in EMPTY:
            raise UserError("must not be empty", key)
        if key in COUNTS and value is not None and value < 1:
            raise UserError(f"must be at least 1, got {value}", key)
        if any(isinstance(v, float) and not math.isfinite(v) for v in _values(value)):
            raise UserError(f"must be finite, got {value}", key)
    return result


def describe(annotation: Any) -> str:
    """The words for a type: "a whole number, a list of whole numbers or null"."""
    words = []
    for member in _members(annotation):
        inner = _members(get_args(member)[0])[0] if get_origin(member) is list else None
        words.append(NAMES[member] if inner is None else f"a list of {PLURALS[inner]}")
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _as_text(value: Any, annotation: Any) -> Any:
    """A value, with numbers as the text that they stand for where only text is allowed."""
    allowed = kind(annotation)
    if allowed.other:
        return value
    if isinstance(value, list) and allowed.texts:
        return [_as_text(item, str) for item in value]
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) and allowed.text else value


def _values(value: Any) -> Iterator[Any]:
    return iter(value) if isinstance(value, list) else iter((value,))


def _members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a type."""
    is_union = get_origin(annotation) in (Union, types.UnionType)
    return get_args(annotation) if is_union else (annotation,)
