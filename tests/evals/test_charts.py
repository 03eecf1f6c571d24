"""Charts hold any points: none, one, thousands, NaN; and what they draw is where the numbers say."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doran.evals.charts import Axes, Series, interval_mark, line_chart, number, running_mean, ticks, time_bar


def svg(markup: str) -> ET.Element:
    """The chart parsed as XML, which is stricter than HTML."""
    return ET.fromstring(markup).find("svg") if markup.startswith("<figure") else ET.fromstring(markup)


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(0, 1.0)],
        [(0, math.nan)],
        [(0, 1.0), (1, math.nan), (2, 3.0)],
        [(0, math.inf), (1, 1.0)],
        [(5, 2.0), (5, 2.0)],
    ],
)
@pytest.mark.parametrize("axes", [None, Axes(percent=True, low=0, high=1), Axes(smooth=True)])
def test_odd_points_still_draw_a_valid_chart(points, axes):
    markup = line_chart("Loss", [Series("loss", points)], axes)
    svg(markup)
    assert "nan" not in markup and "inf" not in markup


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(allow_nan=True)), max_size=60))
def test_no_points_can_break_the_drawing(points):
    markup = line_chart("t", [Series("s", points)], Axes(smooth=True))
    coordinates = [float(n) for n in re.findall(r'(?:cx|cy|x1|y1)="([^"]+)"', markup)]
    svg(markup)
    assert all(math.isfinite(c) and -1 <= c <= 461 for c in coordinates)


def test_an_empty_chart_says_so():
    assert "no data" in line_chart("t", [Series("s", [])]) and "no data" in line_chart("t", [])


def test_a_gap_breaks_the_line():
    markup = line_chart("t", [Series("s", [(0, 1), (1, 2), (2, math.nan), (3, 4), (4, 5)])])
    assert svg(markup).find(".//path[@class='line']").get("d").count("M") == 2


def test_a_lonely_point_is_a_dot():
    chart = svg(line_chart("t", [Series("s", [(3, 0.5)])]))
    assert chart.find(".//path") is None and len(chart.findall(".//circle")) == 1


def test_every_dot_has_a_title_and_the_chart_a_name():
    chart = svg(line_chart("Held-out", [Series("zero", [(0, 0.2), (10, 0.84)])], Axes(percent=True)))
    titles = [title.text for title in chart.iter("title")]
    assert titles == ["zero, step 0: 20%", "zero, step 10: 84%"]
    assert chart.get("role") == "img" and "from 20% to 84%" in chart.get("aria-label")


def test_names_are_escaped():
    markup = line_chart("<script>", [Series('"><script>alert(1)</script>', [(0, 1)])])
    assert "<script" not in markup


def test_long_curves_are_thinned_but_keep_their_last_value():
    points = [(i, float(i)) for i in range(100_000)]
    markup = line_chart("t", [Series("s", points)], Axes(smooth=True))
    assert len(markup) < 60_000 and "step 100k: 9" in markup


def test_higher_values_are_higher_up_and_the_range_includes_the_asked_bounds():
    chart = svg(line_chart("t", [Series("s", [(0, 0.4), (1, 0.6)])], Axes(low=0, high=1)))
    low, high = [float(c.get("cy")) for c in chart.iter("circle")]
    assert high < low
    assert [t.text for t in chart.iter("text") if t.get("text-anchor") == "end"][:2] == ["0", "0.25"]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_cover_the_range_in_few_equal_steps(low, span):
    found = ticks(low, low + span)
    steps = [b - a for a, b in zip(found, found[1:], strict=False)]
    assert found[0] <= low + 1e-6 * span + 1e-9 and found[-1] >= low + span * (1 - 1e-6) - 1e-9
    assert 2 <= len(found) <= 8 and max(steps) - min(steps) < 1e-6 * max(steps) + 1e-9


def test_running_mean_keeps_straight_lines_straight_and_skips_gaps():
    line = [(i, 2.0 * i) for i in range(20)]
    assert [y for _, y in running_mean(line, 7)][2:-2] == pytest.approx([y for _, y in line][2:-2])
    assert running_mean([(0, 1.0), (1, math.nan), (2, 3.0)], 3)[1] == (1, 2.0)


@pytest.mark.parametrize(
    ("value", "percent", "text"),
    [(0.9314, True, "93.1%"), (1, True, "100%"), (11_200_000, False, "11.2M"), (12_345, False, "12.3k"),
     (1.4e9, False, "1.4B"), (9999, False, "9999"), (118.2, False, "118"), (0.0412, False, "0.0412"), (0, False, "0"),
     (2.2e-7, False, "2.2e-07"), (math.nan, False, "–"), (-0.25, False, "-0.25")],
)  # fmt: skip
def test_numbers_read_as_people_write_them(value, percent, text):
    assert number(value, percent) == text


def test_interval_mark_and_time_bar_are_well_formed_and_bounded():
    bands = svg(interval_mark(1.0, 0.97, 1.0)).findall("rect")
    assert all(float(b.get("x", 0)) + float(b.get("width")) <= 100.1 for b in bands)
    assert "a &amp; b: 75%" in time_bar([("a & b", 3), ("none", 0), ("c", 1)])
    assert time_bar([]) == time_bar([("a", 0)]) == ""
