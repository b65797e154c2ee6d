"""Config files as help reads them: keys with their values as written and the comments on them.

A key's comment stands above it or at the end of its line. The comment at the top of a file is its title.
"""

import re
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
    """The first comment of a file, up to its end or the first example."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#") or line.startswith("#  ") or line.startswith("# Examples"):
            break
        lines.append(line.lstrip("# "))
        if lines[-1].endswith((".", "?", ":")):
            break
    return " ".join(lines)


def examples(text: str) -> list[str]:
    """The commands in the comment at the top of a primary config, indented there."""
    return [line.lstrip("# ") for line in text.splitlines() if line.startswith("#   ldm-")]


def entries(text: str) -> list[Entry]:
    """The keys of a file in order, those of nested mappings in place of the mapping."""
    node = yaml.compose(text, LOADER)
    return [] if node is None else list(_entries(node, text.splitlines(), ""))


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
                found.append(Default(group, _value(option, lines), _comment(name, option, lines)))
    return [d for d in found if d.option != "_self_"]


def _entries(node: Any, lines: list[str], prefix: str) -> Any:
    for key, value in node.value:
        if not prefix and key.value in ("defaults", "hydra"):
            continue
        name, comment = f"{prefix}{key.value}", _comment(key, value, lines)
        if isinstance(value, yaml.MappingNode) and value.value:
            if comment:
                yield Entry(f"{name}.", "", comment)
            yield from _entries(value, lines, f"{name}.")
        else:
            yield Entry(name, _value(value, lines), comment)


def _value(node: Any, lines: list[str]) -> str:
    """The text of a value on one line, long lists cut."""
    if isinstance(node, yaml.SequenceNode):
        text = f"[{', '.join(_value(item, lines) for item in node.value)}]"
    elif isinstance(node, yaml.ScalarNode):
        text = node.value if node.value else '""' if node.style else "null"
    else:
        text = "{}"
    return text if len(text) <= 40 else f"{text[:36]} ..."


def _comment(key: Any, value: Any, lines: list[str]) -> str:
    """The comment above a key, or else the one at the end of its line."""
    line, found = key.start_mark.line, []
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
