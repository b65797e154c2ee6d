"""Finished models, ready to use."""

from ldm.pipelines.text2img import Text2ImagePipeline

__all__ = ["Text2ImagePipeline"]
