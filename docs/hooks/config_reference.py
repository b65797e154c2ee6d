"""The config reference: every key of conf/ with its default and the comment that stands above it."""

import functools
from pathlib import Path
from typing import Any

import yaml
from mkdocs.structure.files import File, Files

CONF = Path(__file__).parents[2] / "conf"
COMMANDS = ("sample", "train", "convert", "data", "ema", "plan", "eval")
INTRODUCTION = """# Configuration

Each command composes one config from YAML files. `key=value` on the command line sets a key, `group=option`
chooses an option of a group, and `--help` prints the same text. These pages are generated from the comments
in `conf/`.
"""
UNLISTED = {"hydra", "paths", "local"}  # the framework's own


def comments(text: str) -> tuple[str, dict[str, str]]:
    """The comment at the head of a YAML file and the comments above or beside its keys, by key."""
    head, pending, found = "", list[str](), dict[str, str]()
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            pending.append(stripped.lstrip("# "))
        elif not stripped or (not head and not found and pending and line[0] not in " -"):
            if not head and not found:
                head, pending = " ".join(p for p in pending if not p.startswith("@package")), []
            if stripped and line[0] not in " -":
                found[stripped.split(":")[0]] = _beside(stripped)
        elif line[0] not in " -":
            found[stripped.split(":")[0]] = " ".join(pending) or _beside(stripped)
            pending = []
    return head, found


def _beside(line: str) -> str:
    return line.partition("  # ")[2].strip()


def _cell(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
    return f"`{text}`".replace("|", "\\|")


def table(path: Path) -> str:
    """The keys of one file: name, default, comment."""
    text = path.read_text()
    node, (_, said) = yaml.safe_load(text) or {}, comments(text)
    keys = [k for k in node if k not in ("defaults", "hydra", "_target_", "_partial_")]
    if not keys:
        return ""
    rows = [f"| `{k}` | {_cell(node[k])} | {said.get(k, '')} |" for k in keys]
    return "\n".join(["| key | default | |", "|---|---|---|", *rows]) + "\n"


def target(path: Path) -> str:
    """A link to what the file constructs."""
    node = yaml.safe_load(path.read_text()) or {}
    name = node.get("_target_", "") if isinstance(node, dict) else ""
    if name.startswith("ldm."):
        return f"[`{name}`][{name}]\n\n"
    return f"`{name}`\n\n" if name else ""


def group_page(folder: Path) -> str:
    """One config group: its options, each with its comment and keys."""
    name = folder.relative_to(CONF).as_posix()
    files = sorted(folder.glob("*.yaml"))
    lines = [f"# {name}", "", f"Choose with `{name}=OPTION`.", "", "| option | |", "|---|---|"]
    lines += [f"| [`{p.stem}`](#{p.stem}) | {comments(p.read_text())[0]} |" for p in files]
    for path in files:
        head = comments(path.read_text())[0]
        lines += ["", f"## {path.stem} {{: #{path.stem} }}", "", f"{head}\n", f"{target(path)}{table(path)}"]
    return "\n".join(lines) + "\n"


def groups() -> dict[str, Path]:
    """Name of each config group -> its folder."""
    folders = sorted(p for p in CONF.rglob("*") if p.is_dir() and list(p.glob("*.yaml")))
    named = {p.relative_to(CONF).as_posix(): p for p in folders}
    return {name: p for name, p in named.items() if name.split("/")[0] not in UNLISTED}


def command_page(name: str) -> str:
    """One command: its config's keys and the groups it composes."""
    path = CONF / f"{name}.yaml"
    node = yaml.safe_load(path.read_text())
    defaults = [d for d in node.get("defaults", []) if isinstance(d, dict)]
    chosen = {str(k).removeprefix("optional "): v for d in defaults for k, v in d.items()}
    known = groups()
    rows = [f"| [`{g}`](group_{_slug(g)}.md) | `{v}` |" for g, v in chosen.items() if g in known]
    text = f"# ldm-{name}\n\n{comments(path.read_text())[0]}\n\n{table(path)}"
    if rows:
        text += "\n".join(["\n## Groups\n", "| group | default |", "|---|---|", *rows]) + "\n"
    return text


def _slug(group: str) -> str:
    return group.replace("/", "_")


def overview() -> str:
    """The first page of the reference."""
    commands = [c for c in COMMANDS if (CONF / f"{c}.yaml").is_file()]
    lines = [INTRODUCTION, "| command | |", "|---|---|"]
    lines += [f"| [`ldm-{c}`]({c}.md) | {comments((CONF / f'{c}.yaml').read_text())[0]} |" for c in commands]
    lines += ["", "| group | options |", "|---|---|"]
    for name, folder in groups().items():
        options = ", ".join(f"`{p.stem}`" for p in sorted(folder.glob("*.yaml")))
        lines.append(f"| [`{name}`](group_{_slug(name)}.md) | {options} |")
    return "\n".join(lines) + "\n"


@functools.cache
def pages() -> dict[str, str]:
    """Name of each page -> its Markdown."""
    made = {"index": overview()}
    made |= {c: command_page(c) for c in COMMANDS if (CONF / f"{c}.yaml").is_file()}
    return made | {f"group_{_slug(name)}": group_page(folder) for name, folder in groups().items()}


def on_config(config: Any) -> Any:
    """Adds the reference to the navigation."""
    names: dict[str, list[str]] = {"commands": [], "groups": []}
    for name in pages():
        names["groups" if name.startswith("group_") else "commands"].append(f"reference/config/{name}.md")
    first, *commands = names["commands"]
    config.nav.append({"Configuration": [first, {"Commands": commands}, {"Groups": names["groups"]}]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages."""
    for name, markdown in pages().items():
        files.append(File.generated(config, f"reference/config/{name}.md", content=markdown))
    return files
