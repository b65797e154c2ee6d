"""The entry of every command: a checked plain dict for the task, one line and a status for every end."""

import contextlib
import functools
import gc
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ldm.cli.arguments import command_line, parse
from ldm.cli.ranks import quieten_other_ranks, rank_overrides
from ldm.cli.report import USAGE, Report
from ldm.utils.distributed import drop_leftovers

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from omegaconf import DictConfig

Task = Callable[[dict[str, Any]], None]
Main = Callable[..., int]


@dataclass(frozen=True, kw_only=True)
class Checks:
    """The arguments of `entry` that concern a job."""

    supplied: Mapping[str, Collection[str]]
    unneeded: Collection[str]
    resumable: bool


def entry(
    config_name: str,
    *,
    supplied: Mapping[str, Collection[str]] | None = None,
    unneeded: Collection[str] = (),
    resumable: bool = False,
) -> Callable[[Task], Main]:
    """A decorator that makes a command of `task(config)`: `main(argv=None) -> exit status`.

    A mistake of the user is one line and status 2, a failure 1, ctrl-C 130; a bug keeps its traceback.

    Args:
        config_name: the primary config of the command ldm-<config_name>.
        supplied: config key of a node -> arguments that the task passes to it.
        unneeded: config keys below which values may be missing.
        resumable: ctrl-C prints the command that continues the run; ranks of other launchers are ignored.
    """
    checks = Checks(supplied=supplied or {}, unneeded=unneeded, resumable=resumable)

    def decorate(task: Task) -> Main:
        @functools.wraps(task)
        def main(argv: Sequence[str] | None = None) -> int:
            report = Report(f"ldm-{config_name}")
            with _collection_paused(), command_line(argv) as words, report.of_command():
                if resumable and (note := drop_leftovers()) is not None:
                    report.line(0, note)
                arguments = parse(config_name, words)
                if arguments.help or arguments.version:
                    from ldm.cli.help import shown

                    print(shown(config_name, arguments))
                    return report.status
                with _hydra(config_name, arguments) as hydra:
                    job = _job(task, config_name, arguments, checks, report)
                    _mode(hydra, config_name, job, arguments)()
            return report.status

        return main

    return decorate


def _mode(
    hydra: "Hydra", command: str, job: Callable[["DictConfig"], None], arguments: Namespace
) -> Callable[[], Any]:
    """The action that the flags ask for: the job, a sweep of it or a print of its config."""
    from ldm.cli.hydra_internals import mode

    return mode(hydra, arguments.config_name or command, job, arguments)


@contextlib.contextmanager
def _collection_paused() -> Iterator[None]:
    """Inside, garbage is not collected: composing makes many objects and little garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def _hydra(command: str, arguments: Namespace) -> Iterator["Hydra"]:
    """Hydra on the configs of a command, with the overrides of this process and advice on unknown keys."""
    from ldm.cli.hydra_internals import opened
    from ldm.cli.jobs import dry_overrides
    from ldm.cli.null_groups import replace_null_groups
    from ldm.cli.plain_keys import plain_keys
    from ldm.cli.resolvers import register_resolvers
    from ldm.cli.unknown_keys import check_unknown
    from ldm.cli.words import words_of

    register_resolvers()
    typed = arguments.overrides
    given = [*replace_null_groups(command, typed), *rank_overrides(arguments, command), *dry_overrides(typed)]
    arguments.words = words_of(command, arguments, given)
    arguments.overrides = arguments.words.as_overrides()
    with opened(command, arguments.config_dir, plain_keys(command)) as hydra:
        try:
            yield hydra
        except Exception as error:
            check_unknown(error, command, arguments, typed)
            raise


def _job(
    task: Task, command: str, arguments: Namespace, checks: Checks, report: Report
) -> Callable[["DictConfig"], None]:
    """The task with its surroundings: a plain config, checked, and errors that end in the report."""
    from ldm.cli import jobs
    from ldm.cli.config import plain
    from ldm.cli.constraints import check_constraints
    from ldm.cli.experiment_deltas import check_with_deltas
    from ldm.cli.schema import check_types
    from ldm.cli.stray_keys import check_stray
    from ldm.cli.unknown_keys import keys_of
    from ldm.utils.construct import user_modules

    @functools.wraps(task)
    def job(cfg: "DictConfig") -> None:
        gc.enable()
        config: dict[str, Any] = {}
        try:
            config = plain(cfg)
            with jobs.as_single_run(arguments, config), user_modules(arguments.config_dir):
                quieten_other_ranks()
                check_stray(command, cfg, config, arguments)
                config = check_types(command, config)
                expected = {"supplied": checks.supplied, "unneeded": checks.unneeded}
                check_with_deltas(config, command, arguments, **expected)
                check_constraints(config)
                task(config)
        except (KeyboardInterrupt, SystemExit) as error:
            # Lightning turns ctrl-C into an exit after its clean-up
            if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
                raise
            line = jobs.resume_line(command, arguments, config) if checks.resumable else "interrupted"
            report.interrupted(line)
        except Exception as error:
            if report.error(error, keys_of(config)) == USAGE:
                jobs.discard_empty_run()
            if not jobs.is_in_this_process():
                raise

    return job
