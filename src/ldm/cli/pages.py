"""Commands, groups and options as help shows them: titles, keys and their comments from `conf/`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from ldm.cli.comments import Default, Entry, defaults, entries, title
from ldm.cli.signatures import Argument, arguments, contract, summary

# A reference to another node of the config, which is how the parts of a model find each other.
WIRING = re.compile(r"\$\{(oc\.select:)?[a-z_]+(,null)?\}")
HIDDEN = ("_target_", "_partial_", "_convert_")


@dataclass(frozen=True)
class Files:
    """The config files of `ldm` and those of a folder of the user's."""

    config_dir: str | None = None

    def places(self) -> Iterator[Traversable]:
        """The folders, in the order in which Hydra searches them."""
        yield resources.files("ldm.conf")
        if self.config_dir is not None:
            yield Path(self.config_dir)

    def read(self, path: str) -> str:
        """The text of a file, empty if there is none."""
        for place in self.places():
            file = place.joinpath(*path.split("/"))
            if file.is_file():
                return file.read_text(encoding="utf-8")
        return ""

    def options(self, group: str) -> list[str]:
        """The options of a group."""
        folders = [place.joinpath(*group.split("/")) for place in self.places()]
        names = [child.name for folder in folders if folder.is_dir() for child in folder.iterdir()]
        return sorted({name.removesuffix(".yaml") for name in names if name.endswith(".yaml")})

    def describe(self, group: str) -> tuple[str, list[str]]:
        """The first sentence of a group's README, and the rest with the contract that it names."""
        head, _, body = self.read(f"{group}/README.md").strip().partition("\n")
        lines: list[str] = []
        for line in body.strip().splitlines():
            found = re.fullmatch(r"Contract: `([\w.]+)`", line)
            lines += contract(found[1]) if found else [line]
        return head.lstrip("# "), lines

    def groups(self, command: str) -> list[Default]:
        """The groups of a command, those of the command it extends first."""
        found: dict[str, Default] = {}
        for default in defaults(self.read(f"{command}.yaml")):
            inner = [default] if default.group else self.groups(default.option)
            found |= {d.group: d for d in inner if "hydra" not in d.group}
        return list(found.values())

    def keys(self, command: str) -> list[Entry]:
        """The keys that a command has itself, those of the command it extends first."""
        text = self.read(f"{command}.yaml")
        groups = {d.group for d in self.groups(command)}
        found: dict[str, Entry] = {}
        for default in defaults(text):
            found |= {} if default.group else {e.key: e for e in self.keys(default.option)}
        found |= {e.key: e for e in entries(text) if e.key.split(".")[0] not in groups}
        return [e for e in found.values() if _is_shown(e)]

    def option(self, group: str, name: str) -> list[Entry]:
        """The keys of an option, with comments of its file, of the option it extends, or of its class."""
        merged = self._merged(group, name)
        target = {key: e.value for key, e in merged.items() if key.rpartition(".")[2] == "_target_"}
        result = []
        for key, entry in merged.items():
            node, _, last = key.rpartition(".")
            argument = arguments(target.get(f"{node}._target_".lstrip("."), "")).get(last, Argument())
            comment = entry.comment or argument.comment
            listed = "" if all(v in comment for v in argument.values) else f" ({', '.join(argument.values)})"
            result.append(entry._replace(comment=f"{comment}{listed}".strip()))
        return [e for e in result if _is_shown(e)]

    def _merged(self, group: str, name: str) -> dict[str, Entry]:
        text = self.read(f"{group}/{name}.yaml")
        found: dict[str, Entry] = {}
        for default in defaults(text):
            if not default.group and not default.option.startswith("/"):
                found |= self._merged(group, default.option)
        for entry in entries(text):
            before = found.get(entry.key)
            kept = entry.comment or (before.comment if before else "")
            found[entry.key] = entry._replace(comment=kept)
        return found

    def title(self, group: str, name: str) -> str:
        """The first comment line of an option, or else the first sentence on its class or function."""
        text = self.read(f"{group}/{name}.yaml")
        target = next((e.value for e in entries(text) if e.key == "_target_"), "")
        return title(text) or summary(target)


def _is_shown(entry: Entry) -> bool:
    """True for a key that is set by users, rather than by the config itself."""
    return entry.key.rpartition(".")[2] not in HIDDEN and not WIRING.fullmatch(entry.value)
