"""Latent diffusion models: the public names, each imported when it is first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm.pipelines.img2img import Image2ImagePipeline as Image2ImagePipeline
    from ldm.pipelines.inpaint import InpaintPipeline as InpaintPipeline
    from ldm.pipelines.text2img import Text2ImagePipeline as Text2ImagePipeline

__version__ = "0.1.0"

_PUBLIC = {
    "Image2ImagePipeline": "ldm.pipelines.img2img",
    "InpaintPipeline": "ldm.pipelines.inpaint",
    "Text2ImagePipeline": "ldm.pipelines.text2img",
}

__all__ = ["Image2ImagePipeline", "InpaintPipeline", "Text2ImagePipeline", "__version__"]


def __getattr__(name: str) -> Any:
    """The public name `name`, from the module that defines it."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ldm' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted(__all__)
