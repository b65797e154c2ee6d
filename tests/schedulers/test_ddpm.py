"""DDPM against diffusers where its grid is right, and its options."""

import pytest
import torch

from ldm.diffusion.prediction import Denoised, Epsilon, Velocity
from ldm.diffusion.process import Diffusion
from ldm.diffusion.sampling import sample
from ldm.diffusion.schedule import linear
from ldm.diffusion.thresholding import Clip, thresholded
from ldm.diffusion.timesteps import leading, trailing
from ldm.diffusion.weighting import Uniform
from ldm.schedulers.ddpm import DDPM


def net(x_t, t):
    return (x_t * (1 + t.view(-1, 1) / 1000)).sin()


@pytest.mark.parity
@pytest.mark.parametrize("n", [1, 5, 10, 20, 50, 100])
@pytest.mark.parametrize("prediction", [Epsilon(), Velocity()])
@pytest.mark.parametrize("clip", [None, Clip()])
@pytest.mark.parametrize(
    ("spacing", "variance"),
    # with trailing and large, diffusers adds noise to the result
    [("leading", "small"), ("leading", "large"), ("trailing", "small")],
)
def test_trajectories_equal_those_of_diffusers(spacing, clip, prediction, variance, n):
    diffusers = pytest.importorskip("diffusers")
    diffusion = Diffusion(schedule=linear(), prediction=prediction, weighting=Uniform())
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).double()
    draw = torch.Generator().manual_seed(1)
    ours = sample(
        thresholded(diffusion.denoiser(net), diffusion.schedule, clip),
        diffusion.schedule,
        DDPM(variance=variance),
        x,
        {"leading": leading, "trailing": trailing}[spacing](1000, n),
        lambda i, t, s: torch.randn(2, 64, generator=draw, dtype=torch.float64),
    )
    theirs = diffusers.DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        variance_type=f"fixed_{variance}",
        clip_sample=clip is not None,
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
            lambda x, t: Denoised(x0, x), schedule, x, t.double(), t.double() - 1, None, lambda t, s: z
        )
        torch.testing.assert_close(x_s, mean + var.sqrt() * z, rtol=1e-6, atol=1e-6)


def test_an_unknown_variance_is_refused():
    with pytest.raises(Exception, match="variance"):
        DDPM(variance="medium")


def test_the_learned_variance_lies_between_small_and_large():
    """Nichol & Dhariwal 2021, Eq. 15; in diffusers variance_type="learned_range"."""
    diffusion = Diffusion(schedule=linear(), prediction=Epsilon(), weighting=Uniform())
    x, z = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    t, s = torch.tensor([500.0]).double(), torch.tensor([400.0]).double()

    def spread(variance, v):
        def net(x_t, t):
            out = torch.zeros_like(x_t)
            return out if v is None else torch.cat([out, torch.full_like(out, v)], 1)

        step = DDPM(variance=variance).step
        args = (diffusion.denoiser(net), diffusion.schedule, x, t, s, None)
        return (step(*args, lambda t, s: z)[0] - step(*args, lambda t, s: 0 * z)[0]) / z

    small, large = spread("small", None), spread("large", None)
    torch.testing.assert_close(spread("learned", -1.0), small)
    torch.testing.assert_close(spread("learned", 1.0), large)
    torch.testing.assert_close(spread("learned", 0.0), (small * large).sqrt())
    with pytest.raises(ValueError, match="twice the output channels"):
        spread("learned", None)
