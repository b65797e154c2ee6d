"""Classes and functions of `ldm` as their source documents them, read without importing them (nor torch)."""

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

import ldm

Definition = ast.ClassDef | ast.FunctionDef
CALLS = ("__call__", "forward")


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
    """A class or function and its module, by its dotted name; re-exported names are followed."""
    name, _, last = target.rpartition(".")
    if name.split(".")[0] != "ldm" or (tree := module(name)) is None:
        return None
    for node in tree.body:
        if isinstance(node, Definition) and node.name == last:
            return node, name
        if isinstance(node, ast.ImportFrom) and last in {a.asname or a.name for a in node.names}:
            return definition(f"{node.module}.{last}")
    return None


def summary(target: str) -> str:
    """The first line of the documentation of a class or function."""
    found = definition(target)
    return (ast.get_docstring(found[0]) or "").partition("\n")[0] if found else ""


def arguments(target: str) -> dict[str, Argument]:
    """The arguments of a class or function, base classes included."""
    if (found := definition(target)) is None:
        return {}
    node, home = found
    result: dict[str, Argument] = {}
    for base in node.bases if isinstance(node, ast.ClassDef) else []:
        result |= arguments(f"{home}.{ast.unparse(base).split('[')[0]}")
    texts, annotations = documented(ast.get_docstring(node) or ""), _annotations(node)
    for name in {**texts, **annotations}:
        comment = texts.get(name) or result.get(name, Argument()).comment
        result[name] = Argument(comment, _values(annotations.get(name), home))
    return result


def documented(docstring: str) -> dict[str, str]:
    """Name -> text of the entries in the Args of a docstring."""
    result: dict[str, str] = {}
    section = re.search(r"^Args:\n((?:[ \t]+.*\n|\n(?=[ \t]))*)", f"{docstring}\n", re.MULTILINE)
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
    """The documentation of a class and its public members, with the first sentence on each."""
    if (found := definition(target)) is None:
        return []
    node, home = found
    text = (ast.get_docstring(node) or "").split("\n\nArgs:")[0]
    lines = [f"Contract: {home}.{node.name}", "", *(" ".join(p.split()) for p in text.split("\n\n")), ""]
    for child in node.body:
        if isinstance(child, ast.AnnAssign):
            lines.append(f"  {ast.unparse(child)}")
        elif isinstance(child, ast.FunctionDef) and (child.name in CALLS or child.name[0] != "_"):
            lines.append(f"  {_signature(child)}")
            summary = (ast.get_docstring(child) or "").partition("\n\n")[0]
            lines += [f"      {' '.join(summary.split())}"] if summary else []
    return lines


def _signature(node: ast.FunctionDef) -> str:
    """A method or property as it is written, without self."""
    returns = ast.unparse(node.returns) if node.returns else ""
    if any(ast.unparse(d) == "property" for d in node.decorator_list):
        return f"{node.name}: {returns}"
    arguments = re.sub(r"^self(, )?", "", ast.unparse(node.args))
    return f"{node.name}({arguments}){f' -> {returns}' if returns else ''}"


def _annotations(node: Definition) -> dict[str, ast.expr | None]:
    """Names and annotations of the arguments: of __init__, or of the fields of a dataclass."""
    if isinstance(node, ast.FunctionDef):
        every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        return {a.arg: a.annotation for a in every if a.arg != "self"}
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            return _annotations(child)
    fields = [child for child in node.body if isinstance(child, ast.AnnAssign)]
    return {f.target.id: f.annotation for f in fields if isinstance(f.target, ast.Name)}


def _values(annotation: ast.expr | None, home: str) -> tuple[str, ...]:
    """The values of a Literal in an annotation, or in one that has a name in its module."""
    for node in ast.walk(annotation) if annotation is not None else []:
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            return tuple(str(c.value) for c in ast.walk(node.slice) if isinstance(c, ast.Constant))
        if isinstance(node, ast.Name) and (tree := module(home)) is not None:
            for child in tree.body:
                if isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == node.id:
                    return _values(child.value, home)
    return ()
