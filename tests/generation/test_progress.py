"""The progress bar of sampling."""

import pytest

from ldm.generation.progress import progress_bar


@pytest.mark.parametrize("enabled", [False, True])
def test_steps_can_be_counted(enabled: bool, capsys: pytest.CaptureFixture[str]):
    with progress_bar(enabled, 3) as advance:
        for _ in range(3):
            advance()
    assert not capsys.readouterr().err
    assert enabled or not capsys.readouterr().out
