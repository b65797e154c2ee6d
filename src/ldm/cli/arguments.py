"""The command line: flags on either side of the overrides, as Hydra names them."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from ldm.cli.advice import check_words, flag_advice
from ldm.utils.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line instead of the usage text."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError with the message."""
        raise UserError(f"{message} (--help lists keys and flags)")


def parser(command: str) -> Parser:
    """Parser of the flags of `ldm-<command>`; everything else is an override."""
    result = Parser(prog=f"ldm-{command}", add_help=False, allow_abbrev=False)
    result.add_argument("overrides", nargs="*", help="group=option, key=value, +key=value, ~key")
    result.add_argument("--help", "-h", action="store_true", help="groups and keys; --help GROUP its options")
    result.add_argument("--version", action="store_true", help="version of ldm")
    modes = result.add_mutually_exclusive_group()
    modes.add_argument("--run", "-r", action="store_true", help="one run, the default")
    modes.add_argument("--multirun", "-m", action="store_true", help="a sweep: one run per key=a,b,c")
    modes.add_argument("--cfg", "-c", choices=["job", "hydra", "all"], help="print the config")
    modes.add_argument("--info", "-i", nargs="?", const="all", help="where the config comes from")
    modes.add_argument("--shell-completion", "-sc", action="store_true", help="install=bash, uninstall=bash")
    modes.add_argument("--hydra-help", action="store_true", help="Hydra's own groups and flags")
    result.add_argument("--resolve", action="store_true", help="with --cfg: with interpolations resolved")
    result.add_argument("--package", "-p", help="with --cfg: the part of the config to print")
    result.add_argument("--config-dir", "-cd", help="a folder with further options and modules")
    result.add_argument("--config-name", "-cn", help="another primary config")
    return result


def parse(command: str, words: Sequence[str]) -> argparse.Namespace:
    """Flags and overrides of a command line.

    Raises: UserError for an unknown flag or a word that is no override, with what to write instead.
    """
    flags = parser(command)
    known = {option for action in flags._actions for option in action.option_strings}
    for i, word in enumerate(words):
        name, _, value = word.partition("=")
        if word.startswith("--") and name not in known:
            raise UserError(flag_advice(command, name, value or "".join(words[i + 1 : i + 2]), known))
    arguments = flags.parse_intermixed_args(list(words))
    if arguments.resolve and not arguments.cfg:
        raise UserError("--resolve: only with --cfg")
    if not (arguments.help or arguments.shell_completion):
        check_words(command, arguments.overrides)
    return arguments


@contextlib.contextmanager
def command_line(argv: Sequence[str] | None) -> Iterator[list[str]]:
    """Within the context, `sys.argv` is a copy, with `argv` as arguments if given; yields the arguments."""
    before = sys.argv
    sys.argv = [*before] if argv is None else [before[0], *argv]
    try:
        yield sys.argv[1:]
    finally:
        sys.argv = before
