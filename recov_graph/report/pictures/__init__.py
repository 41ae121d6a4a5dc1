"""The figures of a report as pictures for papers and READMEs, drawn with matplotlib.

Needs the extra "plot": ``pip install "recov-graph[plot]"``.
"""

from __future__ import annotations

from collections.abc import Callable

from recov_graph.errors import InvalidInputError, MissingExtraError
from recov_graph.report.content import Case, Report
from recov_graph.report.palette import THEMES

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError(
        f'pictures need matplotlib ({error}); install it with `pip install "recov-graph[plot]"`'
    ) from error

from recov_graph.report.pictures import budget, calibration, drift, failure_map, rescue, strip
from recov_graph.report.pictures.sheet import FORMATS, Theme, encoded, settings, theme_of
from recov_graph.words import short

__all__ = ["FIGURES", "FORMATS", "WIDTH", "encoded", "lacking", "picture", "trace_picture"]

WIDTH = 6.5  # inches: the text of a paper
_DRAW: dict[str, Callable[[Report, Theme, float], Figure]] = {
    "map": failure_map.draw,
    "rescue": rescue.draw,
    "budget": budget.draw,
    "calibration": calibration.draw,
    "drift": drift.draw,
}
_LACKING: dict[str, Callable[[Report], str | None]] = {
    "map": failure_map.lacking,
    "rescue": rescue.lacking,
    "budget": budget.lacking,
    "calibration": calibration.lacking,
    "drift": drift.lacking,
}
FIGURES = tuple(_DRAW)


def picture(
    report: Report, figure: str, *, theme: str = "light", width: float = WIDTH
) -> Figure | None:
    """A figure of a report, to be written with `encoded`; None where it has nothing to show.

    Args:
        report: what to draw.
        figure: one of `FIGURES`.
        theme: "light" or "dark".
        width: in inches.

    Raises:
        InvalidInputError: there is no such figure or theme.
    """
    if lacking(report, figure) is not None:
        return None
    with settings(theme_of(_checked(theme))):
        return _DRAW[figure](report, theme_of(theme), width)


def lacking(report: Report, figure: str) -> str | None:
    """Why a report has nothing to show in one of `FIGURES`; None where it has.

    Raises:
        InvalidInputError: there is no such figure.
    """
    if figure not in _DRAW:
        raise InvalidInputError(f"no figure is {short(figure)}; choose from {', '.join(FIGURES)}")
    return _LACKING[figure](report)


def trace_picture(case: Case, *, theme: str = "light", width: float = WIDTH) -> Figure | None:
    """A problem's measured failures token by token, and repairs; None where none was measured.

    Args:
        case: what to draw.
        theme: "light" or "dark".
        width: in inches.

    Raises:
        InvalidInputError: there is no such theme.
    """
    if not case.strips:
        return None
    with settings(theme_of(_checked(theme))):
        return strip.draw(case, theme_of(theme), width)


def _checked(theme: str) -> str:
    if theme not in THEMES:
        raise InvalidInputError(f"no theme is {short(theme)}; choose from {', '.join(THEMES)}")
    return theme
