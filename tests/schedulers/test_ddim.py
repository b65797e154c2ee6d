"""DDIM against diffusers where its grid is right, and its options."""

import pytest
import torch

from ldm.diffusion.prediction import Epsilon, Velocity
from ldm.diffusion.process import Diffusion
from ldm.diffusion.sampling import sample
from ldm.diffusion.schedule import scaled_linear, zero_snr
from ldm.diffusion.timesteps import leading, trailing
from ldm.diffusion.weighting import Uniform
from ldm.schedulers.ddim import DDIM, ddim_invert

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def net(x_t, t):
    return (x_t * (1 + t.view(-1, 1) / 1000)).sin()


def draws(n):
    return torch.randn(n + 1, 2, 64, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parity
@pytest.mark.parametrize("n", [1, 5, 10, 20, 50, 100])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("case", ["leading", "sd15", "trailing", "zero_snr"])
def test_trajectories_equal_those_of_diffusers(case, eta, n):
    diffusers = pytest.importorskip("diffusers")
    options = {
        "leading": {"timestep_spacing": "leading"},
        "sd15": {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False},
        "trailing": {"timestep_spacing": "trailing"},
        "zero_snr": {
            "timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction",
        },
    }[case]  # fmt: skip
    grid = {"leading": leading(1000, n), "sd15": leading(1000, n, offset=1, final=0.0)}.get(
        case, trailing(1000, n)
    )
    diffusion = Diffusion(
        schedule=zero_snr(base=scaled_linear()) if case == "zero_snr" else scaled_linear(),
        prediction=Velocity() if case == "zero_snr" else Epsilon(),
        weighting=Uniform(),
    )
    noise = draws(n)
    ours = sample(
        diffusion.denoiser(net),
        diffusion.schedule,
        DDIM(eta=eta),
        noise[0],
        grid,
        lambda i, t, s: noise[i + 1],
    )
    theirs = diffusers.DDIMScheduler(num_train_timesteps=1000, clip_sample=False, **BETAS, **options)
    # their formulas, not the rounding of their float32 table, which is compared in test_schedule.py
    theirs.alphas_cumprod = torch.tensor(diffusion.schedule.alphas_cumprod, dtype=torch.float64)
    theirs.set_timesteps(n)
    x = noise[0]
    for i, t in enumerate(theirs.timesteps):
        out = net(x, t.float().expand(2))
        x = theirs.step(out, t, x, eta=eta, variance_noise=noise[i + 1] if eta else None).prev_sample
    assert ((ours - x).abs().max() / x.abs().max()).item() <= 1e-6


@pytest.mark.parametrize(("iterations", "bound"), [(1, 0.05), (4, 1e-6), (16, 1e-12)])
def test_inversion_and_sampling_return_the_data_the_better_the_more_steps(iterations, bound):
    diffusion = Diffusion(schedule=scaled_linear(), prediction=Epsilon(), weighting=Uniform())
    x0, denoise, errors = draws(0)[0], diffusion.denoiser(net), []
    for n in (40, 160, 640):
        grid = leading(1000, n, offset=1, final=0.0)
        x_t = ddim_invert(denoise, diffusion.schedule, x0, grid, iterations)
        back = sample(denoise, diffusion.schedule, DDIM(), x_t, grid, lambda i, t, s: x0)
        errors.append((back - x0).abs().max().item())
    assert errors[2] < bound
    assert errors[2] < errors[0] / 4 or errors[0] < bound


def test_inversion_needs_an_evaluation():
    with pytest.raises(ValueError, match=r"iterations must be at least 1, got 0"):
        ddim_invert(net, scaled_linear(), draws(0)[0], leading(1000, 2), 0)


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_impossible_eta_is_refused(eta):
    with pytest.raises(ValueError, match=r"eta must be in \[0, 1\], got .*"):
        DDIM(eta=eta)
