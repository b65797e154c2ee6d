"""Errors of loader processes, handed over as values: torch would turn them into the text of a traceback."""

from collections.abc import Callable
from typing import TypeVar

from torch.utils.data import get_worker_info

from ldm.utils.errors import UserError

T = TypeVar("T")


def attempt(make: Callable[[], T]) -> T | Exception:
    """The result of a call; in a loader process, the error that the user is to see in its place."""
    if get_worker_info() is None:
        return make()
    try:
        return make()
    except (UserError, OSError) as error:
        return error


def checked(value: T | Exception) -> T:
    """A value from `attempt`, in the process that uses it.

    Raises: the error that stands in place of the value.
    """
    if isinstance(value, Exception):
        raise value
    return value
