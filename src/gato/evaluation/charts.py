"""Charts as HTML with inline SVG, drawn by hand: crisp at any width, no script, no library.

Bars and whiskers are placed in percent of their cell, and curves live in a stretched unit square with strokes that do
not scale, so text keeps its size on a phone. Colours come from the page's style sheet (light and dark). Everything
that is shown passes through `esc`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


def esc(value: object) -> str:
    """Text that is safe between tags and inside quoted attributes."""
    return html.escape(str(value), quote=True)


@dataclass(frozen=True)
class Bar:
    """One row: a percentage of expert (None: not scored), its interval, and what hovering over it says."""

    label: str
    value: float | None
    interval: Sequence[float] | None = None
    title: str = ""
    strong: bool = False
    heading: str = ""  # printed above this row


def bars(rows: Sequence[Bar]) -> str:
    """Rows of percentages on one axis, with random play at 0 % and the expert at 100 %."""
    low, high = _axis([v for row in rows for v in (row.value, *(row.interval or ())) if v is not None])

    def at(percent: float) -> float:
        return round(100 * (min(max(percent, low), high) - low) / (high - low), 2)

    grid = "".join(
        f'<line class="{kind}" x1="{at(p)}%" x2="{at(p)}%" y1="0" y2="100%"/>'
        for p, kind in ((50, "grid"), (0, "zero"), (100, "expert"))
    )
    ticks = "".join(f'<span style="left:{at(p)}%">{p}</span>' for p in (0, 50, 100))
    heads = f'<span style="left:{at(0)}%">random</span><span style="left:{at(100)}%">expert</span>'
    parts = [f'<div class="bars"><i></i><div class="axis top">{heads}</div><i></i>']
    for row in rows:
        if row.heading:
            parts.append(f'<div class="heading">{esc(row.heading)}</div>')
            parts.append(f'<svg class="gap" aria-hidden="true">{grid}</svg><i></i>')
        parts.append(_row(row, grid, at, (low, high)))
    parts.append(f'<i></i><div class="axis bottom">{ticks}</div><i></i></div>')
    return "".join(parts)


def _axis(values: Sequence[float]) -> tuple[float, float]:
    """From a little below 0 to a little above 100, and further where there is something, to −50 and 160 at most."""
    low = -4.0 if min(values, default=0.0) >= -1 else max(-50.0, min(values) - 4)
    high = 108.0 if max(values, default=0.0) <= 106 else min(160.0, max(values) + 4)
    return low, high


def _row(row: Bar, grid: str, at: Callable[[float], float], ends: tuple[float, float]) -> str:
    name = f'<div class="name{" strong" if row.strong else ""}" title="{esc(row.label)}">{esc(row.label)}</div>'
    if row.value is None:
        return (
            f'{name}<svg class="bar" role="img" aria-label="{esc(row.label)}: not scored">'
            f'<title>{esc(row.title)}</title>{grid}</svg><div class="value none" title="{esc(row.title)}">–</div>'
        )
    start, end = sorted((at(0), at(row.value)))
    marks = [f'<rect class="mark" x="{start}%" y="24%" width="{max(end - start, 0.3):.2f}%" height="52%" rx="1"/>']
    if row.interval:
        a, b = (at(v) for v in row.interval)
        marks.append(f'<line class="whisker" x1="{a}%" x2="{b}%" y1="50%" y2="50%"/>')
        marks += [f'<line class="whisker" x1="{x}%" x2="{x}%" y1="36%" y2="64%"/>' for x in (a, b)]
    if not ends[0] <= row.value <= ends[1]:  # beyond the axis: the number still says how far
        marks.append(f'<text class="beyond" x="{at(row.value)}%" y="50%">{"›" if row.value > 0 else "‹"}</text>')
    return (
        f'{name}<svg class="bar{" strong" if row.strong else ""}" role="img" aria-label="{esc(row.title)}">'
        f"<title>{esc(row.title)}</title>{grid}{''.join(marks)}</svg>"
        f'<div class="value{" strong" if row.strong else ""}">{percent(row.value)}</div>'
    )


def percent(value: float | None, digits: int = 0) -> str:
    """A percentage with a true minus sign, or a dash."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return (text.replace("-", "−") if float(text) else text.lstrip("-")) + " %"


def steps(values: Sequence[float]) -> str:
    """The paper's Figure 5: how many tasks reach at least x percent of their expert, exact at every x."""
    scores, total = np.sort(np.asarray(values, np.float64)), len(values)
    end = 100.0 if not total or scores[-1] <= 100 else min(150.0, 10 * math.ceil(scores[-1] / 10))
    corners = [(0.0, int((scores >= 0).sum()))]
    for x in np.unique(scores[(scores > 0) & (scores <= end)]):
        corners += [(float(x), corners[-1][1]), (float(x), int((scores > x).sum()))]
    corners.append((end, corners[-1][1]))
    points = [(x / end, y / max(total, 1)) for x, y in corners]
    hover = [
        (x / end, 5 / end, f"{int((scores >= x - 1e-9).sum())} of {total} tasks reach {x} % of their expert")
        for x in range(0, int(end) + 1, 5)
    ]
    x_ticks = [(x / end, f"{x}") for x in range(0, int(end) + 1, 25 if end <= 100 else 50)]
    y_ticks = [(y / max(total, 1), f"{y}") for y in _whole_ticks(total)]
    expert = [1.0] if end == 100 else [100 / end]
    return _frame([(points, "line")], x_ticks, y_ticks, hover, fill=points, verticals=expert)


