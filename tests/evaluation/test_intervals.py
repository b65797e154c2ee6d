"""Intervals cover the truth as often as they say, with few draws as well; quantiles are those of tables."""

import math

import pytest
import torch

from ldm.evaluation.intervals import Interval, paired_difference, stratified_interval, student_quantile


@pytest.mark.parametrize(
    ("freedom", "level", "t"),
    [
        (1.0, 0.95, 12.7062047),
        (2.0, 0.95, 4.3026527),
        (3.0, 0.99, 5.8409093),
        (5.0, 0.90, 2.0150484),
        (31.0, 0.95, 2.0395134),
        (100.0, 0.99, 2.6258905),
        (1000.0, 0.95, 1.9623391),
        (1e9, 0.95, 1.9599640),
    ],
)
def test_quantiles_are_those_of_the_tables(freedom, level, t):
    assert student_quantile(freedom, level) == pytest.approx(t, rel=1e-6)


def test_quantiles_of_broken_degrees_of_freedom_lie_between_and_join_the_normal_ones():
    values = [student_quantile(nu) for nu in (1.0, 1.5, 2.0, 2.5, 29.9, 30.1, 99_999.0, 100_001.0)]
    assert values == sorted(values, reverse=True)
    assert values[-2] - values[-1] < 1e-4


def coverage(draws, strata, fall=3.0, repeats=1000):
    """Share of intervals with the true mean of exp(-fall u) with normal noise in them; gain of the strata."""
    generator = torch.Generator().manual_seed(0)
    covered, plain = 0, []
    for _ in range(repeats):
        stratum = torch.arange(draws) % strata
        u = (stratum + torch.rand(draws, generator=generator)) / strata
        loss = torch.exp(-fall * u) * (1 + 0.3 * torch.randn(draws, generator=generator))
        found = stratified_interval(loss, stratum, strata)
        plain.append((loss.std() / draws**0.5 * 1.96).item() / found.half)
        covered += abs(found.mean - (1 - math.exp(-fall)) / fall) < found.half
    return covered / repeats, sum(plain) / len(plain)


@pytest.mark.parametrize(("draws", "strata", "fall"), [(64, 8, 3.0), (16, 8, 3.0), (4, 1, 1e-3)])
def test_the_interval_covers_the_true_mean_in_95_of_100_cases(draws, strata, fall):
    """Losses that fall with t, as those of a diffusion model; the normal quantile covers 95, 86 and 83."""
    assert coverage(draws, strata, fall)[0] == pytest.approx(0.95, abs=0.022)


def test_strata_halve_the_interval():
    assert coverage(64, 8, repeats=200)[1] > 2


def test_mean_and_interval_are_those_of_the_formula():
    loss = torch.tensor([1.0, 10.0, 3.0, 14.0, 5.0, 12.0])
    mean, half = stratified_interval(loss, torch.tensor([0, 1, 0, 1, 0, 1]), 2)
    assert mean == pytest.approx((3.0 + 12.0) / 2)
    assert half == pytest.approx(student_quantile(4.0) * (4.0 / 3 + 4.0 / 3) ** 0.5 / 2)


def test_two_runs_on_the_same_draws_differ_where_their_intervals_overlap():
    generator = torch.Generator().manual_seed(0)
    stratum = torch.arange(256) % 32
    first = torch.exp(torch.randn(256, generator=generator) - stratum / 16)
    second = 0.97 * first + 0.001 * torch.randn(256, generator=generator)
    alone = [stratified_interval(loss, stratum, 32) for loss in (first, second)]
    assert alone[0].low < alone[1].high
    found = paired_difference(first, second, stratum, 32)
    assert found.excludes_zero
    assert found.low < 0.03 * first.mean().item() < found.high
    assert found.mean == pytest.approx(alone[0].mean - alone[1].mean)
    assert found.half < alone[0].half / 10


def test_equal_runs_do_not_differ():
    loss = torch.rand(20)
    assert paired_difference(loss, loss) == Interval(0.0, 0.0)
    assert not paired_difference(loss, loss).excludes_zero


def test_a_paired_difference_covers_the_truth():
    generator, covered = torch.Generator().manual_seed(0), 0
    for _ in range(1000):
        shared, own = torch.randn(2, 6, generator=generator)
        covered += abs(paired_difference(shared + 0.1 * own + 0.5, shared).mean - 0.5) < (
            paired_difference(shared + 0.1 * own + 0.5, shared).half
        )
    assert 0.93 < covered / 1000 < 0.97


def test_an_infinite_loss_has_no_interval():
    loss = torch.tensor([1.0, math.inf, 2.0])
    assert math.isnan(stratified_interval(loss, torch.zeros(3).long(), 1).half)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: student_quantile(0.5), r"freedom must be at least 1, got 0.5"),
        (lambda: student_quantile(3.0, 1.0), r"level must be in \(0, 1\), got 1.0"),
        (
            lambda: stratified_interval(torch.rand(3), torch.tensor([0, 0, 1]), 2),
            r"in each of 2, got \[2, 1\]",
        ),
        (lambda: paired_difference(torch.rand(3), torch.rand(4)), r"as many draws as first, 3, got 4"),
    ],
)
def test_impossible_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
