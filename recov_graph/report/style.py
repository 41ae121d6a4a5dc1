"""How a report looks: the colours and shapes of what it shows, and what all charts share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from recov_graph.report.content import FAR, NOT_ROUTED, STOP, Curve, FailureMap
from recov_graph.report.palette import ACCENT, OPERATORS, SERIES, SHAPES, SPARE, colours

Spec = dict[str, Any]
_PENTAGON = "M0,-1.1L1.05,-0.34L0.65,0.89L-0.65,0.89L-1.05,-0.34Z"
_VEGA = {"triangle": "triangle-up", "pentagon": _PENTAGON}  # where Vega has another name


def hues(names: Iterable[str]) -> dict[str, str]:
    """The colour of each operator, or of another route, everywhere on the page."""
    fixed, spare = list(OPERATORS["light"]), SPARE["light"]
    return {
        name: f"var(--op-{fixed.index(name)})"
        if name in fixed
        else f"var(--spare-{spare.index(code)})"
        for name, code in colours(names, "light").items()
    }


def curve_colours(curves: Sequence[Curve]) -> list[str]:
    """A colour for each curve of a panel: that of text for the active policy, its own for retry."""
    others = itertools.cycle(range(len(SERIES["light"])))
    return [
        "var(--text)"
        if curve.active
        else hues(["retry"])["retry"]
        if curve.name.startswith("retry")
        else f"var(--series-{next(others)})"
        for curve in curves
    ]


def palette_css(theme: str) -> str:
    """The palette of a theme as properties of a style sheet."""
    groups = {"op": OPERATORS[theme].values(), "spare": SPARE[theme], "series": SERIES[theme]}
    codes = [
        (f"{name}-{i}", code) for name, group in groups.items() for i, code in enumerate(group)
    ]
    return " ".join(f"--{name}: {code};" for name, code in [*codes, ("accent", ACCENT[theme])])


def theme() -> Spec:
    """What all charts have in common."""
    axis = {
        "domainColor": "var(--axis)",
        "tickColor": "var(--axis)",
        "gridColor": "var(--grid)",
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelPadding": 6,
        "titlePadding": 8,
        "tickSize": 4,
        "labelFlush": False,
    }
    return {
        "aria": False,
        "background": "transparent",
        "font": "system-ui, sans-serif",
        "view": {"stroke": "transparent"},
        "axis": axis,
        "autosize": {"type": "fit", "contains": "padding"},
        "padding": {"left": 2, "right": 10, "top": 8, "bottom": 2},
    }


def routes_of(found: FailureMap) -> list[str]:
    """The routes of a map, operators by how often they were taken, then what is none."""
    counts: dict[str, int] = {}
    for route in found.route:
        counts[route] = counts.get(route, 0) + 1
    return sorted(counts, key=lambda route: (route in (STOP, NOT_ROUTED), -counts[route], route))


def shape(outcome: str) -> str:
    """The shape of an outcome on a map, by Vega's name or as a path."""
    return _VEGA.get(SHAPES[outcome], SHAPES[outcome])


def far(found: FailureMap) -> int:
    """How many points of a map are drawn at its border."""
    return sum(any(abs(z) > FAR for z in row) for row in zip(*found.z, strict=True))
