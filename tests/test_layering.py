"""Imports go left only (ARCHITECTURE, Layers), wherever in a file they stand; files stay small."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "ldm"
FILES = sorted(SOURCE.rglob("*.py"))

CORE = {"diffusion", "schedulers", "guidance"}
SIBLINGS = {"data", "pipelines", "evaluation"}
LAYER = {
    "utils": 0,
    **dict.fromkeys(CORE, 1),
    "models": 2,
    "checkpoints": 3,
    "generation": 4,
    **dict.fromkeys(SIBLINGS, 5),
    "training": 6,
    "planning": 7,
    "cli": 8,
}

# third-party package -> the packages of ldm that may import it
HOMES = {
    "hydra": {"cli"},
    "omegaconf": {"cli"},
    "lightning": {"data", "training", "planning", "cli"},
    "webdataset": {"data"},
    "wandb": {"training"},
    "open_clip": {"models", "cli"},
    "safetensors": {"checkpoints"},
    "diffusers": set(),
    "transformers": set(),
}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Dotted names of all absolute imports of a file, with their lines; relative imports as '.'."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield ".", node.lineno
            elif node.module == "ldm":
                yield from ((f"ldm.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module, node.lineno


def violations(path: Path) -> list[str]:
    """What the imports of a file break."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    if len(parts) == 1:  # ldm/__init__.py: the public names, lazy
        return []
    package, found = parts[0], []
    for name, line in imports(path):
        top, _, rest = name.partition(".")
        place = f"{path.relative_to(ROOT)}:{line}"
        if name == ".":
            found.append(f"{place}: relative import")
        elif name in ("ldm", "ldm.__version__") and package != "utils":
            continue
        elif top == "ldm":
            other = rest.partition(".")[0]
            if package == "utils" and not name.startswith("ldm.utils."):
                found.append(f"{place}: utils imports nothing of ldm but itself, yet {name}")
            elif other not in LAYER:
                found.append(f"{place}: {name} is in no layer")
            elif LAYER[other] > LAYER[package]:
                found.append(f"{place}: {package} imports {name}, to its right")
            elif other != package and {other, package} <= SIBLINGS:
                found.append(f"{place}: {package} imports its sibling {name}")
        elif top in HOMES and package not in HOMES[top]:
            found.append(f"{place}: {package} imports {name}")
        elif package in CORE and top not in {"torch", "jaxtyping", *sys.stdlib_module_names}:
            found.append(f"{place}: {package} imports {name}; the core is torch only")
    return found


def test_every_package_has_a_layer():
    packages = {path.parent.relative_to(SOURCE).parts[0] for path in FILES if path.parent != SOURCE}
    assert packages <= LAYER.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_left_only(path):
    assert violations(path) == []


def test_a_violation_is_found(tmp_path, monkeypatch):
    for name, text in {
        "models/a.py": "def f():\n    from ldm.training import ema\n",
        "data/b.py": "from ldm import pipelines\n",
        "pipelines/c.py": "import lightning.pytorch\n",
        "diffusion/d.py": "import numpy\n",
        "utils/e.py": "import ldm.diffusion.schedule\n",
        "training/f.py": "from . import ema\n",
    }.items():
        path = tmp_path / "src" / "ldm" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
        monkeypatch.setattr(f"{__name__}.SOURCE", tmp_path / "src" / "ldm")
        monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
        assert len(violations(path)) == 1, name


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_are_at_most_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize(
    "module",
    ["ldm", *(f"ldm.cli.{name}" for name in ("app", "train", "sample", "data", "ema", "plan"))],
)
def test_commands_import_no_torch(module):
    if module != "ldm" and not SOURCE.joinpath(*module.split(".")[1:]).with_suffix(".py").exists():
        pytest.skip(f"{module} does not exist")
    heavy = "{'torch', 'lightning', 'open_clip', 'numpy', 'PIL'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
