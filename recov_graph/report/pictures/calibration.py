"""Calibration: chances that were predicted against what came of them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from recov_graph.report.content import Bin, Calibration, Estimate, Report
from recov_graph.report.palette import OPERATORS
from recov_graph.report.pictures.sheet import LARGE, NORMAL, Theme, note, percents, quiet, sheet
from recov_graph.report.pictures.text import wrapped
from recov_graph.words import count

SMALLEST, LARGEST = 9.0, 110.0  # points squared
SIZES = 3  # in the legend


def lacking(report: Report) -> str | None:
    """Why there is nothing to draw; None where there is."""
    if report.calibration.attempts or report.calibration.stops:
        return None
    return "no chance was predicted of which the outcome is known"


def draw(report: Report, theme: Theme, width: float) -> Figure:
    """The figure; there must be something to draw."""
    told = report.calibration
    side = (width - 1.9) / 2
    figure = sheet(theme, width, side + 1.0)
    left, right = figure.subplots(1, 2)
    most = max(b.count for b in (*told.attempts, *told.stops))
    title = "Attempts"
    if told.error is not None:
        title += f" (mean error {told.error:.1%})"
    blue = theme.accent
    _draw_or_say(left, told.attempts, most, blue, theme, side, "No chance of an attempt is stored.")
    left.set_title(title, fontsize=LARGE)
    left.set_ylabel("observed")
    paint = OPERATORS[theme.name]["dense_steer"]
    _draw_or_say(right, told.stops, most, paint, theme, side, _stops(told))
    right.set_title("Stops, against retry alone" if told.stops else "Stops", fontsize=LARGE)
    figure.legend(
        handles=_sizes([b.count for b in (*told.attempts, *told.stops)], most, theme),
        title="count",
        title_fontsize=NORMAL,
        alignment="left",
        loc="outside right upper",
        labelspacing=0.8,
    )
    said = f"{told.note} {_stops(told)}" if told.stops else told.note
    note(figure, theme, f"{said} Bars are 95% intervals.", width - 0.15)
    return figure


def _draw_or_say(
    axes: Axes, bins: Sequence[Bin], most: int, paint: str, theme: Theme, side: float, instead: str
) -> None:
    axes.set_box_aspect(1)
    if not bins:
        axes.set_axis_off()
        axes.text(0, 0.98, wrapped(instead, side, NORMAL, lines=12), va="top", linespacing=1.4)
        return
    ends = [e for b in bins for e in (b.predicted, b.observed.value, b.observed.high) if e]
    top = min(1.0, max(0.1, *(end * 1.08 for end in ends))) if ends else 1.0
    axes.plot([0, 1], [0, 1], color=theme.soft, linewidth=0.8, linestyle=(0, (3, 3)), zorder=2)
    for b in bins:
        if b.observed.low is not None and b.observed.high is not None:
            span = [b.observed.low, b.observed.high]
            axes.plot([b.predicted] * 2, span, color=paint, linewidth=1, alpha=0.75, zorder=3)
        if b.observed.value is not None:
            axes.scatter(
                [b.predicted],
                [b.observed.value],
                s=_area(b.count, most),
                color=paint,
                edgecolors=theme.paper,
                linewidths=0.6,
                zorder=4,
                clip_on=False,
            )
    axes.set(xlim=(0, top), ylim=(0, top), xlabel="predicted")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(percents())
    quiet(axes, theme)


def _area(number: int, most: int) -> float:
    return max(SMALLEST, LARGEST * number / most)


def _sizes(counts: Sequence[int], most: int, theme: Theme) -> list[Line2D]:
    """The smallest, a middle and the largest count."""
    rising = sorted(set(counts))
    picked = sorted({rising[0], rising[len(rising) // 2], rising[-1]})[:SIZES]
    return [
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            color=theme.soft,
            markersize=_area(number, most) ** 0.5,
            label=f"{number:,}",
        )
        for number in picked
    ]


def _stops(told: Calibration) -> str:
    """What is known of the stops, in words."""
    if not told.stopped:
        return "No problem was stopped."
    said = f"{count(told.stopped, 'problem')} stopped"
    if told.stop_chance is not None:
        said += f" at a mean chance of {told.stop_chance:.1%}"
    if not told.stop_checked:
        return f"{said}; what retry alone would have rescued of them was not measured."
    return (
        f"{said}. Retry alone was measured on {told.stop_checked:,} of them and rescued "
        f"{_share(told.stop_missed)}."
    )


def _share(share: Estimate) -> str:
    if share.value is None:
        return "an unknown share"
    if share.low is None or share.high is None:
        return f"{share.value:.1%}"
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"
