"""Loading a checkpoint of Stable Diffusion's full size takes hardly more memory than its file."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm.checkpoints import convert_checkpoint, save_model
from ldm.checkpoints.assemble import LoadedModel

MEASURE = """
import resource, sys, torch
import open_clip.transformer
from ldm.checkpoints import load_model

def memory(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024

before = memory("VmRSS")
loaded = load_model(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
total = sum(float(p.sum()) for m in loaded.components.values() for p in m.parameters())  # reads every page
print(memory("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, full_size: Callable[..., LoadedModel]) -> dict[str, Path]:
    """Stable Diffusion 1.5 with random weights, 4.3 GB in float32, in two formats."""
    folder = tmp_path_factory.mktemp("full")
    model = full_size("sd15")
    save_model(folder / "ours.safetensors", model.components, model.config)
    del model
    convert_checkpoint(folder / "ours.safetensors", folder / "single.safetensors", format="original")
    return {"ours": folder / "ours.safetensors", "original": folder / "single.safetensors"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "dtype", "allowed"),
    [
        ("ours", "float32", 1.15),
        ("original", "float32", 1.15),
        ("ours", "bfloat16", 0.6),
        ("original", "bfloat16", 0.6),
    ],
)
def test_loading_peaks_at_the_size_of_the_file(name: str, dtype: str, allowed: float, files: dict[str, Path]):
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, str(files[name]), dtype]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    ratio = peak / files[name].stat().st_size
    print(f"{name} {dtype}: peak {peak / 1e9:.2f} GB, {ratio:.3f} of the file")
    assert ratio <= allowed
