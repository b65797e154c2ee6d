"""The notebooks run from top to bottom, and what is committed shows their pictures."""

import json
import os
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_is_a_page_for_each_pipeline_and_the_converter():
    assert {path.stem for path in NOTEBOOKS} >= {"text2img", "img2img", "inpaint", "convert"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs_from_top_to_bottom(path, warm_python, tmp_path):
    # A process of its own: the filters and plugins of this test run are not the notebook's.
    command = [warm_python, "-m", "pytest", "--nbmake", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    done = subprocess.run(
        [*command, "--rootdir", str(FOLDER), str(path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONWARNINGS": "ignore", "IPYTHONDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_committed_notebook_shows_pictures(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell["outputs"])
