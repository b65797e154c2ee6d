"""The pages of the Python API: one for each room, made from the docstrings by mkdocstrings."""

import ast
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

SOURCE = Path(__file__).parents[2] / "src" / "ldm"
ROOMS = {
    "pipelines": "Text to image, image to image, inpainting: finished models, ready to use.",
    "diffusion": "The core: schedule, prediction, loss, time grids and the one sampling loop.",
    "schedulers": "The solvers: frozen dataclasses with a pure `step`.",
    "guidance": "Guidance rules.",
    "models": "The nets.",
    "checkpoints": "File formats.",
    "generation": "Sampling, written once: prompts to conditioning, latents and images.",
    "data": "Datasets, shards and precomputed latents.",
    "training": "Runs, modules, averages, callbacks, loggers and ranks.",
    "planning": "Memory and time of a run before it starts.",
    "evaluation": "Metrics, reports and exact oracles.",
    "utils": "Construction from plain dicts, errors, files, images, devices.",
}


def modules(room: str) -> list[str]:
    """Dotted names of a room's modules that define something public."""
    names = []
    for path in sorted((SOURCE / room).rglob("*.py")):
        body = ast.parse(path.read_text()).body
        public = [n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name[0] != "_"]
        if public and path.name != "__init__.py":
            names.append(".".join(("ldm", *path.relative_to(SOURCE).with_suffix("").parts)))
    return names


def room_page(room: str) -> str:
    """The page of one room."""
    entries = "\n\n".join(f"::: {name}" for name in modules(room))
    return f"# ldm.{room}\n\n{ROOMS[room]}\n\n{entries}\n"


def rooms() -> list[str]:
    """The rooms that exist, in the order of the reference."""
    return [room for room in ROOMS if modules(room)]


def on_config(config: Any) -> Any:
    """Adds the pages to the navigation."""
    config.nav.append({"Python API": [{f"ldm.{room}": f"reference/api/{room}.md"} for room in rooms()]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages."""
    for room in rooms():
        files.append(File.generated(config, f"reference/api/{room}.md", content=room_page(room)))
    return files
