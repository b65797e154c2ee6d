import math
import re
from xml.etree import ElementTree

import pytest

from ldm.evaluation.chart import line_chart, log_ticks, smooth, ticks

NAN = float("nan")


def test_smoothing_keeps_a_constant():
    assert all(abs(y - 3.0) < 1e-12 for _, y in smooth([(float(i), 3.0) for i in range(9)]))


def test_smoothing_does_not_lag():
    line = [(float(i), 2.0 * i) for i in range(101)]
    assert smooth(line, 0.6)[50][1] == pytest.approx(100.0)


def test_smoothing_is_the_same_from_both_sides():
    values = [3.0, 1.0, 4.0, 1.0, 5.0]
    ahead = [y for _, y in smooth([(0.0, y) for y in values])]
    back = [y for _, y in smooth([(0.0, y) for y in values[::-1]])]
    assert ahead == pytest.approx(back[::-1])


def test_ticks_are_round_and_inside():
    assert [round(t, 9) for t in ticks(0.0, 1.0, 5)] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert all(3.0 <= t <= 17.0 for t in ticks(3.0, 17.0))


@pytest.mark.parametrize(
    ("low", "high"), [(0.1, 1.0), (0.0521, 0.057), (3e-7, 40.0), (0.9, 1.1), (1e-9, 1e9)]
)
def test_logarithmic_ticks_are_a_few_inside(low, high):
    found = log_ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low <= t <= high for t in found)
    assert found == sorted(set(found))


def test_logarithmic_ticks_are_round():
    assert log_ticks(0.09, 1.1) == pytest.approx([0.1, 0.2, 0.5, 1.0])
    assert log_ticks(0.0009, 1.1) == pytest.approx([0.001, 0.01, 0.1, 1.0])


def drawn(svg):
    ElementTree.fromstring(svg)
    return [float(v) for p in re.findall(r'points="([^"]*)"', svg) for v in re.split(r"[ ,]", p)]


def test_chart_is_well_formed_and_inside_its_box():
    series = {f"a<{i}": [(0.0, 1.0 + i), (50.0, 0.1), (100.0, 0.01)] for i in range(10)}
    points = drawn(line_chart(series, "step", log_y=True, raw=[(0.0, 40.0), (10.0, 2.0)]))
    assert all(0 <= x <= 640 for x in points[::2])
    assert all(0 <= y <= 250 for y in points[1::2])


def test_values_without_a_place_are_left_out():
    points = [(0.0, 1.0), (1.0, NAN), (2.0, math.inf), (3.0, 0.0), (4.0, -1.0), (5.0, 2.0)]
    assert len(drawn(line_chart({"loss": points}, "step", log_y=True))) == 2 * 2
    assert len(drawn(line_chart({"loss": points}, "step"))) == 2 * 4


def test_a_constant_and_a_single_step_have_an_axis():
    drawn(line_chart({"loss": [(0.0, 1.0), (1.0, 1.0)]}, "step"))
    drawn(line_chart({"a": [(3.0, 1.0)], "b": [(3.0, 2.0)]}, "step", log_y=True))


@pytest.mark.parametrize("points", [[], [(0.0, 1.0)], [(0.0, NAN), (1.0, NAN)]])
def test_nothing_to_draw_is_no_chart(points):
    assert line_chart({"loss": points}, "step") == ""
