"""The end of a command: one line on stderr and an exit status for each way in which it can end."""

import contextlib
import os
import sys
import traceback
from collections.abc import Collection, Iterator

from ldm.utils.distributed import launched
from ldm.utils.errors import UserError

FAILURE, USAGE, INTERRUPTED = 1, 2, 130


class Report:
    """Exit status of a command: the worst of its jobs.

    Args:
        command: its name, in front of each line.
    """

    def __init__(self, command: str) -> None:
        self.command, self.status = command, 0

    @contextlib.contextmanager
    def of_command(self) -> Iterator[None]:
        """Turn whatever ends the command into its status; a mistake before a job starts is one of usage."""
        try:
            yield
            sys.stdout.flush()
        except SystemExit as error:
            self.status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except KeyboardInterrupt:
            self.status = self.line(INTERRUPTED, "interrupted")
        except BrokenPipeError:  # the reader of `--help | head` has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.status = FAILURE
        except Exception as error:
            self.error(error)

    def error(self, error: Exception, keys: Collection[str] | None = None) -> int:
        """Print the line of an error, the traceback of a bug, and return the exit status.

        Args:
            error: that ended the command or a job.
            keys: of the job's config; None before a job starts, when there are no bugs of a task.
        """
        status: int = USAGE
        line: str | None = str(error)
        if keys is not None or not isinstance(error, UserError):  # a wrong flag needs no import of Hydra
            from ldm.cli.errors import describe

            status, line = describe(error, keys or ())
        if line is None and keys is None:
            status, line = USAGE, " ".join(str(error).split())
        if line is None or os.environ.get("LDM_TRACEBACK") == "1":
            traceback.print_exception(error)
        if line is not None:
            self.line(status, line)
        self.status = max(self.status, status)
        return status

    def interrupted(self, line: str) -> None:
        """Print how to continue and leave with the status of ctrl-C."""
        sys.exit(self.line(INTERRUPTED, line))

    def line(self, status: int, text: str) -> int:
        """Print one line, on other ranks with the rank (none for ctrl-C), and return the status."""
        rank = launched()[0]
        if rank == 0 or status != INTERRUPTED:
            where = f" (rank {rank})" if rank else ""
            print(f"{self.command}{where}: {text}", file=sys.stderr, flush=True)
        return status
