"""Finished models, ready to use."""

from ldm.pipelines.img2img import Image2ImagePipeline
from ldm.pipelines.inpaint import InpaintPipeline
from ldm.pipelines.text2img import Text2ImagePipeline

__all__ = ["Image2ImagePipeline", "InpaintPipeline", "Text2ImagePipeline"]
