import pytest

from ldm.training import fit


@pytest.mark.parametrize(
    ("wanted", "accelerator", "there", "used"),
    [
        ("bf16-mixed", "cpu", True, "bf16-mixed"),
        ("bf16-mixed", "cpu", False, "32-true"),
        ("bf16-mixed", "mps", False, "bf16-mixed"),  # what it computes is not known
        ("32-true", "cpu", False, "32-true"),
        ("64-true", "cpu", True, "64-true"),
    ],
)
def test_bfloat16_is_used_where_the_machine_has_it(wanted, accelerator, there, used, monkeypatch):
    monkeypatch.setattr(fit, "has_bf16", lambda device: there)
    assert fit.available_precision(wanted, accelerator) == used
