"""The words of a command line as overrides of Hydra: text stays what the shell handed over.

Hydra has one grammar for all values, in which a comma is a sweep and an apostrophe opens a quotation. Here
the type of a key decides: text is text, character by character; the grammar holds for everything else, and
for every key of a sweep.
"""

import inspect
import re
import shlex
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from ldm.cli.plain_keys import is_group, plain_keys
from ldm.cli.schema import TYPES, Kind, kind
from ldm.cli.text_values import as_list, quoted, quoted_list, typed_list
from ldm.cli.unknown_keys import composed
from ldm.utils.construct import annotation_in, node_at, user_modules
from ldm.utils.errors import UserError

ASSIGNMENT = re.compile(r"(\+{0,2}([\w./@:-]+))=(.*)", re.DOTALL)
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
GRAMMAR = Kind(text=False, texts=False, other=True)
SIMPLE = re.compile(
    r"\.{0,2}(?!(true|false|null|nan|inf|infinity)\Z)[A-Za-z_/][\w./-]*", re.IGNORECASE | re.ASCII
)


class Words:
    """The words of one command line.

    Args:
        command: name of the command.
        words: overrides, with which nested keys are looked up.
        config_dir: folder with further options.
        sweep: true if Hydra's grammar of sweeps holds.
        config_name: the primary config, if it is not that of the command.
    """

    def __init__(
        self,
        command: str,
        words: Sequence[str],
        config_dir: str | None,
        sweep: bool,
        config_name: str | None = None,
    ) -> None:
        self.command, self.words, self.config_dir, self.sweep = command, words, config_dir, sweep
        self.config_name = config_name or command
        self.types = TYPES.get(command, {})
        self._config: dict[str, Any] | None = None

    def as_overrides(self) -> list[str]:
        """The words as Hydra must be given them.

        Raises: UserError for a value that the type of its key cannot take.
        """
        return [self._override(word) for word in self.words]

    def as_typed(self, word: str, config: Mapping[str, Any]) -> str:
        """The word to type for an override of a job.

        Args:
            word: the override, in Hydra's grammar.
            config: of the job, interpolations resolved.
        """
        found = ASSIGNMENT.fullmatch(word)
        allowed = self.kind(found[2]) if found else GRAMMAR
        if found is None or not (allowed.text or allowed.texts):
            return word
        value: Any = config
        for name in found[2].split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(value, list) and all(item is None or isinstance(item, str) for item in value):
            value = typed_list(value)
        return f"{found[1]}={value}" if isinstance(value, str) else word

    def kind(self, key: str) -> Kind:
        """The values that a key takes."""
        return kind(self._type(key))

    def _type(self, key: str) -> Any:
        """The type of a key, `Any` if it is not known."""
        if key in self.types:
            return self.types[key]
        if "." not in key or key.startswith("hydra.") or self._is_choice(key):
            return Any
        with user_modules(self.config_dir):
            return annotation_in(self._composed(), key)

    def _override(self, word: str) -> str:
        found = ASSIGNMENT.fullmatch(word)
        if found is None:
            return word
        typed, key, value = found.groups()
        if self._is_choice(key):
            self._check_choice(word, key, value)
            return word
        if key in FOLDERS:
            # Lightning starts its ranks with a quoted folder
            literal = "${" not in value and not re.fullmatch(r'"[^"]*"', value) and not self.sweep
            return f"{typed}={quoted(value)}" if literal else word
        if key.startswith("hydra.") or value == "null" or SIMPLE.fullmatch(value):
            return word
        allowed = self.kind(key)
        if self.sweep:
            self._check_sweep(key, value, allowed)
            return word
        if allowed.texts and (items := as_list(value)) is not None:
            return f"{typed}={quoted_list(items)}"
        if allowed.text and not allowed.other:
            return f"{typed}={quoted(value)}"
        return word if self._is_one_value(word, key, value, allowed) else f"{typed}={quoted(value)}"

    def _is_one_value(self, word: str, key: str, value: str, allowed: Kind) -> bool:
        """True if Hydra reads a single value; anything else is text, which the checks refuse by its key.

        Raises: UserError for a list or mapping with a mistake in it, and for several values.
        """
        try:
            if not _parsed(word).is_sweep_override():
                return True
            advice = f"{key}=[{value}] is a list, and -m runs one after the other"
        except HydraException:
            if value[:1] not in ("[", "{"):
                return False
            advice = "its brackets, quotes or commas are not those of a list or mapping"
        if allowed.text or allowed.texts or not self._has(key):
            return False
        if self._type(key) in (Any, inspect.Parameter.empty):
            advice += f"; as text write {_for_shell(key, value)}"
        raise UserError(f"must be one value, got {value!r}: {advice}", key)

    def _check_choice(self, word: str, key: str, value: str) -> None:
        """Refuse what is neither the name of an option nor a list of names, nor in a sweep several."""
        try:
            chosen = _parsed(word)
        except HydraException:
            chosen = None
        several = chosen is not None and chosen.is_sweep_override()
        if several and self.sweep:
            return
        values = None if chosen is None or several else chosen.value()
        names = values is None or all(
            isinstance(name, str) for name in (values if isinstance(values, list) else [values])
        )
        if chosen is None or several or not names:
            hint = "; -m runs one after the other" if several else ""
            raise UserError(f"must be an option, got {value!r} (ldm-{self.command} --help {key}){hint}", key)

    def _has(self, key: str) -> bool:
        """True if the config has the key."""
        parent, _, name = key.rpartition(".")
        return name in ((node_at(self._composed(), parent) if parent else self._composed()) or ())

    def _check_sweep(self, key: str, value: str, allowed: Kind) -> None:
        """Refuse text that the grammar of sweeps cannot read."""
        try:
            _parsed(f"{key}={value}")
        except HydraException as error:
            if allowed.text or allowed.texts:
                raise UserError(
                    f"cannot be read in the grammar of sweeps (-m), got {value!r}; write "
                    f"{_for_shell(key, value)}",
                    key,
                ) from error

    def _is_choice(self, key: str) -> bool:
        """True if the key chooses an option of a group."""
        return key not in plain_keys(self.command) and is_group(key.partition("@")[0])

    def _composed(self) -> dict[str, Any]:
        """The config that the choices of options make."""
        if self._config is None:
            choices = [w for w in self.words if self._is_choice(w.lstrip("+").partition("=")[0])]
            self._config = composed(self.config_name, choices, self.config_dir)
        return self._config


def words_of(command: str, arguments: Namespace, words: Sequence[str]) -> Words:
    """The words of a command line with its flags."""
    sweep = arguments.multirun or any(word.upper() == "HYDRA.MODE=MULTIRUN" for word in words)
    return Words(command, words, arguments.config_dir, bool(sweep), arguments.config_name)


def _for_shell(key: str, text: str) -> str:
    """The word to type for a text in Hydra's grammar."""
    word = f"{key}={quoted(text)}"
    special = re.search(r"[\"$`!]|\\(?!')", word)
    return shlex.quote(word) if special else f'{key}="{quoted(text)}"'


def _parsed(word: str) -> Override:
    return OverridesParser.create().parse_override(word)
