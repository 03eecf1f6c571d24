"""Line charts as inline SVG, a bar of stage times, and interval marks. Strings in, strings out; no library, no script.

Colours come from the page's CSS variables (style.py), so one drawing serves light and dark. Every line has a legend
entry with its last value (that of the running mean where one is drawn), every point a <title> that browsers show on
hover, every chart a name for screen readers.
NaN, infinite and absurd (beyond 1e30) points break a line instead of bending it; a chart without points says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 460, 250  # viewBox units; about one CSS pixel in two columns, 0.75 on a phone
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 26, 22
COLOURS = 6
MAX_DRAWN, MAX_HOVER = 400, 60  # points per line; more than the eye can tell apart only makes the file large
SMOOTH_FROM = 40  # from here on a noisy line is drawn pale, under its running mean


@dataclass(frozen=True)
class Series:
    """One line: its name in the legend and its (x, y) points in the order of x."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Axes:
    """What the axes mean. `percent` shows 0.8 as 80%; `low`/`high` are y values that the chart must include."""

    x: str = "step"
    y: str = ""
    percent: bool = False
    low: float | None = None
    high: float | None = None
    smooth: bool = False


def line_chart(title: str, series: Sequence[Series], axes: Axes | None = None) -> str:
    """A <figure> with title, legend and drawing."""
    axes = axes or Axes()
    raw = [Series(s.name, _thin([(x, _drawable(y)) for x, y in s.points if math.isfinite(x)])) for s in series]
    main = [_smoothed(s) if axes.smooth and len(s.points) >= SMOOTH_FROM else s for s in raw]
    finite = [p for s in raw for p in s.points if math.isfinite(p[1])]
    frame = _Frame.around(finite, axes)
    pairs = enumerate(zip(raw, main, strict=True))
    lines = "".join(_line(r, m, i % COLOURS, frame, axes) for i, (r, m) in pairs) if finite else _empty()
    label = f"{title}: {axes.y or 'value'} by {axes.x}. " + "; ".join(_spoken(s, axes) for s in main)
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{_legend(main, axes)}'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{_grid(frame, axes)}{lines}</svg></figure>"
    )


