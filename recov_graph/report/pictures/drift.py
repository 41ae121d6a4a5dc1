"""Drift: features of failures over time, against what the policy was made from."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recov_graph.report.content import OFF, Drift, Report
from recov_graph.report.palette import OPERATORS
from recov_graph.report.pictures.sheet import LARGE, NORMAL, SMALL, Theme, note, quiet, sheet
from recov_graph.report.pictures.text import fitted, shown, width_of, wrapped
from recov_graph.report.wording import words
from recov_graph.words import count

ROW = 0.85  # inches of a feature's axes
LEAST = 1.0  # of the axis on either side
BEYOND = 6.0  # an interval that reaches further is cut there


def lacking(report: Report) -> str | None:
    """Why there is nothing to draw; None where there is."""
    if any(drift.starts and drift.features for drift in report.drift):
        return None
    return "too few failures with features are stored to follow them over time"


def draw(report: Report, theme: Theme, width: float) -> Figure:
    """The figure; there must be something to draw."""
    drifts = [drift for drift in report.drift if drift.starts and drift.features]
    heights = [len(drift.features) * ROW + 1.0 for drift in drifts]
    figure = sheet(theme, width, sum(heights) + 0.1 + 0.15 * len(drifts))
    parts = figure.subfigures(len(drifts), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, drift in zip(parts, drifts, strict=True):
        part.set_facecolor(theme.paper)
        failures = count(sum(drift.counts), "failure")
        title = wrapped(f"Against {drift.policy} ({failures})", width - 0.3, LARGE, lines=2)
        part.suptitle(title, fontsize=LARGE, fontweight="bold", x=0.01, ha="left")
        rows = part.subplots(len(drift.features), 1, squeeze=False, sharex=True)[:, 0]
        for place, axes in enumerate(rows):
            _feature(axes, drift, place, theme)
        _times(rows[-1], drift, theme, width - 1.2)
    notes = " ".join(dict.fromkeys(drift.note for drift in drifts))
    said = f"The band is half a standard deviation either way; bars are 95% intervals. {notes}"
    note(figure, theme, said, width - 0.15, lines=3)
    return figure


def _feature(axes: Axes, drift: Drift, place: int, theme: Theme) -> None:
    name, means = drift.features[place], drift.means[place]
    flagged = name in drift.flagged
    paint = OPERATORS[theme.name]["dense_steer"] if flagged else theme.accent
    axes.axhspan(-OFF, OFF, color=theme.line, alpha=0.45, linewidth=0, zorder=0)
    axes.axhline(0, color=theme.soft, linewidth=0.8, zorder=1)
    known = [(i, mean) for i, mean in enumerate(means) if mean.value is not None]
    values = [mean.value for _, mean in known if mean.value is not None]
    axes.plot([i for i, _ in known], values, "-o", color=paint, markersize=3.5, zorder=4)
    reach = list(values)
    for i, mean in known:
        if mean.low is not None and mean.high is not None:
            axes.plot([i, i], [mean.low, mean.high], color=paint, linewidth=1, alpha=0.7, zorder=3)
            reach += [max(mean.low, -BEYOND), min(mean.high, BEYOND)]
    low, high = min(-LEAST, *reach, 0.0) * 1.12, max(LEAST, *reach, 0.0) * 1.12
    axes.set(ylim=(low, high), xlim=(-0.5, len(drift.starts) - 0.5))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    quiet(axes, theme, grid="y")
    label = fitted(words(name), 2.5, NORMAL)
    axes.set_title(
        f"{label}, drifting" if flagged else label,
        fontsize=NORMAL,
        fontweight="bold" if flagged else "normal",
        color=paint if flagged else theme.ink,
        pad=3,
    )
    axes.set_ylabel("mean z")


def _times(axes: Axes, drift: Drift, theme: Theme, room: float) -> None:
    """When spans began, beneath as many of them as there is room for."""
    labels = span_labels(drift.starts)
    widest = max(width_of(line, SMALL) for label in labels for line in label.split("\n"))
    fit = max(1, math.floor(room / (widest + 0.12)))
    every = math.ceil(len(labels) / fit)
    chosen = list(range(0, len(labels), every))
    kept = span_labels([drift.starts[i] for i in chosen])
    axes.set_xticks(chosen, kept, fontsize=SMALL)
    axes.set_xlabel("when each span of failures began (UTC); not to scale", color=theme.soft)


def span_labels(starts: Sequence[str]) -> list[str]:
    """Short labels of times: of the day where it is the first or a new one, else of the hour."""
    days = [start[:10] for start in starts]
    if len(set(days)) == len(days) > 1:
        return [shown(day) for day in days]
    same_minute = len({start[:16] for start in starts}) < len(starts)
    end = 19 if same_minute else 16
    labels = []
    for i, start in enumerate(starts):
        new = not i or days[i] != days[i - 1]
        labels.append(shown(start[11:end]) + (f"\n{shown(days[i])}" if new else ""))
    return labels
