"""Says in one line what went wrong, and whether it was the user's mistake (exit 2) or a failure (exit 1)."""

import dis
import re
from types import TracebackType

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from ldm.utils.errors import UserError, did_you_mean, one_line

FAILURE, USAGE, INTERRUPTED = 1, 2, 130


def describe(error: BaseException) -> tuple[int, str | None]:
    """Returns the exit status and one line for an error; None for a bug, which deserves its traceback."""
    if _is(error, "MismatchError"):  # of tensors and a model: all of them are listed
        return USAGE, str(error)
    if isinstance(error, UserError):
        return USAGE, one_line(str(error))
    if isinstance(error, MissingConfigException):
        return USAGE, _describe_missing(error)
    if isinstance(error, OverrideParseException):
        return USAGE, f"{error.override}: {error.message.strip().splitlines()[0]}"
    if isinstance(error, OmegaConfBaseException):
        return USAGE, _describe_omegaconf(error)
    if isinstance(error, HydraException):
        return USAGE, one_line(str(error))
    if (told := _told_by_a_worker(error)) is not None:
        return (USAGE if isinstance(error, ValueError | TypeError | FileNotFoundError) else FAILURE), told
    if isinstance(error, OSError):
        usage = isinstance(error, FileNotFoundError | FileExistsError)
        return (USAGE if usage else FAILURE), _describe_os(error)
    if "No space left on device" in str(error):
        return FAILURE, one_line(str(error))
    if _is(error, "MisconfigurationException"):  # Lightning's
        return USAGE, one_line(str(error))
    if _raised_by_us(error.__traceback__):
        return (USAGE if isinstance(error, ValueError | TypeError) else FAILURE), one_line(str(error))
    return FAILURE, None


def _told_by_a_worker(error: BaseException) -> str | None:
    """What a `raise` statement of `ldm` said in a loader process; torch hands on its traceback as text."""
    name = type(error).__name__
    match = re.match(
        rf"Caught {name} in DataLoader worker process \d+\.\n.*\n  File \"[^\"]*[/\\]ldm[/\\][^\"]*\", "
        rf"line \d+, in \w+\n    raise [^\n]*\n(?:    [^\n]*\n)*{name}: (.*)",
        str(error),
        re.DOTALL,
    )
    return one_line(match[1]) if match else None


def unknown_override(error: BaseException) -> str | None:
    """The key of an override that the config does not have, when that is what the error says."""
    found = re.match(r"Could not override '([^']+)'", str(error))
    return found.group(1) if found else None


def _is(error: BaseException, name: str) -> bool:
    """Whether an error is of a class of that name, whose module may not have been imported."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


def _describe_missing(error: MissingConfigException) -> str:
    """A config file or group option that does not exist, with the ones that do."""
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = [str(o) for o in error.options or ()]
    if not group or not options:
        return one_line(str(error).split("Config search path")[0])
    hint = did_you_mean(option, options) or ";"
    return f"{group}={option}: no such option{hint} available: {', '.join(options)}"


def _describe_omegaconf(error: OmegaConfBaseException) -> str:
    """OmegaConf's first line, after the key."""
    first = (error.msg or str(error)).strip().splitlines()[0]
    return f"{error.full_key}: {first}" if error.full_key else first


def _describe_os(error: OSError) -> str:
    """The reason and the path."""
    if error.strerror is None:
        return one_line(str(error))
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def _raised_by_us(traceback: TracebackType | None) -> bool:
    """Whether a `raise` statement of `ldm` made the error: then it was foreseen and has a message."""
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = traceback.tb_frame
    opcode = frame.f_code.co_code[traceback.tb_lasti]
    ours = frame.f_globals.get("__name__", "").split(".")[0] == "ldm"
    return ours and opcode == dis.opmap["RAISE_VARARGS"]
