"""Reading, writing and converting models."""

from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.converter import convert_checkpoint, convert_diffusers_checkpoint
from ldm.checkpoints.loader import load_model
from ldm.checkpoints.native import save_model

__all__ = [
    "LoadedModel",
    "convert_checkpoint",
    "convert_diffusers_checkpoint",
    "load_model",
    "save_model",
]
