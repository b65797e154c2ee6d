"""`ldm` alone lists the commands."""

import tomllib
from pathlib import Path

import pytest

from ldm.cli.ldm import COMMANDS, main

SCRIPTS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]


def test_every_command_has_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.argv", ["ldm"])
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert {f"ldm-{name}" for name in COMMANDS} == SCRIPTS.keys() - {"ldm"}
    for name in COMMANDS:
        (line,) = [line for line in lines if line.startswith(f"  ldm-{name} ")]
        assert len(line.split()) > 4
        assert len(line) <= 110


@pytest.mark.parametrize(("argument", "status"), [("--version", 0), ("--help", 0), ("train", 2)])
def test_flags(argument: str, status: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["ldm", argument])
    assert main() == status
