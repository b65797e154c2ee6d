"""The entry of every command: Hydra's main, with checks before and one clear line after a mistake."""

import contextlib
import functools
import gc
import itertools
import logging
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, read_write

from ldm.cli.config import plain
from ldm.cli.constraints import check_constraints
from ldm.cli.errors import FAILURE, INTERRUPTED, USAGE, describe, unknown_override
from ldm.cli.help import print_help_head
from ldm.cli.null_groups import replace_null_groups
from ldm.cli.plain_keys import without_groups_of
from ldm.cli.resolvers import register_resolvers
from ldm.utils.construct import check, user_modules
from ldm.utils.distributed import launched
from ldm.utils.errors import did_you_mean

CONFIGS = "pkg://ldm.conf"

Task = Callable[[DictConfig], None]
Main = Callable[..., int]


def entry(
    config_name: str,
    *,
    supplied: Mapping[str, Collection[str]] | None = None,
    interrupted: Callable[[DictConfig], str] = lambda cfg: "interrupted",
    unneeded: Collection[str] = (),
) -> Callable[[Task], Main]:
    """Returns a decorator that makes a command of `task(cfg)`: `main(argv=None) -> exit status`.

    The config is composed by Hydra from `ldm.conf` and checked before the task sees it. A mistake of the user
    is one line on stderr and status 2, a failure one line and 1, ctrl-C one line and 130; a bug keeps its
    traceback, and LDM_TRACEBACK=1 shows it for all.

    Args:
        config_name: the primary config, also the name of the command: ldm-<config_name>.
        supplied: config key of a node -> arguments that the task passes when it builds the node.
        interrupted: the line for ctrl-C once the task runs: how to go on.
        unneeded: config keys below which values may be missing.
    """

    def decorate(task: Task) -> Main:
        @functools.wraps(task)
        def main(argv: Sequence[str] | None = None) -> int:
            return _Command(task, config_name, supplied or {}, interrupted, unneeded).run(argv)

        return main

    return decorate


class _Command:
    """One call of a command: what to run and the exit statuses of its jobs (several with --multirun)."""

    def __init__(
        self,
        task: Task,
        config_name: str,
        supplied: Mapping[str, Collection[str]],
        interrupted: Callable[[DictConfig], str],
        unneeded: Collection[str],
    ) -> None:
        self.task, self.config_name, self.supplied = task, config_name, supplied
        self.interrupted, self.unneeded = interrupted, unneeded
        self.statuses: list[int] = []
        self.args = Namespace()

    def run(self, argv: Sequence[str] | None) -> int:
        """Runs Hydra on the command line and returns the exit status."""
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
        register_resolvers()
        gc.disable()  # composing makes many objects and little garbage: a tenth of the time of --help
        with _argv(argv), contextlib.ExitStack() as stack:
            try:
                self.args = self._parse()
                stack.enter_context(user_modules(_folder(self.args.config_dir)))
                stack.enter_context(without_groups_of(self.config_name))
                sys.argv += _rank_overrides(self.args, self.config_name) + _dry_overrides(self.args)
                if self.args.help:  # Hydra's own takes twice as long, listing the groups
                    print_help_head(self.config_name, self.args.config_dir)
                    sys.argv[1:] = ["--cfg", "job", *(a for a in sys.argv[1:] if a not in ("--help", "-h"))]
                hydra.main(version_base="1.3", config_path=CONFIGS, config_name=self.config_name)(
                    self._job()
                )()
                sys.stdout.flush()
            except SystemExit as error:
                return _status_of(error)
            except KeyboardInterrupt:
                return self._say(INTERRUPTED, "interrupted")
            except BrokenPipeError:  # the reader of `--help | head` has gone
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return FAILURE
            except Exception as error:
                return self._report(error, started=False)
            finally:
                gc.enable()
        return max(self.statuses, default=0)

    def _parse(self) -> Namespace:
        """The command line as Hydra reads it; a mistake in a flag is one line here, the usage text there."""
        parser = get_args_parser()

        def fail(message: str) -> None:
            sys.exit(self._say(USAGE, f"{message} (--help, --hydra-help)"))

        parser.error = fail  # type: ignore[assignment, method-assign]
        args = parser.parse_intermixed_args()
        flags = sys.argv[1:]
        for override in args.overrides:
            flags.remove(override)
        args.overrides = replace_null_groups(self.config_name, args.overrides)
        sys.argv[1:] = [*flags, *args.overrides]  # Hydra takes flags only on one side of the overrides
        return args

    def _job(self) -> Task:
        """The task with checks before it and its errors turned into a status."""

        @functools.wraps(self.task)
        def job(cfg: DictConfig) -> None:
            gc.enable()
            try:
                with _as_single_run(self.args):
                    _quieten_other_ranks()
                    check(plain(cfg), supplied=self.supplied, unneeded=self.unneeded)
                    check_constraints(cfg)
                    self.task(cfg)
            except KeyboardInterrupt:
                sys.exit(self._say(INTERRUPTED, self.interrupted(cfg)))
            except SystemExit as error:
                if isinstance(
                    error.__context__, KeyboardInterrupt
                ):  # Lightning exits so after its tidying up
                    sys.exit(self._say(INTERRUPTED, self.interrupted(cfg)))
                raise
            except Exception as error:
                self.statuses.append(self._report(error, started=True, keys=_keys(cfg)))
                if self.statuses[-1] == USAGE:
                    _discard_empty_run()
                if not HydraConfig.get().launcher._target_.endswith("BasicLauncher"):
                    raise  # another process: only the exception gets home

        return job

    def _report(self, error: Exception, started: bool, keys: Collection[str] = ()) -> int:
        """Says what went wrong and returns the exit status."""
        status, line = describe(error, keys)
        if not started and line is None:
            status, line = USAGE, " ".join(str(error).split())
        key = unknown_override(error)
        if key is not None:
            line = f"{key}: unknown key{did_you_mean(key, self._known_keys(key)) or ';'} +{key}=... adds one"
        if line is None or os.environ.get("LDM_TRACEBACK") == "1":
            traceback.print_exception(error)
            return status if line is None else self._say(status, line)
        return self._say(status, line)

    def _say(self, status: int, line: str) -> int:
        """Prints one line to stderr, on other ranks with the rank, and returns the status."""
        rank, _, _ = launched()
        if rank == 0 or status != INTERRUPTED:
            where = f" (rank {rank})" if rank else ""
            print(f"ldm-{self.config_name}{where}: {line}", file=sys.stderr, flush=True)
        return status

    def _known_keys(self, unknown: str) -> list[str]:
        """All keys of the config, composed again without the override that is not known."""
        kept = [o for o in self.args.overrides if o.lstrip("+~").split("=")[0] != unknown]
        name, folder = self.args.config_name or self.config_name, self.args.config_dir
        places: list[tuple[Callable[[], contextlib.AbstractContextManager[None]], list[str]]]
        start = functools.partial(hydra.initialize_config_module, "ldm.conf", version_base="1.3")
        places = [(start, [])]
        if folder:
            folder = os.path.abspath(folder)
            inside = functools.partial(hydra.initialize_config_dir, folder, version_base="1.3")
            places = [
                (start, [f"hydra.searchpath=[file://{folder}]"]),
                (inside, [f"hydra.searchpath=[{CONFIGS}]"]),
            ]
        for (begin, path), overrides in itertools.product(places, (kept, [])):
            with contextlib.suppress(Exception), begin():
                return _keys(hydra.compose(name, overrides + path))
        return []


