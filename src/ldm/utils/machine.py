"""Facts about the machine and the code that a run's summary names."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """Processor, cores, threads and versions of this machine."""
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def revision() -> dict[str, str]:
    """Version of ldm, the git revision it runs from (empty for an installed wheel) and the time."""
    try:
        command = ["git", "describe", "--always", "--dirty"]
        git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
        described = git.stdout.strip() if git.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired):
        described = ""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"ldm_version": version("ldm"), "git_revision": described, "created": now}
