"""Tests need no network, no login and no leftover of the shell they are started from."""

import os

import hypothesis
import pytest

os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", MPLBACKEND="agg")
for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LDM_TRACEBACK", "LDM_RUNS", "LDM_DATA"):
    os.environ.pop(name, None)
for name in [n for n in os.environ if n.startswith("SLURM_")]:
    del os.environ[name]

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _restores_environment(monkeypatch):
    """Environment variables set by the code under test do not reach the next test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
