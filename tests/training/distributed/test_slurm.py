"""Which signals bring a job back into the queue, with programs that stand in for SLURM's."""

import os
import signal

import pytest

from ldm.training.distributed.slurm import Stopped, requeued_when_stopped


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What scontrol was asked for, in a job that squeue says is in a state."""

    def program(name, text):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def in_state(state, status=0):
        program("squeue", f"echo {state}")
        program("scontrol", f"echo $* >> {tmp_path}/asked; echo no such job >&2; exit {status}")
        return lambda: (tmp_path / "asked").read_text().split() if (tmp_path / "asked").exists() else None

    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield in_state
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(number=None, rank=0, error=None):
    with requeued_when_stopped(rank):
        if number is not None:
            signal.raise_signal(number)
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("number", "state", "back"),
    [
        (signal.SIGUSR1, "RUNNING", True),
        (signal.SIGUSR1, "COMPLETING", True),  # the checkpoint took longer than there was time
        (signal.SIGTERM, "RUNNING", True),  # preempted, with time to save
        (signal.SIGTERM, "COMPLETING", False),  # cancelled, or preempted: SLURM's own requeueing follows
        (signal.SIGTERM, "PENDING", False),
    ],
)
def test_a_job_goes_back_unless_slurm_has_already_ended_it(asked, number, state, back):
    told = asked(state)
    with pytest.raises(Stopped) as stopped:
        run(number)
    assert stopped.value.number == number
    assert told() == (["requeue", "77"] if back else None)
    assert signal.getsignal(number) == signal.SIG_IGN  # the requeueing sends another one


def test_a_signal_that_lightning_makes_an_exit_counts(asked):
    told = asked("RUNNING")

    def exits():
        try:
            raise Stopped(signal.SIGUSR1)
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904

    with pytest.raises(SystemExit), requeued_when_stopped(0):
        exits()
    assert told() == ["requeue", "77"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Stopped(signal.SIGINT), SystemExit(1), ValueError()])
def test_an_interrupt_from_the_keyboard_or_an_error_does_not_count(asked, error):
    told = asked("RUNNING")
    with pytest.raises(type(error)):
        run(error=error)
    assert told() is None


def test_other_ranks_leave_it_to_the_first(asked):
    told = asked("RUNNING")
    with pytest.raises(Stopped):
        run(signal.SIGUSR1, rank=1)
    assert told() is None


def test_a_refusal_is_said(asked, caplog):
    asked("RUNNING", status=1)
    with pytest.raises(Stopped):
        run(signal.SIGUSR1)
    assert "job 77 could not be put into the queue again: no such job" in caplog.text


def test_outside_of_slurm_signals_are_left_alone(asked, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID")
    before = signal.getsignal(signal.SIGTERM)
    with requeued_when_stopped(0):
        assert signal.getsignal(signal.SIGTERM) == before
