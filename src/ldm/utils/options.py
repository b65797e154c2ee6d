"""The options of the config groups as objects, by name, read without Hydra; and the way back."""

import dataclasses
import functools
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from ldm.utils.construct import construct
from ldm.utils.errors import UserError, did_you_mean

PLAIN = (bool, int, float, str, type(None))


def names(group: str) -> list[str]:
    """Names of the options of a config group.

    Raises: FileNotFoundError if there is no such group.
    """
    return sorted(_files(group))


def node(group: str, name: str) -> dict[str, Any]:
    """The plain config node of an option.

    Args:
        group: whose options are nodes of the diffusion core, such as "scheduler" or "timesteps".
        name: of the option.

    Raises: UserError naming the options there are, if there is none of that name.
    """
    files = _files(group)
    if name not in files:
        raise UserError(
            f"{group} must be one of {', '.join(sorted(files))}; got {name!r}{did_you_mean(name, files)}"
        )
    return dict(yaml.safe_load(files[name].read_text(encoding="utf-8")))


def option(group: str, name: str) -> Any:
    """The object that an option describes.

    Raises: as `node`.
    """
    return construct(node(group, name), group)


def options(group: str) -> dict[str, Any]:
    """Name of each option -> its object, by name, for tables and studies over all of them.

    Raises: FileNotFoundError if there is no such group.
    """
    return {name: option(group, name) for name in names(group)}


def node_of(value: Any) -> Any:
    """The plain config node of an object: a dataclass, a function with arguments, numbers and texts.

    Raises: UserError for an object that no config describes.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [node_of(part) for part in value]
    if isinstance(value, functools.partial):
        fields = {"_target_": _name(value.func), "_partial_": True, **value.keywords}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        fields = {"_target_": _name(type(value)), **fields}
    else:
        raise UserError(f"no config describes {value!r}")
    return {name: node_of(part) for name, part in fields.items()}


def _name(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def _files(group: str) -> dict[str, Traversable]:
    """Name of each option -> its file."""
    folder = resources.files("ldm.conf") / group
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no config group {group!r}")
    return {f.name.removesuffix(".yaml"): f for f in folder.iterdir() if f.name.endswith(".yaml")}
