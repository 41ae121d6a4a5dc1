"""What each operator rescued: a dot with its interval, a panel for each regime."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recov_graph.report.content import Report, RescueRow
from recov_graph.report.palette import colours
from recov_graph.report.pictures.sheet import (
    LARGE,
    NORMAL,
    SMALL,
    Theme,
    note,
    percents,
    quiet,
    sheet,
)
from recov_graph.report.pictures.text import fitted
from recov_graph.report.rescue import FEW, reach

ROW = 0.21  # inches
COLUMNS = ((62.0, "rescued/attempts"), (128.0, "tokens/rescue"))  # right ends, in points
NO_REGIME = "no regime predicted"


def lacking(report: Report) -> str | None:
    """Why there is nothing to draw; None where there is."""
    return None if report.rescue else "no intervention was carried out"


def draw(report: Report, theme: Theme, width: float) -> Figure:
    """The figure; there must be something to draw."""
    regimes: dict[str, list[RescueRow]] = {}
    for row in report.rescue:
        regimes.setdefault(row.regime, []).append(row)
    paints = colours((row.operator for row in report.rescue), theme.name)
    heights = [len(rows) * ROW + 0.1 for rows in regimes.values()]
    figure = sheet(theme, width, sum(heights) + 0.32 * len(heights) + 0.8)
    panels = figure.subplots(len(regimes), 1, squeeze=False, sharex=True, height_ratios=heights)
    limit = _limit(report.rescue)
    for place, (axes, (regime, rows)) in enumerate(zip(panels[:, 0], regimes.items(), strict=True)):
        _panel(axes, rows, paints, theme, width, limit)
        axes.set_title(fitted(regime or NO_REGIME, width / 2, LARGE), fontsize=LARGE)
        axes.set_xlim(-0.015 * limit, limit)  # a dot at 0 stays off the names
        if not place:
            _headings(axes, theme)
    bottom = panels[-1, 0]
    bottom.xaxis.set_major_formatter(percents())
    bottom.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    bottom.set_xlabel("share of attempts that rescued")
    said = "Regime as predicted when the operator was chosen; 95% intervals."
    if any((row.rate.high or 0) > limit for row in report.rescue):
        said += f" One that leaves the axis is of fewer than {FEW} attempts."
    note(figure, theme, said, width)
    return figure


def _limit(rows: tuple[RescueRow, ...]) -> float:
    """Where the axis ends: round, and not much beyond the longest interval of many attempts."""
    top = reach(rows)
    return next(limit for limit in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0) if top <= limit + 1e-9)


def _panel(
    axes: Axes,
    rows: list[RescueRow],
    paints: dict[str, str],
    theme: Theme,
    width: float,
    limit: float,
) -> None:
    for y, row in enumerate(rows):
        paint = paints[row.operator]
        if row.rate.low is not None and row.rate.high is not None:
            ends = [row.rate.low, min(row.rate.high, limit)]
            thick = 0.6 if row.attempts < FEW else 1.8
            axes.plot(ends, [y, y], color=paint, linewidth=thick, zorder=3)
        if row.rate.value is not None:
            axes.plot(
                [row.rate.value], [y], "o", color=paint, markersize=5, zorder=4, clip_on=False
            )
        spent = "no rescue" if row.per_rescue is None else f"{row.per_rescue:,.0f}"
        _cell(axes, y, f"{row.rescued:,}/{row.attempts:,}", COLUMNS[0][0], theme.ink)
        _cell(axes, y, spent, COLUMNS[1][0], theme.soft if row.per_rescue is None else theme.ink)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    room = width * 0.28
    axes.set_yticks(range(len(rows)), [fitted(row.operator, room, NORMAL) for row in rows])
    quiet(axes, theme, grid="x")
    axes.tick_params(axis="y", length=0)


def _cell(axes: Axes, y: float, text: str, right: float, colour: str) -> None:
    axes.annotate(
        text,
        (1, y),
        xycoords=axes.get_yaxis_transform(),
        xytext=(right, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=NORMAL,
        color=colour,
        annotation_clip=False,
    )


def _headings(axes: Axes, theme: Theme) -> None:
    for right, text in COLUMNS:
        axes.annotate(
            text.replace("/", "/\n"),
            (1, 1),
            xycoords="axes fraction",
            xytext=(right, 4),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=SMALL,
            color=theme.soft,
            annotation_clip=False,
        )
