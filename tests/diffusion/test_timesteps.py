"""N steps asked are N steps run, for every N and every grid of whole times."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ldm.diffusion.timesteps import beta, check_grid, distilled, leading, linspace, trailing

CONF = Path(__file__).parents[2] / "conf" / "timesteps"
GRIDS = {
    name: instantiate(OmegaConf.load(CONF / f"{name}.yaml"), _convert_="all")
    for name in ("leading", "linspace", "trailing")
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("num_train", [1000, 77])
def test_every_number_of_steps_gives_as_many_decreasing_times_and_clean_data(name, num_train):
    for n in range(1, num_train + 1):
        grid = GRIDS[name](num_train, n)
        assert grid.shape == (n + 1,)
        assert grid.dtype == torch.float64
        assert (grid.diff() < 0).all()
        assert grid[0] <= num_train - 1
        assert grid[-1] == -1.0


@pytest.mark.parametrize("name", GRIDS)
def test_all_steps_visit_all_times(name):
    assert torch.equal(GRIDS[name](1000, 1000), torch.arange(999, -2, -1).double())


@pytest.mark.parametrize("n", [1, 7, 30, 50, 999, 1000])
def test_ends_are_as_documented(n):
    assert trailing(1000, n)[0] == 999
    assert linspace(1000, n)[0] == 999
    assert linspace(1000, n)[-2] == (0 if n > 1 else 999)
    assert leading(1000, n)[-2] == 0
    assert leading(1000, n)[0] == (n - 1) * (1000 // n)


def test_stable_diffusions_grid():
    grid = leading(1000, 50, offset=1, final=0.0)
    assert grid[:3].tolist() == [981.0, 961.0, 941.0]
    assert grid[-2:].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("n", [-1, 0, 1001])
def test_other_numbers_of_steps_are_refused(name, n):
    with pytest.raises(ValueError, match=rf"num_inference_steps must be .* got {n}"):
        GRIDS[name](1000, n)


def test_an_offset_with_all_steps_ends_at_the_top_and_runs_them_all():
    """diffusers' set_timesteps asks its table for t = 1000 here."""
    times = leading(1000, 1000, offset=1, final=0.0)
    assert (times[0], times[-2], times[-1], len(times)) == (999, 1, 0, 1001)
    assert (times.diff() < 0).all()


def test_an_offset_past_the_schedule_is_refused_not_clipped():
    with pytest.raises(ValueError, match=r"\[-1, 999\], got 1001"):
        leading(1000, 1, offset=1001)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([5.0], "two times"),
        ([5.0, 5.0], "strictly, got 5.0 followed by 5.0"),
        ([5.0, 6.0], "strictly"),
        ([5.0, float("nan")], "strictly"),
        ([1000.0, 0.0], r"\[-1, 999\]"),
        ([5.0, -2.0], r"\[-1, 999\]"),
    ],
)
def test_lists_that_cannot_be_sampled_on_are_refused(times, message):
    with pytest.raises(ValueError, match=message):
        check_grid(torch.tensor(times), 1000)


def test_grids_are_made_on_the_cpu_under_any_default_device():
    with torch.device("meta"):
        assert {grid(1000, 10).device.type for grid in GRIDS.values()} == {"cpu"}


@pytest.mark.parity
@pytest.mark.parametrize("n", [2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500, 1000])
@pytest.mark.parametrize("name", ["leading", "trailing", "linspace"])
def test_grids_equal_those_of_diffusers_where_the_stride_is_whole(name, n):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(num_train_timesteps=1000, timestep_spacing=name)
    theirs.set_timesteps(n)
    assert GRIDS[name](1000, n)[:-1].tolist() == theirs.timesteps.tolist()


@pytest.mark.parametrize("n", [1, 7, 20, 1000])
def test_beta_times_are_quantiles(n):
    stats = pytest.importorskip("scipy.stats")
    times = beta(1000, n, a=0.6, b=0.7)
    expected = [*(999 * stats.beta.ppf([1 - i / n for i in range(n)], 0.6, 0.7)), -1.0]
    assert times.tolist() == pytest.approx(expected, abs=1e-8)


def test_beta_of_one_is_uniform():
    assert beta(1000, 10, a=1.0, b=1.0)[:-1].tolist() == pytest.approx(
        [999 * (1 - i / 10) for i in range(10)]
    )
    with pytest.raises(ValueError, match=r"a and b must be in \(0, 10\)"):
        beta(1000, 10, a=0.0)


@pytest.mark.parametrize(("n", "times"), [(1, [999]), (4, [999, 759, 499, 259]), (2, [999, 499])])
def test_times_of_distillation_are_those_of_the_authors(n, times):
    """Golden values: diffusers' LCMScheduler."""
    assert distilled(1000, n).tolist() == [*times, -1.0]
    assert distilled(1000, 50)[:-1].tolist() == list(range(999, 0, -20))


def test_more_steps_than_the_distillation_had_are_refused():
    with pytest.raises(ValueError, match="num_inference_steps must be 1 to 50, got 51"):
        distilled(1000, 51)
    with pytest.raises(ValueError, match="original_steps must be 1 to 1000"):
        distilled(1000, 4, original_steps=1001)