@contextlib.contextmanager
def _argv(argv: Sequence[str] | None) -> Iterator[None]:
    """While inside, `sys.argv` is a copy, with `argv` as the arguments if given."""
    before = sys.argv
    sys.argv = [*before] if argv is None else [before[0], *argv]
    try:
        yield
    finally:
        sys.argv = before


def _keys(cfg: DictConfig, prefix: str = "") -> list[str]:
    """All dotted keys of a config."""
    keys = []
    for name in map(str, cfg):
        key = f"{prefix}{name}"
        keys.append(key)
        child = cfg._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            keys += _keys(child, f"{key}.")
    return keys


def _status_of(error: SystemExit) -> int:
    """The exit status that a SystemExit asks for."""
    return error.code if isinstance(error.code, int) else int(error.code is not None)


def _folder(config_dir: str | None) -> str | None:
    """The folder of --config-dir; None for one that is not there, which Hydra reports."""
    return config_dir if config_dir is not None and Path(config_dir).is_dir() else None


def _rank_overrides(args: Namespace, config_name: str) -> list[str]:
    """Overrides by which a rank above 0 shares the run directory: it writes its own log and no config."""
    shows = args.help or args.hydra_help or args.cfg or args.info or args.shell_completion
    rank, _, _ = launched()
    if rank == 0 or shows:
        return []
    return ["hydra.output_subdir=null", f"hydra.job.name={config_name}_rank_{rank}"]


def _dry_overrides(args: Namespace) -> list[str]:
    """Overrides by which Hydra makes no run directory for a dry run, which only looks at it."""
    if "debug=dry" not in args.overrides or args.help or args.hydra_help:
        return []
    given = [o.partition("=")[2] for o in args.overrides if o.startswith("hydra.run.dir=")]
    return [*(f"paths.run={path}" for path in given[-1:]), "hydra.run.dir=.", "hydra.output_subdir=null"]


def _quieten_other_ranks() -> None:
    """On ranks above 0 the console shows warnings only."""
    if launched()[0] > 0:
        for handler in logging.getLogger().handlers:
            if type(handler) is logging.StreamHandler:
                handler.setLevel(logging.WARNING)


@contextlib.contextmanager
def _as_single_run(args: Namespace) -> Iterator[None]:
    """While a job of a sweep runs, command line and run directory are those of this job alone.

    Lightning starts the other ranks with `sys.argv` and `hydra.run.dir`: with those of the sweep each rank
    would start the whole sweep in a directory of its own.
    """
    config = HydraConfig.get()
    if config.mode != RunMode.MULTIRUN:
        yield
        return
    flags = [("--config-dir", args.config_dir), ("--config-name", args.config_name)]
    given = [part for flag, value in flags if value for part in (flag, value)]
    sweep = ("hydra.mode=", "hydra.sweep", "hydra.run.", "hydra/sweeper", "hydra/launcher", "hydra.launcher")
    ours = [o for o in config.overrides.hydra if not o.startswith(sweep)]
    with read_write(config):  # type: ignore[arg-type]
        config.run.dir = config.runtime.output_dir
    environment = dict(os.environ)
    try:
        with _argv([*given, *config.overrides.task, *ours]):
            yield
    finally:  # the next job starts as this one did
        os.environ.clear()
        os.environ.update(environment)
        distributed = sys.modules.get("torch.distributed")
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def _discard_empty_run() -> None:
    """Removes the run directory if it holds nothing but what Hydra wrote there before the task began."""
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
