"""Guidance rules: frozen dataclasses that combine the outputs of several branches into one net."""

from ldm.guidance.apg import APG
from ldm.guidance.autoguidance import Autoguidance
from ldm.guidance.base import Branch, Branches, Guidance
from ldm.guidance.cfg import CFG, drop_captions, drop_embeddings
from ldm.guidance.interval import Interval
from ldm.guidance.pag import PAG
from ldm.guidance.rescale import CFGRescale
from ldm.guidance.zero_star import CFGZeroStar

__all__ = [
    "APG",
    "CFG",
    "PAG",
    "Autoguidance",
    "Branch",
    "Branches",
    "CFGRescale",
    "CFGZeroStar",
    "Guidance",
    "Interval",
    "drop_captions",
    "drop_embeddings",
]
