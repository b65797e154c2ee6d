"""The core: a noise schedule, a prediction type, a denoising net, and what is written against these three."""

from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.prediction import Denoise, Denoised, Epsilon, FlowVelocity, Prediction, Sample, Velocity
from ldm.diffusion.process import Diffusion, Net
from ldm.diffusion.sampling import Scheduler, sample
from ldm.diffusion.schedule import NoiseSchedule

__all__ = [
    "Conditioning",
    "Denoise",
    "Denoised",
    "Diffusion",
    "Epsilon",
    "FlowVelocity",
    "Net",
    "NoiseSchedule",
    "Prediction",
    "Sample",
    "Scheduler",
    "Velocity",
    "sample",
]