def number(value: float, percent: bool = False) -> str:
    """A number as people write it: 93.1%, 12k, 3.2M, 0.041."""
    if not math.isfinite(value):
        return "–"
    if percent:
        return f"{_plain(round(100 * value, 1))}%"
    for limit, unit, suffix in ((1e12, 1e12, "T"), (1e9, 1e9, "B"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{_plain(float(f'{value / unit:.3g}'))}{suffix}"
    return _plain(float(f"{value:.3g}")) if abs(value) < 100 else _plain(round(value))


def figure(value: float, percent: bool = False) -> str:
    """`number` with the zeros kept, for values that stand beside others of their kind: 1.00, 0.830."""
    return f"{value:#.3g}" if not percent and 0.1 <= abs(value) < 100 else number(value, percent)


def _plain(value: float) -> str:
    return f"{value:.10f}".rstrip("0").rstrip(".") if abs(value) >= 1e-6 or value == 0 else f"{value:.2g}"


# ---- scales ----------------------------------------------------------------------------------------------------


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values (1, 2, 2.5 or 5 times a power of ten) that cover low..high."""
    span = high - low
    if not span > 0:
        return [low]
    raw = span / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 2.5, 5) if m * power >= raw * 0.999), 10 * power)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass(frozen=True)
class _Frame:
    """Data ranges and where they land in the viewBox."""

    x_low: float
    x_high: float
    y_ticks: list[float]

    @classmethod
    def around(cls, points: Sequence[Point], axes: Axes) -> _Frame:
        xs = [x for x, _ in points] or [0.0, 1.0]
        ys = [y for _, y in points] + [v for v in (axes.low, axes.high) if v is not None] or [0.0, 1.0]
        low, high = min(ys), max(ys)
        size = max(abs(low), abs(high), 1e-9)
        if high - low < 1e-6 * size:  # one level: put it in the middle
            low, high = low - size / 2, high + size / 2
        x_low, x_high = min(xs), max(xs)
        return cls(x_low, x_high if x_high > x_low else x_low + 1, ticks(low, high))

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


# ---- points ----------------------------------------------------------------------------------------------------


def _drawable(y: float) -> float:
    return y if abs(y) < 1e30 else math.nan


def _thin(points: Sequence[Point], most: int = MAX_DRAWN) -> list[Point]:
    """At most `most` points: the mean of each run of neighbours. The last point stays itself."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / (most - 1))
    runs = [points[i : i + size] for i in range(0, len(points) - 1, size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs] + [points[-1]]


def _smoothed(series: Series) -> Series:
    return Series(series.name, running_mean(series.points, max(5, len(series.points) // 20)))


def running_mean(points: Sequence[Point], window: int) -> list[Point]:
    """Mean of the finite y values within half a window on both sides.

    Towards the ends the window shrinks evenly, so that it does not lag, but never to less than two neighbours.
    """
    half, out = window // 2, []
    for i, (x, _) in enumerate(points):
        reach = max(min(half, i, len(points) - 1 - i), min(half, 2))
        near = [y for _, y in points[max(0, i - reach) : i + reach + 1] if math.isfinite(y)]
        out.append((x, sum(near) / len(near) if near else math.nan))
    return out


def _runs(points: Sequence[Point]) -> list[list[Point]]:
    """The points cut where y is not finite."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


# ---- marks -----------------------------------------------------------------------------------------------------


def _line(raw: Series, main: Series, colour: int, frame: _Frame, axes: Axes) -> str:
    pale = _path(raw.points, frame, "pale") if main is not raw else ""
    line, dots = _path(main.points, frame, "line"), _hover(main.name, main.points, frame, axes)
    return f'<g class="s{colour}">{pale}{line}{dots}</g>'


def _path(points: Sequence[Point], frame: _Frame, kind: str) -> str:
    runs = [run for run in _runs(points) if len(run) > 1]
    if not runs:
        return ""
    steps = "".join("M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in run) for run in runs)
    return f'<path class="{kind}" d="{steps}"/>'


def _hover(name: str, points: Sequence[Point], frame: _Frame, axes: Axes) -> str:
    """Dots with titles: all of them visible if they are few, else only the last, the others when pointed at."""
    finite = [p for p in points if math.isfinite(p[1])]
    every = max(1, math.ceil(len(finite) / MAX_HOVER))
    kept = [p for i, p in enumerate(finite) if (len(finite) - 1 - i) % every == 0]
    few = len(kept) <= 16
    return "".join(
        f'<circle class="{"dot" if few or p is kept[-1] else "hit"}" cx="{frame.x(p[0]):.1f}" cy="{frame.y(p[1]):.1f}" '
        f'r="{3 if few or p is kept[-1] else 6}"><title>{escape(name)}, {escape(axes.x)} {number(p[0])}: '
        f"{number(p[1], axes.percent)}</title></circle>"
        for p in kept
    )


def _grid(frame: _Frame, axes: Axes) -> str:
    rows = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{frame.y(t):.1f}" y2="{frame.y(t):.1f}"/>'
        f'<text class="tick" x="{LEFT - 7}" y="{frame.y(t) + 4:.1f}" text-anchor="end">{number(t, axes.percent)}</text>'
        for t in frame.y_ticks
    )
    columns = "".join(
        f'<text class="tick" x="{frame.x(t):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{number(t)}</text>'
        for t in ticks(frame.x_low, frame.x_high, 6)
        if frame.x_low - 1e-9 <= t <= frame.x_high + 1e-9
    )
    x_label = (
        f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - BOTTOM - 6}" text-anchor="end">{escape(axes.x)} →</text>'
    )
    y_label = f'<text class="axis" x="{LEFT - 34}" y="12">↑ {escape(axes.y)}</text>' if axes.y else ""
    return rows + columns + x_label + y_label


def _empty() -> str:
    return f'<text class="axis" x="{WIDTH / 2}" y="{HEIGHT / 2 - 10}" text-anchor="middle">no data</text>'


def _last(series: Series) -> float:
    return next((y for _, y in reversed(series.points) if math.isfinite(y)), math.nan)


def _legend(series: Sequence[Series], axes: Axes) -> str:
    entries = "".join(
        f'<li class="s{i % COLOURS}"><i></i>{escape(s.name)} <b>{figure(_last(s), axes.percent)}</b></li>'
        for i, s in enumerate(series)
    )
    return f'<ul class="legend">{entries}</ul>'


def _spoken(series: Series, axes: Axes) -> str:
    finite = [y for _, y in series.points if math.isfinite(y)]
    if not finite:
        return f"{series.name}: no data"
    return f"{series.name} from {number(finite[0], axes.percent)} to {number(finite[-1], axes.percent)}"


# ---- small marks for tables ------------------------------------------------------------------------------------


def interval_mark(value: float, low: float, high: float) -> str:
    """A thin 0..1 track with the interval as a bar and the value as a tick; beside a number in a table."""
    left, right, at = (100 * min(max(v, 0.0), 1.0) for v in (low, high, value))
    return (
        '<svg class="mark" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="6"/>'
        f'<rect class="band" x="{left:.1f}" width="{max(right - left, 0.8):.1f}" height="6"/>'
        f'<rect class="value" x="{min(max(at - 0.8, 0), 98.4):.1f}" width="1.6" height="6"/></svg>'
    )


def time_bar(parts: Sequence[tuple[str, float]]) -> str:
    """Shares of the whole as one bar, e.g. the seconds of each stage; names and shares on hover."""
    known = [(i, name, amount) for i, (name, amount) in enumerate(parts) if amount > 0 and math.isfinite(amount)]
    total = sum(amount for _, _, amount in known)
    pieces = "".join(
        f'<span class="s{i % COLOURS}" style="flex-grow:{amount / total:.5f}"'
        f' title="{escape(name)}: {amount / total:.0%}"></span>'
        for i, name, amount in known
    )
    return f'<div class="timebar" role="img" aria-label="share of time by stage">{pieces}</div>' if known else ""
