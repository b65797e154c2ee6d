"""Public names are there, and imported when they are used."""

import importlib
import subprocess
import sys

import pytest

from ldm.utils.lazy import lazy


@pytest.mark.parametrize("package", ["ldm", "ldm.models", "ldm.utils"])
def test_every_public_name_can_be_imported_and_is_listed(package: str):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == dir(module)
    for name in module.__all__:
        found = getattr(module, name)
        assert name == "__version__" or found.__name__ == name
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'absent'"):
        module.absent  # noqa: B018


def test_a_package_imports_nothing_before_it_is_used():
    code = (
        "import sys, ldm, ldm.models, ldm.utils; print(sorted({'torch', 'PIL', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_names_come_from_their_homes():
    get, listed = lazy("here", {"sqrt": "math", "dumps": "json"})
    assert get("sqrt")(4.0) == 2
    assert listed() == ["dumps", "sqrt"]
