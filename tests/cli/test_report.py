"""Every end of a command is one line and a status; bugs keep their traceback."""

import pytest

from ldm.cli.report import Report
from ldm.utils.errors import Failure, UserError


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("must be 1", "seed"), 2, "ldm-x: seed: must be 1"),
        (Failure("the loss diverged"), 1, "ldm-x: the loss diverged"),
        (KeyboardInterrupt(), 130, "ldm-x: interrupted"),
        (ValueError("a flag\nis wrong"), 2, "ldm-x: a flag is wrong"),
    ],
)
def test_the_end_of_a_command(error, status, line, capsys):
    report = Report("ldm-x")
    with report.of_command():
        raise error
    assert report.status == status
    assert capsys.readouterr().err.splitlines() == [line]


@pytest.mark.parametrize(("code", "status"), [(0, 0), (3, 3), (None, 0), ("text", 1)])
def test_an_exit_keeps_its_status(code, status):
    report = Report("ldm-x")
    with report.of_command():
        raise SystemExit(code)
    assert report.status == status


def test_a_bug_of_a_task_has_a_traceback_and_status_1(capsys):
    report = Report("ldm-x")
    assert report.error(KeyError("bug"), keys=["seed"]) == 1
    assert "KeyError: 'bug'" in capsys.readouterr().err


def test_the_status_is_the_worst_of_all_jobs(capsys):
    report = Report("ldm-x")
    for error in (UserError("two"), Failure("one")):
        report.error(error, keys=[])
    assert report.status == 2


def test_lines_of_other_ranks_name_the_rank_and_ctrl_c_is_reported_once(monkeypatch, capsys):
    for name, value in (("RANK", "2"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    report = Report("ldm-x")
    report.line(2, "wrong")
    report.line(130, "interrupted")
    assert capsys.readouterr().err.splitlines() == ["ldm-x (rank 2): wrong"]
