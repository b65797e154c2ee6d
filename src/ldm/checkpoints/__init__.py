"""Reading and writing models."""

from ldm.checkpoints.native import LoadedModel, load_model, save_model

__all__ = ["LoadedModel", "load_model", "save_model"]
