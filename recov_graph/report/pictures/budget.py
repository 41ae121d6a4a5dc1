"""Rescue against budget: one axes for each panel, a line with its band for each policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import blended_transform_factory

from recov_graph.report.content import Curve, Panel, Report
from recov_graph.report.palette import OPERATORS, SERIES
from recov_graph.report.pictures.sheet import LARGE, NORMAL, Theme, below, percents, quiet, sheet
from recov_graph.report.pictures.text import POINTS, fitted, width_of, wrapped
from recov_graph.words import count

HEIGHT = 2.1  # inches of an axes, at least
LABEL = 2.0  # inches of room for labels at most
PITCH = 1.35 * NORMAL / POINTS  # inches from label to label
MOST_BANDS = 4
BANDS = "Bands are 95% intervals."


@dataclass(frozen=True)
class End:
    """Where a line ends and what it is called."""

    x: float
    y: float
    label: str
    colour: str
    bold: bool


def lacking(report: Report) -> str | None:
    """Why there is nothing to draw; None where there is."""
    if any(_points(curve) for panel in report.panels for curve in panel.curves):
        return None
    return "no failed problems can be compared at several budgets"


def draw(report: Report, theme: Theme, width: float) -> Figure:
    """The figure; there must be something to draw."""
    panels = [panel for panel in report.panels if any(map(_points, panel.curves))]
    heights = [max(HEIGHT, PITCH * (len(panel.curves) + 1)) for panel in panels]
    figure = sheet(theme, width, sum(heights) + 1.25 * len(heights))
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    ends = [_panel(axes, panel, theme, width) for axes, panel in zip(grid, panels, strict=True)]
    # The labels take up their room first, and find their heights once the axes have theirs.
    placed = [_labels(axes, found, theme) for axes, found in zip(grid, ends, strict=True)]
    figure.draw_without_rendering()
    for axes, found, labels in zip(grid, ends, placed, strict=True):
        _spread(axes, found, labels)
    return figure


def _points(curve: Curve) -> list[tuple[float, float, float, float]]:
    """Tokens, share and interval wherever a share is known."""
    return [
        (
            tokens,
            share.value,
            share.value if share.low is None else share.low,
            share.value if share.high is None else share.high,
        )
        for tokens, share in zip(curve.tokens, curve.rescued, strict=True)
        if share.value is not None
    ]


def _panel(axes: Axes, panel: Panel, theme: Theme, width: float) -> list[End]:
    paints = _paints(panel.curves, theme)
    banded = _banded(panel.curves)
    bold = banded[0] if len(banded) < len(panel.curves) else None
    ends = []
    top = 0.0
    for place, (curve, paint) in enumerate(zip(panel.curves, paints, strict=True)):
        points = _points(curve)
        if not points:
            continue
        x, y, low, high = zip(*points, strict=True)
        if curve in banded:
            axes.fill_between(x, low, high, color=paint, alpha=0.13, linewidth=0, zorder=2)
            top = max(top, min(max(high), 1.3 * max(y)))
        axes.plot(
            x,
            y,
            color=paint,
            linewidth=2.4 if curve.active or curve is bold else 1.3,
            linestyle=(0, (4, 2)) if curve.source == "estimated" else "-",
            marker="o" if len(points) == 1 else "",
            markersize=4,
            zorder=20 - place,
        )
        top = max(top, *y)
        ends.append(End(x[-1], y[-1], _label(curve), paint, curve.active))
    axes.set_ylim(0, min(1.02, top * 1.08) if top else 1)
    axes.set_xlim(0, max(1.0, *(end.x * 1.04 for end in ends)))
    axes.yaxis.set_major_formatter(percents())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.locator_params(axis="x", nbins=6)
    axes.set_ylabel("failed problems rescued")
    axes.set_xlabel("mean tokens spent on a failed problem after its first samples")
    title = f"{panel.title} ({count(panel.problems, 'failed problem')})"
    axes.set_title(wrapped(title, width * 0.85, LARGE, lines=2), fontsize=LARGE)
    quiet(axes, theme)
    one = len(banded) < len(panel.curves)
    bands = "The band is the 95% interval of the line in bold." if one else BANDS
    below(axes, theme, f"{bands} {panel.note}", width - 0.75)
    return ends


def _banded(curves: Sequence[Curve]) -> Sequence[Curve]:
    """The curves whose intervals are drawn: too many bands hide one another."""
    if len(curves) <= MOST_BANDS:
        return curves
    return [next((curve for curve in curves if curve.active), curves[0])]


def _label(curve: Curve) -> str:
    """What a curve is called; only its name is cut."""
    told = curve.source != "estimated" or "estimated" in curve.name
    hint = "" if told else " (estimated)"
    wide = 1.1 if curve.active else 1.0  # bold letters are wider
    return fitted(curve.name, (LABEL - width_of(hint, NORMAL)) / wide, NORMAL) + hint


def _paints(curves: Sequence[Curve], theme: Theme) -> list[str]:
    """A colour for each curve: the accent for the active policy, an operator's own for one."""
    series = list(SERIES[theme.name])
    own = OPERATORS[theme.name]
    paints = []
    others = 0
    for curve in curves:
        if curve.active:
            paints.append(theme.accent)
        elif curve.name in own and own[curve.name] != theme.accent:
            paints.append(own[curve.name])
        elif curve.name.startswith("retry"):
            paints.append(theme.soft)  # what everything else has to beat
        else:
            paints.append(series[others % len(series)])
            others += 1
    return paints


