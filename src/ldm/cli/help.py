"""The part of `--help` above the config: usage and the groups with their options."""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

HEAD = """\
usage: ldm-{name} [group=option] [key.name=value] [--multirun] [--config-dir DIR] [--cfg job]
tab completion: eval "$(ldm-{name} -sc install=bash)"      all flags: --hydra-help

== Groups (group=option) ==

{groups}

== Config (key.name=value; +key.name=value adds a key) ==
"""


def print_help_head(name: str, config_dir: str | None) -> None:
    """Prints usage and groups of the command ldm-<name>, with those of the user's config directory."""
    places: list[Traversable] = [resources.files("ldm.conf")]
    if config_dir is not None:
        places.append(Path(config_dir))
    found: dict[str, set[str]] = {}
    for place in places:
        if place.is_dir():
            _collect(place, "", found)
    groups = "\n".join(f"{group}: {', '.join(sorted(found[group]))}" for group in sorted(found))
    print(HEAD.format(name=name, groups=groups))


def _collect(folder: Traversable, group: str, found: dict[str, set[str]]) -> None:
    """Adds the options below `folder`, which is the group `group`; Hydra's own groups are left out."""
    for child in folder.iterdir():
        path = f"{group}/{child.name}".lstrip("/")
        if child.is_dir() and path != "hydra":
            _collect(child, path, found)
        elif group and child.name.endswith(".yaml"):
            found.setdefault(group, set()).add(child.name.removesuffix(".yaml"))


def shown(command: str, arguments: object) -> str:
    return "usage: ldm-" + command
