"""Reverse-step rules: frozen dataclasses with a pure `step`."""

from ldm.schedulers.base import Scheduler
from ldm.schedulers.ddim import DDIM
from ldm.schedulers.ddpm import DDPM

__all__ = ["DDIM", "DDPM", "Scheduler"]
