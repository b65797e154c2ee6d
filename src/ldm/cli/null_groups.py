"""`group=null`: a run without what a config group chooses, where the group is optional.

Hydra has no such override. Null in a defaults list can be chosen only there, and `~group` leaves what an
experiment sets below the group as a node without a target.
"""

import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore

from ldm.utils.errors import UserError

# of the groups that have an option by default; those with null there are optional as well
OPTIONAL = {"callbacks", "evaluation", "guidance", "logger", "lr_schedule", "task"}
WITHOUT = "without"


def replace_null_groups(command: str, overrides: Sequence[str]) -> list[str]:
    """The overrides with each `group=null` replaced by ones that Hydra knows.

    What the group describes becomes null after everything else, whatever an experiment sets below it; a group
    whose options are spread over the config is also deleted from the defaults list.

    Args:
        command: name of the primary config.
        overrides: as they were typed.

    Raises: UserError for a group that the command cannot do without.
    """
    result: list[str] = []
    names: list[str] = []
    groups = default_options(command)
    for word in overrides:
        group, _, value = word.partition("=")
        if word.startswith(f"+{WITHOUT}="):  # a job of a sweep starts its ranks with what stands here
            names += re.findall(r"[\w.]+", value)
        elif value != "null" or group not in groups or not _is_group(group):
            result.append(word)
        elif groups[group] is not None and group not in OPTIONAL:
            hint = f"write {group}=none" if "none" in _options(group) else "needs one of its options"
            raise UserError(f"{group}=null: {hint}: {', '.join(_options(group))}")
        elif _is_global(group):
            result.append(f"~{group}")
            names += _objects(group) if group != "experiment" else []  # nothing sets keys below it
        else:
            names.append(group.replace("/", "."))
    for name in names:
        node: dict[str, Any] | None = None
        for part in reversed(name.split(".")):
            node = {part: node}
        ConfigStore.instance().store(group=WITHOUT, name=name, node=node, package="_global_")
    return [*result, f"+{WITHOUT}=[{','.join(names)}]"] if names else result


def default_options(command: str) -> dict[str, Any]:
    """Group -> option of the defaults list of a primary config, and of those that it extends."""
    file = resources.files("ldm.conf") / f"{command}.yaml"
    if not file.is_file():  # one of the user's
        return {}
    found: dict[str, Any] = {}
    for entry in yaml.safe_load(file.read_text(encoding="utf-8")).get("defaults", []):
        if isinstance(entry, dict):
            found |= {str(name).split()[-1]: option for name, option in entry.items()}
        elif entry != "_self_":
            found = default_options(entry) | found
    return found


def _is_group(name: str) -> bool:
    return (resources.files("ldm.conf") / name).is_dir()


def _options(group: str) -> list[str]:
    names = (file.name for file in (resources.files("ldm.conf") / group).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _is_global(group: str) -> bool:
    """True if the options of a group set keys all over the config."""
    return _text(group, _options(group)[0]).startswith("# @package _global_")


def _objects(group: str) -> list[str]:
    """Keys of the objects that the options of a group describe."""
    found: set[str] = set()

    def walk(node: object, key: str) -> None:
        if isinstance(node, dict) and "_target_" in node:
            found.add(key)
        elif isinstance(node, dict):
            for name, child in node.items():
                walk(child, f"{key}.{name}".lstrip("."))

    for option in _options(group):
        walk(yaml.safe_load(_text(group, option)), "")
    return sorted(found)


def _text(group: str, option: str) -> str:
    return (resources.files("ldm.conf") / group / f"{option}.yaml").read_text(encoding="utf-8")
