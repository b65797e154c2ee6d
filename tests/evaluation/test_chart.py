import re
from xml.etree import ElementTree

from ldm.evaluation.chart import line_chart, smooth, ticks


def test_smoothing_keeps_a_constant():
    assert all(abs(y - 3.0) < 1e-12 for _, y in smooth([(float(i), 3.0) for i in range(9)]))


def test_ticks_are_round_and_inside():
    assert [round(t, 9) for t in ticks(0.0, 1.0, 5)] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert all(3.0 <= t <= 17.0 for t in ticks(3.0, 17.0))


def test_chart_is_well_formed_and_inside_its_box():
    svg = line_chart(
        {"a<b": [(0.0, 1.0), (50.0, 0.1), (100.0, 0.01)], "c": [(0.0, 2.0), (100.0, 1.0)]}, "step", log_y=True
    )
    ElementTree.fromstring(svg)
    points = [float(v) for p in re.findall(r'points="([^"]*)"', svg) for v in re.split(r"[ ,]", p)]
    assert all(0 <= x <= 640 for x in points[::2])
    assert all(0 <= y <= 240 for y in points[1::2])


def test_nothing_to_draw_is_no_chart():
    assert line_chart({"loss": []}, "step") == ""
