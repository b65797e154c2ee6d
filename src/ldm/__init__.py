"""Latent diffusion models: the public names, each imported when it is first used."""

from typing import TYPE_CHECKING

from ldm.utils.lazy import lazy

if TYPE_CHECKING:
    from ldm.pipelines.img2img import Image2ImagePipeline as Image2ImagePipeline
    from ldm.pipelines.inpaint import InpaintPipeline as InpaintPipeline
    from ldm.pipelines.text2img import Text2ImagePipeline as Text2ImagePipeline

__version__ = "0.1.0"

__all__ = ["Image2ImagePipeline", "InpaintPipeline", "Text2ImagePipeline", "__version__"]

__getattr__, __dir__ = lazy(
    "ldm",
    {
        "Image2ImagePipeline": "ldm.pipelines.img2img",
        "InpaintPipeline": "ldm.pipelines.inpaint",
        "Text2ImagePipeline": "ldm.pipelines.text2img",
        "__version__": "ldm",
    },
)
