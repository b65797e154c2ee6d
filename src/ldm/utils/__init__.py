"""Files, images and devices; imports nothing of ldm."""

from ldm.utils.image_io import load_image

__all__ = ["load_image"]
