"""Config files as help reads them: keys with their values as written and the comments on them.

A key's comment stands above it or at the end of its line. The comment at the top of a file is its title.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Entry(NamedTuple):
    """A key of a config file: dotted name, value as written, comment."""

    key: str
    value: str
    comment: str


class Default(NamedTuple):
    """An element of a defaults list: group (empty for a file that is extended), option, comment."""

    group: str
    option: str
    comment: str


def title(text: str) -> str:
    """The first comment line of a file, empty if it starts with a key."""
    lines = [line for line in text.splitlines() if not line.startswith("# @package")]
    return lines[0].lstrip("# ") if lines and lines[0].startswith("#") else ""


def examples(text: str) -> list[str]:
    """The commands in the comment at the top of a primary config, indented there."""
    return [line.lstrip("# ") for line in text.splitlines() if line.startswith("#   ldm-")]


def entries(text: str, leaves: bool = False) -> list[Entry]:
    """The keys of a file in order.

    Args:
        text: of the file.
        leaves: False shows mappings of plain values as one value, True all keys by themselves.
    """
    node = yaml.compose(text, LOADER)
    return [] if node is None else list(_entries(node, text.splitlines(), "", leaves))


def choices(text: str) -> list[str]:
    """The options that a file chooses in the groups of its command, as group=option."""
    return [f"{group}={option}" for group, option in re.findall(r"- override /([\w/@.]+): (\w+)", text)]


def defaults(text: str) -> list[Default]:
    """The defaults list of a file without its own place in it and overrides."""
    node = yaml.compose(text, LOADER)
    lines, found = text.splitlines(), []
    for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
        if key.value != "defaults":
            continue
        for item in value.value:
            if isinstance(item, yaml.ScalarNode):
                found.append(Default("", item.value, ""))
                continue
            name, option = item.value[0]
            group = name.value.removeprefix("optional ")
            if not group.startswith("override "):
                found.append(Default(group, _value(option), _comment(name, option, lines)))
    return [d for d in found if d.option != "_self_"]


def _entries(node: Any, lines: list[str], prefix: str, leaves: bool) -> Iterator[Entry]:
    for key, value in node.value:
        if not prefix and key.value in ("defaults", "hydra"):
            continue
        name, comment = f"{prefix}{key.value}", _comment(key, value, lines)
        if _is_open(value, lines) or (leaves and isinstance(value, yaml.MappingNode)):
            yield from _entries(value, lines, f"{name}.", leaves)
        else:
            yield Entry(name, _value(value), comment)


def _is_open(node: Any, lines: list[str]) -> bool:
    """True for a mapping whose keys are shown one by one: an object, or one with comments inside."""
    if not isinstance(node, yaml.MappingNode):
        return False
    if node.flow_style:
        return any(k.value == "_target_" and v.value.startswith("ldm.") for k, v in node.value)
    pairs = node.value
    return any(k.value == "_target_" or _comment(k, v, lines) or _is_open(v, lines) for k, v in pairs)


def _value(node: Any) -> str:
    """The text of a value on one line."""
    if isinstance(node, yaml.SequenceNode):
        text = f"[{','.join(map(_value, node.value))}]"
    elif isinstance(node, yaml.MappingNode):
        text = f"{{{','.join(f'{k.value}:{_value(v)}' for k, v in node.value)}}}"
    else:
        text = node.value if node.value else '""' if node.style else "null"
    return text


def _comment(key: Any, value: Any, lines: list[str]) -> str:
    """The comment above a key, or else the one at the end of its line."""
    line: int = key.start_mark.line
    found: list[str] = []
    if lines[line][: key.start_mark.column].strip() in ("", "-"):
        above = line - 1
        while above >= 0 and lines[above].lstrip().startswith("#"):
            found.insert(0, lines[above].lstrip("# "))
            above -= 1
        if above < 0:  # that is the title of the file
            found = []
    end = key.end_mark if isinstance(value, yaml.MappingNode) else value.end_mark
    trailing = re.search(r"(?:^|\s)#\s*(.*)$", lines[end.line][end.column :]) if end.line == line else None
    return " ".join(found) or (trailing[1] if trailing else "")
