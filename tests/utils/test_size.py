import pytest

from ldm.utils.size import GIB, MIB, size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0.0 MiB"),
        (1.5 * MIB, "1.5 MiB"),
        (GIB - MIB, "1,023.0 MiB"),
        (GIB, "1.00 GiB"),
        (2048.25 * GIB, "2,048.25 GiB"),
    ],
)
def test_bytes_are_gibibytes_from_one_on_and_mebibytes_below(count: float, text: str):
    assert size(count) == text
