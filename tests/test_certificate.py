"""The certificate of the samplers is made by its command; its figures are what the committed one says."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("matplotlib")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
FOLDER = Path(__file__).parents[1] / "experiments" / "sampler_certificate"
ROW = re.compile(r"^\| `(\w+)` \| `(\w+)` \|" + r" ([^|]*) \|" * 7, re.M)


@pytest.fixture(scope="module")
def certify():
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("certify", FOLDER / "certify.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FOLDER))


def rows(text):
    return {(m[1], m[2]): m.groups()[2:] for m in ROW.finditer(text)}


def test_every_solver_and_grid_has_a_row_on_its_levels(certify):
    found = rows((FOLDER / "certificate.md").read_text())
    assert set(found) == {(solver, grid) for solver in certify.SOLVERS for grid in certify.GRIDS}
    assert all(float(cells[2]) < 1e-10 for (solver, _), cells in found.items() if solver != "lcm")


@pytest.mark.parametrize(
    ("solver", "grid"), [("ddim", "trailing"), ("dpmpp_2m_sde", "karras"), ("heun", "sd15")]
)
def test_rows_are_what_is_measured(solver, grid, certify):
    cells = rows((FOLDER / "certificate.md").read_text())[solver, grid]
    mine, other = certify.ours(solver, grid), certify.theirs(solver, grid)
    assert (cells[0], cells[4]) == (
        certify.number(mine["order"], ".2f"),
        certify.number(mine["moments"], ".4f"),
    )
    assert cells[5] == certify.number(other.get("moments"), ".4f")


@pytest.mark.slow
def test_the_command_writes_the_whole_certificate(tmp_path):
    subprocess.run([sys.executable, str(FOLDER / "certify.py"), str(tmp_path)], check=True, timeout=900)
    assert {p.name for p in tmp_path.iterdir()} == {
        "certificate.md",
        "convergence.png",
        "moments.png",
        "grid_error.png",
    }
    made, committed = (rows((folder / "certificate.md").read_text()) for folder in (tmp_path, FOLDER))
    assert made.keys() == committed.keys()
    differing = [key for key in made if made[key][4] != committed[key][4]]
    assert len(differing) <= len(made) // 50  # the last digit of a few
