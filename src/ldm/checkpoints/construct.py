"""Objects from plain config nodes (dicts with `_target_`), for reading models without Hydra."""

import functools
import importlib
from typing import Any

ALLOWED = ("ldm.diffusion.", "ldm.schedulers.", "ldm.guidance.", "ldm.models.")


def _locate(target: Any, key: str) -> Any:
    """The class or function that a `_target_` names, after making sure that an allowed package defines it."""
    if not isinstance(target, str) or not target.startswith(ALLOWED):
        raise ValueError(f"_target_ must start with one of {ALLOWED}, got {target!r} ({key}._target_)")
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{target!r} does not exist in this version of ldm ({key}._target_)") from error
    home = getattr(found, "__module__", None)
    if not callable(found) or not isinstance(home, str) or not f"{home}.".startswith(ALLOWED):
        raise ValueError(f"{target!r} is not a class or function of {ALLOWED} ({key}._target_)")
    return found


def construct(node: Any, key: str = "config") -> Any:
    """Builds what a node of plain types describes, inner nodes first.

    Args:
        node: a dict with `_target_` (a name within the packages of `ALLOWED`) and its arguments, or with
            `_partial_: true` besides for the function that still waits for arguments; lists and dicts are
            walked, all else is returned as it is.
        key: where the node is, for messages.

    Returns: the object.
    Raises: ValueError for a target that is foreign, unknown or refuses its arguments, naming its key.
    """
    if isinstance(node, list):
        return [construct(value, f"{key}.{i}") for i, value in enumerate(node)]
    if not isinstance(node, dict):
        return node
    values = {name: construct(value, f"{key}.{name}") for name, value in node.items() if name[:1] != "_"}
    if "_target_" not in node:
        return values
    if unknown := sorted(name for name in node if name[:1] == "_" and name not in ("_target_", "_partial_")):
        raise ValueError(f"{unknown} are not understood; only _target_ and _partial_ are ({key})")
    target = _locate(node["_target_"], key)
    if node.get("_partial_"):
        return functools.partial(target, **values)
    try:
        return target(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot build {node['_target_']} ({key}): {error}") from error
