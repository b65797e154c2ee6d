"""Classes and functions of `ldm` as their source documents them, read without importing them (nor torch)."""

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

import ldm

Definition = ast.ClassDef | ast.FunctionDef
HEADINGS = ("Args", "Returns", "Raises", "Reference", "References", "Attributes", "Yields", "Example")


class Argument(NamedTuple):
    """An argument: its documentation and, for an enumeration, the values that it takes."""

    comment: str = ""
    values: tuple[str, ...] = ()


@functools.cache
def module(name: str) -> ast.Module | None:
    """The syntax tree of a module of `ldm`, None if there is none of that name."""
    path = Path(ldm.__path__[0]).joinpath(*name.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else None


@functools.cache
def definition(target: str) -> tuple[Definition, str] | None:
    """A class or function and its module, by its dotted name; names that a package re-exports are followed."""
    name, _, last = target.rpartition(".")
    if not name.startswith("ldm") or (tree := module(name)) is None:
        return None
    for node in tree.body:
        if isinstance(node, Definition) and node.name == last:
            return node, name
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and last in {a.asname or a.name for a in node.names}
        ):
            return definition(f"{node.module}.{last}")
    return None


def arguments(target: str) -> dict[str, Argument]:
    """The arguments of a class or function, base classes included."""
    if (found := definition(target)) is None:
        return {}
    node, home = found
    result: dict[str, Argument] = {}
    if isinstance(node, ast.ClassDef):
        for base in node.bases:
            result |= arguments(f"{home}.{ast.unparse(base).split('[')[0]}")
    texts = documented(ast.get_docstring(node) or "")
    annotations = dict(_annotations(node))
    for name in {**texts, **annotations}:
        comment = texts.get(name) or result.get(name, Argument()).comment
        result[name] = Argument(comment, _values(annotations.get(name), home))
    return result


def documented(docstring: str) -> dict[str, str]:
    """Name -> text of the entries in the Args of a docstring."""
    result: dict[str, str] = {}
    section = re.search(
        r"^(?:Args|Attributes):\n((?:[ \t]+.*\n|\n(?=[ \t]))*)", f"{docstring}\n", re.MULTILINE
    )
    names: list[str] = []
    for line in section[1].splitlines() if section else []:
        start = re.match(r" {4}([\w*]+(?:, [\w*]+)*)(?: \([^)]*\))?: (.*)", line)
        if start:
            names = [name.strip("* ") for name in start[1].split(",")]
            result |= dict.fromkeys(names, start[2])
        else:
            result |= {name: f"{result[name]} {line.strip()}".strip() for name in names}
    return result


def contract(target: str) -> list[str]:
    """The documentation of a class and the signatures of its public members, one line each."""
    if (found := definition(target)) is None:
        return []
    node, _ = found
    text = (ast.get_docstring(node) or "").split("\n\nArgs:")[0]
    lines = [f"{node.name} ({target.rpartition('.')[0]})", *text.splitlines()]
    for child in node.body:
        if isinstance(child, ast.AnnAssign):
            lines.append(f"  {ast.unparse(child)}")
        elif isinstance(child, ast.FunctionDef) and (
            child.name in ("__call__", "forward") or child.name[0] != "_"
        ):
            returns = f" -> {ast.unparse(child.returns)}" if child.returns else ""
            lines.append(f"  {child.name}({ast.unparse(child.args)}){returns}")
            if text := ast.get_docstring(child):
                lines.append(f"      {text.splitlines()[0]}")
    return lines


def _annotations(node: Definition) -> list[tuple[str, ast.expr | None]]:
    """Names and annotations of the arguments: of __init__, or of the fields of a dataclass."""
    if isinstance(node, ast.FunctionDef):
        return [(a.arg, a.annotation) for a in (*node.args.args, *node.args.kwonlyargs)]
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            return [pair for pair in _annotations(child) if pair[0] != "self"]
    return [
        (child.target.id, child.annotation)
        for child in node.body
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name)
    ]


def _values(annotation: ast.expr | None, home: str) -> tuple[str, ...]:
    """The values of a Literal in an annotation, also of one that has a name in its module."""
    for node in ast.walk(annotation) if annotation is not None else []:
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            return tuple(str(c.value) for c in ast.walk(node.slice) if isinstance(c, ast.Constant))
        if isinstance(node, ast.Name):
            for child in tree.body if (tree := module(home)) else []:
                if isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == node.id:
                    return _values(child.value, home)
    return ()
