"""The line on keys that an experiment sets for an option other than the one chosen on the command line."""

from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from ldm.cli.jobs import job_overrides
from ldm.cli.plain_keys import is_group
from ldm.cli.unknown_keys import composed
from ldm.utils.construct import check
from ldm.utils.errors import UserError


def check_with_deltas(config: Mapping[str, Any], command: str, arguments: Namespace, **expected: Any) -> None:
    """Refuse what `ldm.utils.construct.check` refuses.

    An experiment sets keys of the options that it chooses. Where the command line chooses another option,
    those which it does not have are reported at once, with the overrides that remove them.

    Args:
        config: of a job whose config Hydra knows.
        command: name of the command.
        arguments: its flags.
        **expected: further arguments of `check`.

    Raises: UserError for the first mistake.
    """
    typed = [word.lstrip("+~").split("=")[0].split(".")[0] for word in job_overrides()]
    try:
        for name in typed:  # first, as other keys may be derived from a wrong one
            check(config.get(name), name, **expected)
        check(config, **expected)
    except UserError as error:
        if error.key and (line := _line(error.key, config, command, arguments)):
            raise UserError(line) from error
        raise


def _line(wrong: str, config: Mapping[str, Any], command: str, arguments: Namespace) -> str:
    """The line on the foreign keys of the options typed; "" if the wrong key is none of them."""
    words = job_overrides()
    typed = {word.lstrip("+").partition("=")[0] for word in words}
    choices = {key: option for key, _, option in (word.partition("=") for word in words) if is_group(key)}
    experiment = choices.pop("experiment", "")
    if not experiment or not choices:
        return ""
    given = [f"{group}={option}" for group, option in choices.items()]
    plain = composed(arguments.config_name or command, given, arguments.config_dir)
    keys, options, others = [], [], []
    for group, choice in zip(choices, given, strict=True):
        name = group.replace("/", ".")
        node, own = _at(config, name), _at(plain, name)
        if foreign := [key for key in _foreign(node, own, name) if key not in typed]:
            keys += foreign
            options.append(choice)
            others += [text for key, text in _changed(node, own, name) if key not in typed]
    if wrong not in keys:
        return ""
    them, what = ("it", "such key") if len(keys) == 1 else ("them", "such keys")
    verb = "has" if len(options) == 1 else "have"
    return (
        f"{', '.join(keys)}: experiment={experiment} sets {them}, {' and '.join(options)} {verb} no {what}; "
        f"drop {them} with {' '.join(f'~{key}' for key in keys)}"
        + (f" (the experiment also sets {' '.join(others)})" if others else "")
    )


def _at(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The node with a dotted name, empty if there is none."""
    node: Any = config
    for part in name.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}


def _foreign(node: dict[str, Any], own: dict[str, Any], name: str) -> list[str]:
    """The outermost keys below a node that its option lacks."""
    found: list[str] = []
    for key, value in node.items():
        if key not in own:
            found.append(f"{name}.{key}")
        elif isinstance(value, dict) and isinstance(own[key], dict):
            found += _foreign(value, own[key], f"{name}.{key}")
    return found


def _changed(node: dict[str, Any], own: dict[str, Any], name: str) -> Iterator[tuple[str, str]]:
    """Key and key=value of the plain values of a node that its option has otherwise."""
    for key, before in own.items():
        after = node.get(key)
        if isinstance(after, bool | int | float | str) and before != after and "${" not in str(before):
            yield f"{name}.{key}", f"{name}.{key}={after}"
