"""A run as a job of SLURM: the signals that end it, and its way back into the queue."""

import logging
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ldm.utils.distributed import slurm_job

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # preemption or the end of the time; the warning before it


class Stopped(KeyboardInterrupt):
    """A signal asked the run to end.

    Args:
        number: of the signal, the same on all ranks.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, frame: Any) -> None:
    raise Stopped(number)


@contextmanager
def requeued_when_stopped(rank: int) -> Iterator[None]:
    """While inside, a job that SLURM ends is put into the queue again, to go on with its newest checkpoint.

    Outside training, where nothing is lost, a signal ends the run at once; `ldm.training.callbacks` has it
    wait for the end of the step and the checkpoint. What was cancelled stays so.

    Args:
        rank: of this process; the first one asks for the job.
    """
    job = slurm_job()
    if job is None:
        yield
        return
    for number in SIGNALS:
        signal.signal(number, _stop)
    try:
        yield
    except (Stopped, SystemExit) as error:  # Lightning exits so after its tidying up
        stopped = error if isinstance(error, Stopped) else error.__context__
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if isinstance(stopped, Stopped) and stopped.number in SIGNALS and rank == 0:
            requeue(job, stopped.number)
        raise


def requeue(job: str, number: int) -> None:
    """Puts a job into the queue again, unless it is ending already: then it was cancelled, or SLURM does it.

    Args:
        job: its number.
        number: of the signal that stopped it. SIGUSR1 comes before the time is over, and from nothing else.
    """
    state = _ask("squeue", "--noheader", "--jobs", job, "--format", "%T").stdout.strip()
    if number == signal.SIGTERM and state not in ("RUNNING", ""):
        log.info("job %s is %s: it is left to SLURM", job, state)
        return
    asked = _ask("scontrol", "requeue", job)
    if asked.returncode == 0:
        log.info("job %s is in the queue again", job)
    else:
        log.error("job %s could not be put into the queue again: %s", job, " ".join(asked.stderr.split()))


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
