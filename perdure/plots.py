"""Plots as SVG, by hand: lines, bars and stacked bars, legible at the width of a page, a few KiB each.

Pure: values in, text out. Knows nothing of what is drawn. Called by the benches' report and by the load test's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 66, 20, 62, 52
COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#64748b")
LIMIT_COLOUR, INK, FAINT, GRID = "#dc2626", "#1f2937", "#6b7280", "#e5e7eb"
STEPS = 5

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or one set of bars: its name in the legend, and points in order of x."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Plot:
    """`kind`: "line", "bars" (one series, `bar_width` in units of x) or "stack" (each series has one point for each of `labels`).

    `limit`: a value of y (of x where `limit_across`), and what it is called.
    """

    title: str
    note: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    kind: str = "line"
    labels: Sequence[str] = ()
    bar_width: float = 1.0
    limit: tuple[float, str] | None = None
    limit_across: bool = False


@dataclass(slots=True)
class _Axes:
    x: tuple[float, float]
    y: float
    parts: list[str] = field(default_factory=list)

    def at(self, x: float, y: float) -> Point:
        low, high = self.x
        wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + (x - low) / ((high - low) or 1.0) * wide, HEIGHT - BOTTOM - min(y / (self.y or 1.0), 1.0) * tall


def step_of(most: float) -> float:
    """Return a round step of which about `STEPS` reach `most`."""
    if most <= 0:
        return 1.0
    raw = most / STEPS
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * by for by in (1, 2, 2.5, 5, 10) if power * by >= raw * 0.999)


def svg(plot: Plot) -> str:
    """Return the plot as a whole SVG document."""
    axes = _axes(plot)
    _grid(plot, axes)
    {"line": _lines, "bars": _bars, "stack": _stack}[plot.kind](plot, axes)
    _limit(plot, axes)
    _words(plot, axes)
    body = "\n".join(axes.parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{escape(plot.title)}" font-family="system-ui, sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _axes(plot: Plot) -> _Axes:
    if plot.kind == "stack":
        tops = [sum(one.points[k][1] for one in plot.series) for k in range(len(plot.labels))]
        xs = (-0.5, len(plot.labels) - 0.5)
    else:
        every = [point for one in plot.series for point in one.points]
        tops = [y for _, y in every]
        low, high = min((x for x, _ in every), default=0.0), max((x for x, _ in every), default=1.0)
        if plot.limit is not None and plot.limit_across:
            high = max(high, plot.limit[0])
        xs = (min(low, 0.0), high + (plot.bar_width if plot.kind == "bars" else 0.0))
    most = max([*tops, plot.limit[0] if plot.limit is not None and not plot.limit_across else 0.0, 1e-9]) * 1.05
    step = step_of(most)
    return _Axes(xs, math.ceil(most / step - 1e-9) * step)


def _text(axes: _Axes, x: float, y: float, words: str, more: str = "") -> None:
    axes.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" fill="{FAINT}" {more}>{escape(words)}</text>')


def _grid(plot: Plot, axes: _Axes) -> None:
    step, y = step_of(axes.y), 0.0
    while y <= axes.y * 1.0001:
        _, at = axes.at(0, y)
        axes.parts.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}" stroke="{GRID}"/>')
        _text(axes, LEFT - 8, at + 4, f"{y:,g}", 'text-anchor="end"')
        y += step
    if plot.kind == "stack":
        for k, label in enumerate(plot.labels):
            _text(axes, axes.at(k, 0)[0], HEIGHT - BOTTOM + 18, label, 'text-anchor="middle"')
        return
    low, high = axes.x
    step = step_of(high - low)
    x = math.ceil(low / step) * step
    while x <= high * 1.0001:
        _text(axes, axes.at(x, 0)[0], HEIGHT - BOTTOM + 18, f"{x:,g}", 'text-anchor="middle"')
        x += step


def _lines(plot: Plot, axes: _Axes) -> None:
    for one, colour in zip(plot.series, COLOURS, strict=False):
        placed = [axes.at(x, y) for x, y in one.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        axes.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5" stroke-linejoin="round"/>')
        if len(placed) <= 40:
            axes.parts.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in placed)


def _bars(plot: Plot, axes: _Axes) -> None:
    for one, colour in zip(plot.series, COLOURS, strict=False):
        for x, y in one.points:
            (left, top), (right, bottom) = axes.at(x, y), axes.at(x + plot.bar_width, 0)
            wide = max(right - left - 1.0, 1.0)
            axes.parts.append(f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{bottom - top:.1f}" fill="{colour}"/>')


def _stack(plot: Plot, axes: _Axes) -> None:
    wide = min(90.0, 0.6 * (WIDTH - LEFT - RIGHT) / max(len(plot.labels), 1))
    for k in range(len(plot.labels)):
        below = 0.0
        for one, colour in zip(plot.series, COLOURS, strict=False):
            height = one.points[k][1]
            (x, top), (_, bottom) = axes.at(k, below + height), axes.at(k, below)
            axes.parts.append(
                f'<rect x="{x - wide / 2:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{bottom - top:.1f}" fill="{colour}"/>'
            )
            below += height


def _limit(plot: Plot, axes: _Axes) -> None:
    if plot.limit is None:
        return
    value, name = plot.limit
    if plot.limit_across:
        x, _ = axes.at(value, 0)
        ends, (tx, ty, anchor) = (x, TOP, x, HEIGHT - BOTTOM), (x - 6, TOP + 12, "end")
    else:
        _, y = axes.at(0, value)
        ends, (tx, ty, anchor) = (LEFT, y, WIDTH - RIGHT, y), (LEFT + 6, y - 6, "start")
    x1, y1, x2, y2 = ends
    axes.parts.append(
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{LIMIT_COLOUR}" stroke-width="1.5" stroke-dasharray="6 4"/>'
        f'<text x="{tx:.1f}" y="{ty:.1f}" fill="{LIMIT_COLOUR}" text-anchor="{anchor}" '
        f'paint-order="stroke" stroke="#ffffff" stroke-width="3">{escape(name)}</text>'
    )


def _words(plot: Plot, axes: _Axes) -> None:
    axes.parts.append(f'<text x="{LEFT}" y="24" fill="{INK}" font-size="16" font-weight="600">{escape(plot.title)}</text>')
    _text(axes, LEFT, 43, plot.note)
    _text(axes, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, plot.x_label, 'text-anchor="middle"')
    _text(axes, 0, 0, plot.y_label, f'text-anchor="middle" transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)"')
    if len(plot.series) > 1:
        x = WIDTH - RIGHT
        for one, colour in reversed(list(zip(plot.series, COLOURS, strict=False))):
            x -= 24 + 6.6 * len(one.name)
            axes.parts.append(f'<rect x="{x:.1f}" y="14" width="10" height="10" rx="2" fill="{colour}"/>')
            _text(axes, x + 14, 23, one.name)
