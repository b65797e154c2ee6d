"""Sizes of files, classes and functions; openings of docstrings."""

import ast
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "ldm"
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST_FILE, LONGEST_CLASS, LONGEST_FUNCTION, MEDIAN_FILE = 400, 200, 40, 100
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
POOR_OPENINGS = re.compile(r"(What|Whether|How|Tells|Says|Asks)\b")


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def oversized(text: str) -> list[str]:
    """Classes and functions of a source text that are too long."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DEFINITIONS):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            limit = LONGEST_CLASS if isinstance(node, ast.ClassDef) else LONGEST_FUNCTION
            if lines > limit:
                found.append(f"{node.name}: {lines} lines, at most {limit}")
    return found


def poor_docstrings(text: str) -> list[str]:
    """First lines of docstrings that open with a question word."""
    tree = ast.parse(text)
    nodes = [tree, *(node for node in ast.walk(tree) if isinstance(node, DEFINITIONS))]
    firsts = [(ast.get_docstring(node) or "").partition("\n")[0] for node in nodes]
    return [first for first in firsts if POOR_OPENINGS.match(first)]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_classes_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    assert oversized(text) == []


def test_the_median_file_is_short():
    assert statistics.median(len(path.read_text().splitlines()) for path in FILES) <= MEDIAN_FILE


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_docstrings_open_with_an_imperative_or_a_noun_phrase(path):
    assert poor_docstrings(path.read_text()) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_source_file_has_a_test_file_of_its_name(path):
    name = path.relative_to(SOURCE)
    if path.stem != "__init__":
        assert (ROOT / "tests" / name.parent / f"test_{path.stem}.py").is_file()


def test_faults_are_found():
    long = "\n".join(["def f():", *["    x = 1"] * 40])
    assert oversized(long) == ["f: 41 lines, at most 40"]
    assert oversized("\n".join(["class C:", *["    x = 1"] * 200])) == ["C: 201 lines, at most 200"]
    assert oversized("def f():\n    pass\n") == []
    assert poor_docstrings('"""What it is."""\ndef f():\n    """The sum."""\n') == ["What it is."]
