"""Mistakes and failures that are foreseen, told apart from bugs by their class."""

import difflib
import re
from collections.abc import Collection, Iterable

VERBS = r"(must|needs?|cannot)\b"  # not "is", as a path may stand in front of it


class UserError(ValueError):
    """A mistake of the user, in one line: what was wrong, what was found, what is allowed.

    The command line prints it without a traceback and exits with status 2.

    Args:
        message: starts with the name of the argument that is wrong, where it is one argument.
        key: config key of the value that is wrong; stands in front of the message.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(one_line(message))
        self.key = key

    def __str__(self) -> str:
        """The message, after the key if there is one."""
        message = super().__str__()
        return f"{self.key}: {message}" if self.key else message


class Failure(Exception):
    """A failure that is foreseen and nobody's mistake, such as a loss that diverges.

    The command line prints its one line without a traceback and exits with status 1.
    """


def one_line(text: str) -> str:
    """The text with each run of white space, line breaks included, as one space."""
    return " ".join(text.split())


def with_key(error: Exception, key: str, arguments: Collection[str]) -> UserError:
    """The error of a call as a UserError that names the config key.

    An error that starts with the name of an argument is about that key: "eta must be in [0, 1], got 2" of
    the node `scheduler` becomes "scheduler.eta: must be in [0, 1], got 2".

    Args:
        error: raised by the call; a UserError is returned as it is where there is nothing to add.
        key: of the node that describes the call; "" for none.
        arguments: names of the call's arguments.
    """
    if isinstance(error, UserError) and error.key:
        return error
    message = one_line(str(error)) or type(error).__name__
    match = re.match(rf"(\w+) (?={VERBS})", message)
    if match and match[1] in arguments:
        return UserError(message[match.end() :], f"{key}.{match[1]}".lstrip("."))
    return error if isinstance(error, UserError) and not key else UserError(message, key or None)


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """The hint "; did you mean 'option'?" for the option nearest to a word, "" if none is near.

    Dotted names also match by their last part: "lr" finds "optimizer.lr".
    """
    options = list(options)
    last = word.rpartition(".")[2]
    near = [o for o in options if o.rpartition(".")[2] == last]
    if not near:  # a common prefix alone makes no name near
        close = difflib.get_close_matches(word, options, 1)
        near = [o for o in close if difflib.get_close_matches(last, [o.rpartition(".")[2]], 1, cutoff=0.5)]
    if not near:
        parts = {o.rpartition(".")[2]: o for o in options}
        near = [parts[p] for p in difflib.get_close_matches(last, parts, 1, cutoff=0.75)]
    return f"; did you mean {min(near, key=len)!r}?" if near else ""
