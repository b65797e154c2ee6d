"""Guidance rules: wrappers of a net that keep its signature."""

from ldm.guidance.cfg import drop_captions, guide

__all__ = ["drop_captions", "guide"]
