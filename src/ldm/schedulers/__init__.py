"""Reverse-step rules: frozen dataclasses with a pure `step`."""

from ldm.schedulers.adams import PLMS, Adams
from ldm.schedulers.base import Scheduler
from ldm.schedulers.consistency import LCM, TCD
from ldm.schedulers.ddim import DDIM, ddim_invert
from ldm.schedulers.ddpm import DDPM
from ldm.schedulers.dpmpp import DPMSolverPP, DPMSolverPPSingle
from ldm.schedulers.edm import DPM2, Euler, Heun
from ldm.schedulers.predictor_corrector import SASolver, UniPC
from ldm.schedulers.restart import Restart

__all__ = [
    "DDIM",
    "DDPM",
    "DPM2",
    "LCM",
    "PLMS",
    "TCD",
    "Adams",
    "DPMSolverPP",
    "DPMSolverPPSingle",
    "Euler",
    "Heun",
    "Restart",
    "SASolver",
    "Scheduler",
    "UniPC",
    "ddim_invert",
]
