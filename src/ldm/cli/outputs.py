"""Where ldm-sample writes its images."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm.cli.sweep import sweep_folder
from ldm.utils.errors import UserError


def slug(text: str) -> str:
    """A file name for a prompt."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "image"


def output_paths(config: Mapping[str, Any], prompts: Sequence[str | None]) -> list[Path]:
    """Paths of the images, one for each.

    Raises: UserError if it is no PNG or, for a file of prompts, no folder.
    """
    output, each = config["output"], config["num_images_per_prompt"]
    count = len(prompts) * each
    if (sweep := sweep_folder()) is not None and output is not None:
        raise UserError("output: a sweep has a folder for each job, in hydra.sweep.dir=FOLDER")
    home = sweep or Path("outputs")
    if config["prompts"] is not None:
        folder = Path(output or home / Path(config["prompts"]).stem)
        if folder.is_file() or folder.suffix.lower() == ".png":
            raise UserError(f"output: must be a folder for a file of prompts, got {folder}")
        width = max(4, len(str(count - 1)))
        return [folder / f"{i:0{width}d}.png" for i in range(count)]
    if output is not None and Path(output).suffix.lower() != ".png":
        raise UserError(f"output: must end in .png, got {output!r}")
    base = [Path(output) if output else home / f"{slug(p or '')}.png" for p in prompts]
    return [
        path.with_name(f"{path.stem}-{i * each + j:04d}.png") if count > 1 else path
        for i, path in enumerate(base)
        for j in range(each)
    ]


def refuse_existing(paths: list[Path], overwrite: bool) -> None:
    """Raises UserError if one of the files exists and may not be replaced."""
    if not overwrite and (existing := [p for p in paths if p.exists()]):
        raise UserError(f"output: {existing[0]} exists; choose another output or overwrite=true")
