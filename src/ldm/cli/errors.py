"""One line and an exit status for an error: a mistake of the user (2), a failure (1), a bug (traceback)."""

import re
import sys
from collections.abc import Collection

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from ldm.cli.report import FAILURE, USAGE
from ldm.utils.errors import Failure, UserError, did_you_mean, one_line, with_key


def describe(error: BaseException, keys: Collection[str] = ()) -> tuple[int, str | None]:
    """Exit status and line for an error; None in place of the line for a bug, which needs its traceback.

    Args:
        error: that ended the command.
        keys: of the command, which its calls take as arguments: the first word of a message may be one.
    """
    if isinstance(error, UserError):
        return USAGE, str(_with_key(error, keys))
    if isinstance(error, Failure):
        return FAILURE, one_line(str(error))
    if isinstance(error, MissingConfigException):
        return USAGE, _describe_missing(error)
    if isinstance(error, OverrideParseException):
        return USAGE, one_line(f"{error.override}: {error.message.strip().splitlines()[0]}")
    if isinstance(error, OmegaConfBaseException):
        return USAGE, _describe_omegaconf(error)
    if isinstance(error, HydraException):
        return USAGE, one_line(str(error))
    if isinstance(error, OSError):
        usage = isinstance(error, FileNotFoundError | FileExistsError)
        return (USAGE if usage else FAILURE), _describe_os(error)
    if "No space left on device" in str(error):
        return FAILURE, one_line(str(error))
    if _is_lightnings(error):
        return USAGE, one_line(str(error))
    return FAILURE, None


def unknown_override(error: BaseException) -> str | None:
    """The key of an override that the config does not have, when that is what the error says."""
    found = re.match(r"Could not override '([^']+)'", str(error))
    return found.group(1) if found else None


def _with_key(error: UserError, keys: Collection[str]) -> UserError:
    """The error with the one key whose last part its message starts with, if there is exactly one."""
    word = str(error).partition(" ")[0]
    options = [key for key in keys if key == word] or [key for key in keys if key.endswith(f".{word}")]
    if len(options) != 1:
        return error
    return with_key(error, options[0].removesuffix(word).removesuffix("."), [word])


def _is_lightnings(error: BaseException) -> bool:
    """True for Lightning's refusal of a setting, such as a GPU that is not there; imports nothing."""
    module = sys.modules.get("lightning.fabric.utilities.exceptions")
    return module is not None and isinstance(error, module.MisconfigurationException)


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