def _labels(axes: Axes, ends: Sequence[End], theme: Theme) -> list[tuple[object, object]]:
    """A label for each line and what leads to it, all in the same place."""
    beside = blended_transform_factory(axes.transAxes, axes.transData)
    labels: list[tuple[object, object]] = []
    for end in ends:
        text = axes.text(
            1.04,
            end.y,
            end.label,
            transform=beside,
            color=end.colour,
            fontsize=NORMAL,
            fontweight="bold" if end.bold else "normal",
            va="center",
        )
        (leader,) = axes.plot(
            [], [], color=end.colour, linewidth=0.6, clip_on=False, zorder=1, alpha=0.7
        )
        labels.append((text, leader))
    return labels


def _spread(axes: Axes, ends: Sequence[End], labels: Sequence[tuple[object, object]]) -> None:
    """Move labels apart, in the order of their lines' ends."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    inches = axes.get_window_extent().height / axes.figure.dpi
    pitch = PITCH / inches * (high - low)
    order = sorted(range(len(ends)), key=lambda i: (ends[i].y, i))
    places = spaced([ends[i].y for i in order], pitch, low + pitch / 2, high)
    for i, y in zip(order, places, strict=True):
        text, leader = labels[i]
        text.set_y(y)  # type: ignore[attr-defined]
        reach = left + (right - left) * 1.035
        leader.set_data([ends[i].x, max(ends[i].x, right), reach], [ends[i].y, ends[i].y, y])  # type: ignore[attr-defined]


def spaced(values: Sequence[float], pitch: float, low: float, high: float) -> list[float]:
    """The rising values moved apart by at least the pitch, as little as can be.

    Neighbours that are too close form a group around their mean, and groups that then touch join.
    """
    groups: list[tuple[float, int]] = []
    for value in values:
        groups.append((value, 1))
        while len(groups) > 1:
            (before, many), (after, more) = groups[-2:]
            if before + (many - 1) / 2 * pitch + pitch <= after - (more - 1) / 2 * pitch:
                break
            mean = (before * many + after * more) / (many + more)
            groups[-2:] = [(mean, many + more)]
        middle, size = groups[-1]
        half = (size - 1) / 2 * pitch
        groups[-1] = (max(low + half, min(high - half, middle)), size)
    # A group that the upper end held back may lie on the one before it.
    places: list[float] = []
    for middle, size in groups:
        places += [middle + (i - (size - 1) / 2) * pitch for i in range(size)]
    for i in range(len(places) - 2, -1, -1):
        places[i] = min(places[i], places[i + 1] - pitch)
    return [place if math.isfinite(place) else low for place in places]
