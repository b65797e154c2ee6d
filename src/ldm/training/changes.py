"""Changes of a config between a checkpoint and the run that resumes it, and what comes of them."""

import copy
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.training.fates import Fate, fate_of, original, row_of
from ldm.utils.construct import default_in
from ldm.utils.errors import UserError

ABSENT = inspect.Parameter.empty
# Keys whose changes are of no interest: places of the run, and what the command does.
QUIET = ("paths", "resume", "dry_run", "data.bad_samples", "first_stage.data.bad_samples")
SHOWN = 12


@dataclass(frozen=True)
class Change:
    """A value that differs: dotted key, value in the checkpoint's config and value now, `ABSENT` for none."""

    key: str
    before: Any
    now: Any

    @property
    def fate(self) -> Fate:
        """The strictest fate of the keys that it is about."""
        leaves = [*_leaves(self.before, self.key), *_leaves(self.now, self.key)]
        return max(fate_of(key) for key in leaves)

    @property
    def trains(self) -> bool:
        """True if it concerns training only."""
        row = row_of(self.key)
        return row is None or row.trains

    def __str__(self) -> str:
        return f"{self.key} from {_shown(self.before)} to {_shown(self.now)}"


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """The changes between two configs.

    A key that one of them lacks has the default of the class there. Paths that lead to one file are equal.
    """
    return [change for change in _differences(before, now, "", now) if not _is_quiet(change.key)]


def distinct(found: Sequence[Change]) -> list[Change]:
    """The changes without those of values that are copies of others."""
    by_key = {change.key: change for change in found}

    def is_copy(change: Change) -> bool:
        source = by_key.get(original(change.key), change)
        return source is not change and (source.before, source.now) == (change.before, change.now)

    return [change for change in found if not is_copy(change)]


def refuse(found: Sequence[Change], checkpoint: Path, branches: bool) -> None:
    """Refuses changes that the checkpoint does not allow.

    Args:
        found: the changes, distinct ones.
        checkpoint: folder of the checkpoint.
        branches: the run is another than that of the checkpoint.

    Raises: UserError in the name of the first key, with all others.
    """
    refused = [change for change in found if change.fate > (Fate.BRANCH if branches else Fate.ACTS)]
    if not refused:
        return
    refused.sort(key=lambda change: -change.fate)
    first, others = refused[0], refused[1:]
    if first.fate is Fate.START:
        advice = (
            f"start a new run in another hydra.run.dir, with init_checkpoint={checkpoint} from its weights"
        )
    else:
        advice = f"branch off with resume={checkpoint} in another hydra.run.dir"
    also = f" (nor {listed(others)})" if others else ""
    raise UserError(
        f"cannot change on resume from {_shown(first.before)} to {_shown(first.now)}{also}: "
        f"leave it as it was, or {advice}",
        first.key,
    )


def undone(config: Mapping[str, Any], found: Sequence[Change]) -> dict[str, Any]:
    """The config with the values from before some changes."""
    result = copy.deepcopy(dict(config))
    for change in found:
        *path, name = change.key.split(".")
        node: Any = result
        for part in path:
            node = node[part]
        if change.before is ABSENT:
            del node[name]
        else:
            node[name] = copy.deepcopy(change.before)
    return result


def listed(found: Sequence[Change]) -> str:
    """The first changes, and the number of further ones."""
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(map(str, found[:SHOWN])) + more


def _differences(before: Any, now: Any, key: str, config: Mapping[str, Any]) -> Iterator[Change]:
    """Changes of values below a key; a node that appears or goes is one change."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        if not _same(before, now):
            yield Change(key, before, now)
        return
    alike = before.get("_target_") == now.get("_target_")
    for name in [*now, *(name for name in before if name not in now)]:
        full = f"{key}.{name}" if key else str(name)
        default = default_in(config, full) if alike and not (name in before and name in now) else ABSENT
        yield from _differences(before.get(name, default), now.get(name, default), full, config)


def _same(before: Any, now: Any) -> bool:
    empty = (None, ABSENT)
    if any(before is x for x in empty) or any(now is x for x in empty):
        return all(any(x is y for y in empty) or x in ({}, ()) for x in (before, now))
    if isinstance(before, str) and isinstance(now, str) and before != now and os.path.exists(now):
        return os.path.realpath(before) == os.path.realpath(now)
    if isinstance(before, list | tuple) and isinstance(now, list | tuple):
        return list(before) == list(now)
    return bool(before == now)


def _leaves(value: Any, key: str) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for name, child in value.items():
            yield from _leaves(child, f"{key}.{name}")
    else:
        yield key


def _is_quiet(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in QUIET)


def _shown(value: Any) -> str:
    """A value in a few words."""
    if value is ABSENT:
        return "none"
    if isinstance(value, Mapping):
        return str(value.get("_target_", "a node")).rpartition(".")[2]
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
