"""The contract of all schedulers."""

from typing import Any, Protocol

from torch import Tensor

from ldm.diffusion.process import Denoise
from ldm.diffusion.schedule import NoiseSchedule


class Scheduler(Protocol):
    """One reverse-step rule; a frozen dataclass with a pure `step`."""

    def step(
        self,
        denoise: Denoise,
        schedule: NoiseSchedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: Any,
        noise: Tensor,
    ) -> tuple[Tensor, Any]:
        """One step x_t -> x_s.

        Args:
            denoise: maps (x_t, t) to the estimates (x0, eps).
            schedule: noise levels.
            x: x_t, (b, ...).
            t: current time, (1,).
            s: target time, (1,), s < t; -1 means clean.
            state: what the step before returned, None at the first.
            noise: standard normal, like x.

        Returns: x_s and the state for the next step.
        """
        ...


def clip(x0: Tensor, limit: float | None) -> Tensor:
    """x0 clamped to [-limit, limit]; as it is for None (latents)."""
    return x0 if limit is None else x0.clamp(-limit, limit)
