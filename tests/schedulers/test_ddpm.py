"""DDPM against diffusers where its grid is right, and its options."""

import pytest
import torch

from ldm.diffusion.prediction import Denoised, Epsilon, Velocity
from ldm.diffusion.process import Diffusion
from ldm.diffusion.sampling import sample
from ldm.diffusion.schedule import linear
from ldm.diffusion.timesteps import leading, trailing
from ldm.diffusion.weighting import Uniform
from ldm.schedulers.ddpm import DDPM


def net(x_t, t):
    return (x_t * (1 + t.view(-1, 1) / 1000)).sin()


@pytest.mark.parity
@pytest.mark.parametrize("n", [1, 5, 10, 20, 50, 100])
@pytest.mark.parametrize("prediction", [Epsilon(), Velocity()])
@pytest.mark.parametrize("clip_x0", [None, 1.0])
@pytest.mark.parametrize(
    ("spacing", "variance"),
    # with trailing and large, diffusers adds noise to the result
    [("leading", "small"), ("leading", "large"), ("trailing", "small")],
)
def test_trajectories_equal_those_of_diffusers(spacing, clip_x0, prediction, variance, n):
    diffusers = pytest.importorskip("diffusers")
    diffusion = Diffusion(schedule=linear(), prediction=prediction, weighting=Uniform())
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).double()
    draw = torch.Generator().manual_seed(1)
    ours = sample(
        diffusion.denoiser(net),
        diffusion.schedule,
        DDPM(variance=variance, clip_x0=clip_x0),
        x,
        {"leading": leading, "trailing": trailing}[spacing](1000, n),
        lambda i: torch.randn(2, 64, generator=draw, dtype=torch.float64),
    )
    theirs = diffusers.DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        variance_type=f"fixed_{variance}",
        clip_sample=clip_x0 is not None,
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[prediction.name],
        timestep_spacing=spacing,
    )
    # their formulas, not the rounding of their float32 table, which is compared in test_schedule.py
    theirs.alphas_cumprod = torch.tensor(diffusion.schedule.alphas_cumprod, dtype=torch.float64)
    theirs.set_timesteps(n)
    draw = torch.Generator().manual_seed(1)
    for t in theirs.timesteps:
        x = theirs.step(net(x, t.float().expand(2)), t, x, generator=draw).prev_sample
    assert ((ours - x).abs().max() / x.abs().max()).item() <= 1e-5


def test_a_step_is_the_published_posterior():
    """Ho et al. 2020, Eq. 7, between neighbouring times."""
    schedule = linear()
    bar = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)
    t = torch.arange(1, 1000)
    beta = 1 - bar[t] / bar[t - 1]
    x0, x, z = torch.randn(3, 999, generator=torch.Generator().manual_seed(0)).double()
    mean = (
        bar[t - 1].sqrt() * beta / (1 - bar[t]) * x0 + (1 - beta).sqrt() * (1 - bar[t - 1]) / (1 - bar[t]) * x
    )
    for variance, var in {"small": (1 - bar[t - 1]) / (1 - bar[t]) * beta, "large": beta}.items():
        x_s, _ = DDPM(variance=variance).step(
            lambda x, t: Denoised(x0, x), schedule, x, t.double(), t.double() - 1, None, lambda: z
        )
        torch.testing.assert_close(x_s, mean + var.sqrt() * z, rtol=1e-6, atol=1e-6)


def test_an_unknown_variance_is_refused():
    with pytest.raises(Exception, match="variance"):
        DDPM(variance="learned")
