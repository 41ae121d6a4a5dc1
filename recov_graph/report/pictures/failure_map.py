"""The map of failures: two projections of the features, colour for the route, shape for the end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from recov_graph.report.content import FAR, NOT_ROUTED, OUTCOMES, STOP, FailureMap, Report
from recov_graph.report.palette import SHAPES, colours
from recov_graph.report.pictures.sheet import (
    LARGE,
    MARKERS,
    NORMAL,
    Theme,
    note,
    quiet,
    sheet,
)
from recov_graph.report.pictures.text import fitted, shown
from recov_graph.report.style import far
from recov_graph.report.wording import words
from recov_graph.words import count

LEAST = 2.0
MANY = 1500  # points from which on a vector file holds them as an image
LEGEND = 1.75  # inches at most
HEADINGS = ("first route", "how it ended")


def lacking(report: Report) -> str | None:
    """Why there is nothing to draw; None where there is."""
    if any(_drawable(failures) for failures in report.maps):
        return None
    if not report.failed:
        return "no problem failed"
    return "the features of no failed problem are stored"


def draw(report: Report, theme: Theme, width: float) -> Figure:
    """The figure; there must be something to draw."""
    maps = [failures for failures in report.maps if _drawable(failures)]
    names = sorted({route for failures in maps for route in failures.route}, key=_order)
    paints = colours(names, theme.name)
    side = (width - LEGEND - 1.0) / 2
    figure = sheet(theme, width, len(maps) * (side + 0.68) + 0.2)
    grid = figure.subplots(len(maps), 2, squeeze=False)
    for row, failures in zip(grid, maps, strict=True):
        _row(list(row), failures, paints, theme)
    found = {outcome for failures in maps for outcome in failures.outcome}
    legend = figure.legend(
        handles=list(_legend(names, paints, [o for o in OUTCOMES if o in found], theme)),
        loc="outside right upper",
        handletextpad=0.4,
        borderaxespad=0.2,
    )
    for text in legend.get_texts():
        if text.get_text() in HEADINGS:
            text.set_fontweight("bold")
    note(figure, theme, _said(maps), width - 0.15)
    return figure


def _drawable(failures: FailureMap) -> bool:
    return bool(failures.features) and bool(failures.key)


def _order(name: str) -> tuple[bool, bool, str]:
    return (name == NOT_ROUTED, name == STOP, name)


def _row(row: list[Axes], failures: FailureMap, paints: dict[str, str], theme: Theme) -> None:
    z = [np.nan_to_num(np.asarray(column, dtype=float)) for column in failures.z]
    if len(z) == 1:  # nothing to set it against: spread out, the same way each time
        z.append(np.linspace(-1, 1, len(z[0])) if len(z[0]) > 1 else np.zeros(1))
    names = [*(shown(words(name)) for name in failures.features), ""]
    pairs = [(0, 1), (2, 1)] if len(z) > 2 else [(0, 1)]
    spread = max(float(np.abs(column).max()) for column in z)
    limit = max(LEAST, math.ceil(min(spread, FAR) * 2) / 2)
    for axes, (across, up) in zip(row, pairs, strict=False):
        _scatter(axes, z[across], z[up], failures, paints, theme)
        quiet(axes, theme)
        for line in (axes.axhline, axes.axvline):
            line(0, color=theme.soft, linewidth=0.8, zorder=1)
        axes.set(xlim=(-limit * 1.07, limit * 1.07), ylim=(-limit * 1.07, limit * 1.07))
        step = 1 if limit < 3 else 2
        ticks = np.arange(-(limit // step), limit // step + 1) * step
        axes.set_xticks(ticks)
        axes.set_yticks(ticks)
        axes.set_box_aspect(1)
        axes.set_xlabel(f"{fitted(names[across], 1.8, NORMAL)} (z)")
    row[0].set_ylabel(f"{fitted(names[pairs[0][1]], 1.8, NORMAL)} (z)" if names[1] else "")
    if len(pairs) == 2:
        row[1].tick_params(labelleft=False)
    else:
        row[1].set_axis_off()
    row[0].set_title(
        f"{count(len(failures.key), 'failed problem')}", fontsize=LARGE, fontweight="bold"
    )


def _scatter(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    failures: FailureMap,
    paints: dict[str, str],
    theme: Theme,
) -> None:
    """Points in an order of their own, so that no route hides another."""
    number = len(x)
    size = 22 if number <= 200 else 12 if number <= MANY else 5
    route, outcome = np.asarray(failures.route), np.asarray(failures.outcome)
    paint = np.asarray([paints[name] for name in failures.route])
    for kind in reversed(OUTCOMES):  # the rescued ones come on top
        chosen = np.flatnonzero((outcome == kind) & (route != ""))
        if len(chosen):
            axes.scatter(
                np.clip(x[chosen], -FAR, FAR),
                np.clip(y[chosen], -FAR, FAR),
                s=size,
                c=list(paint[chosen]),
                marker=MARKERS[SHAPES[kind]],
                edgecolors=theme.paper,
                linewidths=0.4 if number <= MANY else 0.1,
                alpha=0.9 if number <= MANY else 0.7,
                rasterized=number > MANY,
                zorder=3,
                clip_on=False,
            )


def _legend(
    names: Sequence[str], paints: dict[str, str], outcomes: Sequence[str], theme: Theme
) -> Iterator[Line2D]:
    def entry(label: str, marker: str, colour: str) -> Line2D:
        text = fitted(label, LEGEND - 0.3, NORMAL)
        return Line2D([], [], color=colour, marker=marker, linestyle="", label=text, markersize=5)

    yield entry(HEADINGS[0], "", theme.paper)
    for name in names:
        yield entry(name, "o", paints[name])
    yield entry(" ", "", theme.paper)
    yield entry(HEADINGS[1], "", theme.paper)
    for outcome in outcomes:
        yield entry(outcome, MARKERS[SHAPES[outcome]], theme.soft)


def _said(maps: Sequence[FailureMap]) -> str:
    """What the axes are, and what is not on them."""
    references = list(dict.fromkeys(failures.reference for failures in maps))
    said = [f"z-scores against {', and '.join(references)}."]
    beyond = sum(map(far, maps))
    if beyond:
        said.append(f"{beyond:,} beyond {FAR:.0f} are drawn at the border.")
    unmeasured = sum(failures.unmeasured for failures in maps)
    if unmeasured:
        said.append(f"{count(unmeasured, 'failed problem')} could not be measured.")
    left_out = sum(failures.left_out for failures in maps)
    if left_out:
        said.append(f"{left_out:,} more are not drawn.")
    return " ".join(said)
