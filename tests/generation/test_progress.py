"""The progress bar of sampling."""

import sys

import pytest

from ldm.generation.progress import progress_bar


@pytest.mark.parametrize("enabled", [None, False, True])
def test_steps_can_be_counted(enabled: bool | None, capsys: pytest.CaptureFixture[str]):
    with progress_bar(enabled, 3) as advance:
        for _ in range(3):
            advance()
    assert not capsys.readouterr().out


@pytest.mark.parametrize(("watched", "enabled"), [(True, None), (True, True)])
def test_a_bar_is_shown_where_a_person_watches_or_wants_it(
    watched: bool, enabled: bool | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar(enabled, 1) as advance:
        advance()
    assert "sampling" in capsys.readouterr().err


def test_no_bar_is_shown_to_a_file(capsys: pytest.CaptureFixture[str]):
    with progress_bar(None, 1) as advance:
        advance()
    assert capsys.readouterr().err == ""
