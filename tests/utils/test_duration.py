import pytest

from ldm.utils.duration import duration


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0s"), (12.4, "12s"), (59.7, "1m00s"), (250.0, "4m10s"), (3720.0, "1h02m")]
)
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text
