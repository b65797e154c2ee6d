"""The options of a config group as objects, for tables and studies over all of them."""

from importlib import resources
from typing import Any

from omegaconf import OmegaConf

from ldm.utils.construct import construct


def options(group: str) -> dict[str, Any]:
    """Name of each option -> the object that its YAML describes, by name.

    Args:
        group: one whose options are nodes of the diffusion core, such as "scheduler" or "timesteps".

    Raises: FileNotFoundError if there is no such group.
    """
    folder = resources.files("ldm.conf") / group
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no config group {group!r}")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {
        f.name.removesuffix(".yaml"): construct(
            OmegaConf.to_container(OmegaConf.create(f.read_text())), group
        )
        for f in files
    }
