"""`--help`: examples, groups and keys of a command, and the options of a group with their keys."""

import shutil
import textwrap
from argparse import Namespace
from collections.abc import Iterable, Iterator

from ldm.cli.arguments import parser
from ldm.cli.comments import Entry, choices, entries, examples, title
from ldm.cli.pages import Files
from ldm.utils.errors import UserError, did_you_mean

LEFT = 30


def shown(command: str, arguments: Namespace) -> str:
    """The text for `--version` and `--help`: of the command, of GROUP, or of each group=option that is given.

    Raises: UserError for a group or option that does not exist.
    """
    if arguments.version:
        from importlib.metadata import version

        return f"ldm {version('ldm')}"
    files = Files(arguments.config_dir)
    groups = {d.group: d.option for d in files.groups(arguments.config_name or command)}
    choices = [word.partition("=")[::2] for word in arguments.overrides]
    pages: list[str] = []
    for group, option in choices:
        if group not in groups and not option:
            near = did_you_mean(group, groups) or f"; ldm-{command} --help lists them"
            raise UserError(f"{group}: no such group{near}")
        if group in groups or files.options(group):
            page = option_page if option else group_page
            pages.append("\n".join(page(files, command, group, option or groups[group])))
    return "\n\n".join(pages) or "\n".join(command_page(files, command, arguments.config_name or command))


def command_page(files: Files, command: str, config_name: str) -> Iterator[str]:
    """Purpose, examples, required keys, groups, further keys, flags."""
    text, keys = files.read(f"{config_name}.yaml"), files.keys(config_name)
    yield f"usage: ldm-{command} [group=option ...] [key=value ...] [flags]"
    yield from ["", *wrapped(title(text), "")]
    if found := examples(text):
        yield from ["", "Examples", *(f"  {line}" for line in found)]
    if required := [e for e in keys if e.value == "???"]:
        yield from ["", "Required", *table(required)]
    if groups := files.groups(config_name):
        yield from ["", f"Groups: group=option (ldm-{command} --help GROUP for options, keys, contract)"]
    for group, option, comment in groups:
        head = files.describe(group)[0] or comment
        yield from row(f"{group}={option}", head)
        if len(options := files.options(group)) > 1:
            yield from wrapped(f"({', '.join(options)})", " " * 6)
    if rest := [e for e in keys if e.value != "???"]:
        yield from ["", "Keys: key=value", *table(rest)]
    yield from ["", "Flags", *flags(command)]


def group_page(files: Files, command: str, group: str, chosen: str) -> Iterator[str]:
    """The options of a group, the keys of the default, and the contract for an option of your own."""
    head, body = files.describe(group)
    yield from wrapped(f"{group}: {head}", "")
    yield from ["", f"Options of ldm-{command} (default: {chosen})"]
    for name in files.options(group):
        yield from row(f"{group}={name}", files.title(group, name))
    if keys := files.option(group, chosen):
        yield from [
            "",
            f"Keys of {group}={chosen} (of another: ldm-{command} --help {group}=OPTION)",
        ]
        yield from table(keys, group)
    if body:
        yield from ["", *(line for text in body for line in wrapped(text, ""))]


def option_page(files: Files, command: str, group: str, name: str) -> Iterator[str]:
    """The keys of an option."""
    options = files.options(group)
    if name not in options:
        near = did_you_mean(name, options)
        raise UserError(f"{group}={name}: no such option{near or ';'} available: {', '.join(options)}")
    yield from wrapped(f"{group}={name}: {files.title(group, name)}", "")
    text = files.read(f"{group}/{name}.yaml")
    if "@package _global_" not in text:
        yield from ["", "Keys", *table(files.option(group, name), group)]
        return
    if chosen := choices(text):
        yield from ["", "Chooses", *(f"  {choice}" for choice in chosen)]
    if keys := entries(text, leaves=True):
        yield from ["", "Sets", *table(keys)]


def table(keys: Iterable[Entry], prefix: str = "") -> Iterator[str]:
    """A row for each key."""
    for key, value, comment in keys:
        name = f"{prefix}.{key}" if prefix else key
        yield from row(f"{name}={value if len(value) <= 40 else f'{value[:36]} ...'}", comment)


def row(left: str, right: str) -> Iterator[str]:
    """Two columns; the right one starts on the next line if the left one is too long."""
    lines = wrapped(right, " " * (LEFT + 2)) or [""]
    if len(left) < LEFT:
        lines[0] = f"  {left:{LEFT}}{lines[0].strip()}".rstrip()
        yield from lines
    else:
        yield from [f"  {left}", *(line for line in lines if line)]


def wrapped(text: str, indent: str) -> list[str]:
    """Lines of a text that fit the terminal, of 100 columns at most, after an indent and the text's own."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    own = " " * (len(text) - len(text.lstrip()))
    after = f"{own}    " if own and not indent else indent
    return textwrap.wrap(
        text.strip(), width, initial_indent=indent + own, subsequent_indent=after, break_on_hyphens=False
    )


def flags(command: str) -> Iterator[str]:
    """The flags, and the folder of a run."""
    for action in parser(command)._actions:
        if action.option_strings:
            value = f" {action.metavar or action.dest.upper()}" if action.nargs != 0 else ""
            yield from row(f"{', '.join(reversed(action.option_strings))}{value}", action.help or "")
