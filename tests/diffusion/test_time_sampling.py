"""Maps of uniform numbers to times have the distribution they name and stay within the schedule."""

import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ldm.diffusion.continuous import FlowMatching, VarianceExploding
from ldm.diffusion.schedule import linear
from ldm.diffusion.time_sampling import (
    CosineMapTimes,
    LogitNormalTimes,
    LogNormalTimes,
    ShiftedTimes,
    TimeSampling,
    UniformTimes,
)

CONF = Path(__file__).parents[2] / "conf" / "time_sampling"
SAMPLINGS = {p.stem: instantiate(OmegaConf.load(p), _convert_="all") for p in sorted(CONF.glob("*.yaml"))}
SAMPLINGS["discrete"] = UniformTimes(discrete=True)
SAMPLINGS["steep"] = ShiftedTimes(shift=97.3)
ALMOST_ONE = 1 - 2.0**-24
SCHEDULE = linear()


@pytest.mark.parametrize("name", SAMPLINGS)
def test_times_increase_and_stay_within_the_schedule(name):
    u = torch.cat([torch.arange(9999) / 9999, torch.linspace(0.9999, ALMOST_ONE, 999)]).sort().values
    t = SAMPLINGS[name](u, SCHEDULE)
    assert isinstance(SAMPLINGS[name], TimeSampling)
    assert t.dtype == torch.float32
    assert (t.diff() >= -2e-4).all()  # a few units in the last place
    assert t.min() >= 0
    assert t.max() <= 999
    assert SCHEDULE.log_snr(t).isfinite().all()


def test_uniform_times_are_uniform():
    u = torch.tensor([0.0, 0.25, 0.5])
    assert UniformTimes()(u, SCHEDULE).tolist() == [0.0, 249.75, 499.5]


def test_discrete_times_are_each_as_likely():
    u = (torch.arange(4000) + 0.5) / 4000
    t = UniformTimes(discrete=True)(u, SCHEDULE)
    assert torch.equal(t, torch.arange(1000.0).repeat_interleave(4))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.7), (-1.0, 2.0)])
def test_logit_normal_times_have_mean_and_deviation_of_their_logit(mean, std):
    u = (torch.arange(100_000).double() + 0.5) / 100_000
    z = torch.logit(LogitNormalTimes(mean=mean, std=std)(u, SCHEDULE) / 999)
    assert abs(z.mean().item() - mean) < 1e-3
    assert abs(z.std().item() - std) < 1e-3


def test_shift_one_is_uniform_and_more_favours_noise():
    u = torch.rand(100, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ShiftedTimes(shift=1.0)(u, SCHEDULE), UniformTimes()(u, SCHEDULE))
    assert ShiftedTimes(shift=3.0)(torch.tensor([0.5]), SCHEDULE).item() == 0.75 * 999


def test_a_shift_of_times_is_one_of_the_log_snr_on_straight_paths_only():
    u = torch.linspace(0.1, 0.9, 9).double()

    def lowered(schedule):
        rules = (UniformTimes(), ShiftedTimes(shift=3.0))
        before, after = (schedule.log_snr(rule(u, schedule)) for rule in rules)
        return before - after

    torch.testing.assert_close(
        lowered(FlowMatching()), torch.full_like(u, 2 * math.log(3)), atol=0.02, rtol=0
    )
    assert lowered(linear()).std() > 0.1


def test_shifts_compose():
    u = torch.rand(100, generator=torch.Generator().manual_seed(0)).double()
    twice = ShiftedTimes(shift=2.0)(ShiftedTimes(shift=3.0)(u, SCHEDULE) / 999, SCHEDULE)
    torch.testing.assert_close(twice, ShiftedTimes(shift=6.0)(u, SCHEDULE))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: LogitNormalTimes(std=0.0), "std"),
        (lambda: ShiftedTimes(shift=-1.0), "shift"),
    ],
)
def test_errors_name_the_config_key(make, key):
    with pytest.raises(ValueError, match=key):
        make()


def test_the_cosine_map_is_the_published_one():
    u = torch.linspace(0.01, 0.99, 99).double()
    published = 1 - 1 / (1 + torch.tan(torch.pi / 2 * u))
    torch.testing.assert_close(CosineMapTimes()(u, linear()) / 999, published)


def test_log_normal_times_have_log_normal_levels():
    schedule, u = linear(), torch.linspace(0.01, 0.99, 99).double()
    log_sigma = -schedule.log_snr(LogNormalTimes(mean=-0.5, std=0.7)(u, schedule)) / 2
    torch.testing.assert_close(torch.special.ndtr((log_sigma + 0.5) / 0.7), u, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"std"):
        LogNormalTimes(std=0.0)


def test_log_normal_times_give_unit_variance_the_noise_that_edm_gives_half_of_it():
    """The median of sigma / sigma_data: exp(-1.2) / 0.5."""
    schedule = VarianceExploding()
    t = LogNormalTimes()(torch.tensor([0.5], dtype=torch.float64), schedule)
    assert schedule(t, 1)[1].item() == pytest.approx(math.exp(-1.2) / 0.5, rel=1e-4)


@pytest.mark.parametrize("rule", [CosineMapTimes(), LogNormalTimes()])
def test_mapped_times_rise_within_the_schedule(rule):
    u = torch.linspace(0, 1 - 2**-24, 1001)
    t = rule(u, linear())
    assert (t.diff() >= 0).all()
    assert 0 <= t.min() < t.max() <= 999
