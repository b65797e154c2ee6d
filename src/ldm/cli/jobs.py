"""The surroundings of one job: its command line within a sweep, and its directory."""

import contextlib
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf, read_write

from ldm.cli.arguments import command_line
from ldm.cli.notes import restore_notes

# Overrides that concern the sweep as a whole.
SWEEP = ("hydra.mode=", "hydra.sweep", "hydra.run.", "hydra/sweeper", "hydra/launcher", "hydra.launcher")


@contextlib.contextmanager
def as_single_run(arguments: Namespace, job: Mapping[str, Any]) -> Iterator[None]:
    """Within a job of a sweep, make command line and run directory those of this job alone.

    Args:
        arguments: flags and words of the sweep.
        job: config of this job, interpolations resolved.

    Lightning starts the other ranks with `sys.argv` and `hydra.run.dir`: with those of the sweep each rank
    would start the whole sweep in a directory of its own.
    """
    config = HydraConfig.get()
    if config.mode != RunMode.MULTIRUN:
        yield
        return
    flags = [("--config-dir", arguments.config_dir), ("--config-name", arguments.config_name)]
    given = [part for flag, value in flags if value for part in (flag, value)]
    own = [o for o in config.overrides.hydra if not o.startswith(SWEEP)]
    with read_write(config):  # type: ignore[arg-type]
        config.run.dir = config.runtime.output_dir
    environment = dict(os.environ)
    try:
        typed = [arguments.words.as_typed(word, job) for word in job_overrides()]
        with command_line([*given, *typed, *own]):
            yield
    finally:  # the next job starts as this one did
        os.environ.clear()
        os.environ.update(environment)
        distributed = sys.modules.get("torch.distributed")
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def job_overrides() -> list[str]:
    """Overrides of the job as Hydra was given them; none outside a job."""
    if not HydraConfig.initialized():
        return []
    overrides = OmegaConf.to_container(HydraConfig.get().overrides, resolve=False)
    assert isinstance(overrides, dict)
    return [str(word) for word in overrides["task"]]


def is_in_this_process() -> bool:
    """True unless a launcher has started the job elsewhere, from where only an exception returns."""
    return bool(HydraConfig.get().launcher._target_.endswith("BasicLauncher"))


def dry_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides with which Hydra creates no run directory for a dry run, which only inspects it."""
    if "debug=dry" not in overrides:
        return []
    given = [o.partition("=")[2] for o in overrides if o.startswith("hydra.run.dir=")]
    return [*(f"paths.run={path}" for path in given[-1:]), "hydra.run.dir=.", "hydra.output_subdir=null"]


def discard_empty_run() -> None:
    """Remove the run directory if it holds nothing but the files that Hydra wrote before the task began.

    Hydra's notes on an earlier command in it are restored.
    """
    if restore_notes():
        return
    config = HydraConfig.get()
    run = Path(config.runtime.output_dir)
    log = run / f"{config.job.name}.log"
    notes = run / str(config.output_subdir)
    if config.mode == RunMode.MULTIRUN or set(run.iterdir()) - {log, notes}:
        return
    if log.exists() and log.stat().st_size:
        return
    for path in (*notes.glob("*.yaml"), log):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        notes.rmdir()
        run.rmdir()


def resume_line(command: str, arguments: Namespace, job: Mapping[str, Any]) -> str:
    """The command that continues the job in its directory.

    Args:
        command: name of the command.
        arguments: its flags and words.
        job: config of the job, interpolations resolved.
    """
    place = f"hydra.run.dir={HydraConfig.get().runtime.output_dir}"
    flags = {"--config-dir": arguments.config_dir, "--config-name": arguments.config_name}
    typed = [word for flag, value in flags.items() if value for word in (flag, value)]
    typed += [arguments.words.as_typed(word, job) for word in job_overrides()]
    return f"stopped; resume with: ldm-{command} {shlex.join([*typed, place])}"