def _whole_ticks(total: int) -> list[int]:
    step = next(s for s in (1, 2, 3, 5, 10, 20, 25, 50, 100, 200, 500, 1000) if total / s <= 5 or s == 1000)
    ticks = [*range(0, total + 1, step)]
    return ticks if total in ticks or total - ticks[-1] < step / 2 else [*ticks, total]


def curve(
    x: np.ndarray, y: np.ndarray, x_label: str, *, smooth: bool = True, small: bool = False, x_end: float | None = None
) -> str:
    """A learning curve: the raw values faint, a moving average in front. Axes begin at 0."""
    kept = np.isfinite(x) & np.isfinite(y)
    x, y = x[kept].astype(np.float64), y[kept].astype(np.float64)
    if not len(x):
        return ""
    averaged = _smooth(y) if smooth and len(y) >= 20 else y
    right = max(x_end or 0.0, float(x.max())) or 1.0
    # The first losses of an untrained network would flatten all that follows; what is cut off leaves at the top edge.
    top = _ceiling(max(float(np.quantile(y, 0.97)), float(averaged[len(y) // 20 :].max())) * 1.05)
    chosen = np.unique(np.linspace(0, len(x) - 1, 300).round().astype(int))
    raw = [(x[i] / right, min(y[i] / top, 1.0)) for i in chosen]
    front = [(x[i] / right, min(averaged[i] / top, 1.0)) for i in chosen]
    edges = np.linspace(0, right, 41)
    hover = []
    for a, b in pairwise(edges):
        inside = (x >= a) & (x <= b)
        if inside.any():
            hover.append(((a + b) / 2 / right, (b - a) / right, f"{averaged[inside][-1]:.3f} at {short(b)} {x_label}"))
    x_ticks = [(v / right, short(v)) for v in _ticks(right, 2 if small else 4)]
    y_ticks = [(v / top, f"{v:g}") for v in _ticks(top, 2 if small else 4)]
    lines = [(raw, "raw"), (front, "line")] if averaged is not y else [(front, "line")]
    return _frame(lines, x_ticks, y_ticks, hover, small=small)


def _smooth(y: np.ndarray) -> np.ndarray:
    """A moving average over about a fiftieth of the curve, centred, so that it does not lag; shorter at the ends."""
    reach = max(2, len(y) // 100)
    total = np.concatenate([[0.0], np.cumsum(y)])
    at = np.arange(len(y))
    around = np.minimum(reach, np.minimum(at, len(y) - 1 - at))
    return (total[at + around + 1] - total[at - around]) / (2 * around + 1)


def _ticks(end: float, count: int) -> list[float]:
    """About `count` round values from 0 to `end`."""
    raw = end / max(count, 1)
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw * 0.999)
    return [round(i * step, 10) for i in range(int(end / step * 1.0001) + 1)]


def _ceiling(value: float) -> float:
    """A little more than `value`, round."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next(m * scale for m in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if m * scale >= value * 0.999)


def short(value: float) -> str:
    """1500000 → 1.5 M."""
    for unit, name in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


Point = tuple[float, float]


def _frame(
    lines: Sequence[tuple[Sequence[Point], str]],
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
    hover: Sequence[tuple[float, float, str]],
    *,
    fill: Sequence[Point] = (),
    verticals: Sequence[float] = (),
    small: bool = False,
) -> str:
    """Curves in the unit square (origin bottom left), tick labels beside it; `hover`: (centre, width, words)."""

    def path(points: Sequence[Point]) -> str:
        return "M" + "L".join(f"{1000 * x:.1f} {1000 * (1 - y):.1f}" for x, y in points)

    drawn = [
        f'<line class="grid" x1="0" x2="1000" y1="{1000 * (1 - y):.1f}" y2="{1000 * (1 - y):.1f}"/>' for y, _ in y_ticks
    ]
    drawn += [f'<line class="expert" x1="{1000 * x:.1f}" x2="{1000 * x:.1f}" y1="0" y2="1000"/>' for x in verticals]
    if fill:
        drawn.append(f'<path class="fill" d="{path(fill)}L1000 1000L0 1000Z"/>')
    drawn += [f'<path class="{kind}" d="{path(points)}"/>' for points, kind in lines]
    drawn += [
        f'<rect class="hover" x="{1000 * (x - w / 2):.1f}" y="0" width="{1000 * w:.1f}" height="1000">'
        f"<title>{esc(text)}</title></rect>"
        for x, w, text in hover
    ]
    ys = "".join(f'<span style="bottom:{100 * y:.2f}%">{esc(text)}</span>' for y, text in y_ticks)
    xs = "".join(f'<span style="left:{100 * x:.2f}%">{esc(text)}</span>' for x, text in x_ticks)
    return (
        f'<div class="chart{" small" if small else ""}"><div class="ys">{ys}</div>'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img">{"".join(drawn)}</svg>'
        f'<div class="xs">{xs}</div></div>'
    )
