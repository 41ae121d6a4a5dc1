"""Charts of a report, as Vega-Lite specifications.

A colour is written as `var(--name)`, a property of the page's style; the page's script puts in what
it is in the theme. Every datum that has something to tell has `tip`: rows of a label and a value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recov_graph.report.content import (
    EVERY_REGIME,
    FAR,
    OFF,
    OUTCOMES,
    Bin,
    Curve,
    Drift,
    Estimate,
    FailureMap,
    Panel,
    RescueRow,
)
from recov_graph.report.rescue import FEW, reach
from recov_graph.report.style import Spec, curve_colours, routes_of, shape
from recov_graph.report.wording import moment, number, percent, share, words

Hues = Mapping[str, str]  # the colour of each route
LINE_BREAK = "\u241e"  # in labels of an axis


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        id: of its element in the page.
        spec: in Vega-Lite.
        height: in pixels, axes included.
        label: what it shows, for those who cannot see it.
        title: what stands above it; "" for nothing.
        points: index of the map whose points it draws; None where it has its own data.
    """

    id: str
    spec: Spec
    height: int
    label: str
    title: str = ""
    points: int | None = None


def map_charts(found: FailureMap, index: int, hues: Hues) -> list[Chart]:
    """Two projections of a failure map; one where there are fewer than three features."""
    size = len(found.features)
    pairs = [(0, min(1, size - 1))] if size < 3 else [(0, 1), (2, 1)]
    return [_projection(found, index, x, y, hues) for x, y in pairs if size]


def _projection(found: FailureMap, index: int, x: int, y: int, hues: Hues) -> Chart:
    routes, names = routes_of(found), [words(found.features[i]) for i in (x, y)]
    hue = {
        "field": "route",
        "type": "nominal",
        "scale": {"domain": routes, "range": [hues[route] for route in routes]},
        "legend": None,
    }
    count = len(found.outcome)
    small = 42 if count <= 400 else 24 if count <= 2000 else 12
    shapes = {"domain": list(OUTCOMES), "range": [shape(name) for name in OUTCOMES]}
    rescued = {"test": "datum.outcome === 'rescued'", "value": 0.8}
    points = {
        "mark": {"type": "point", "strokeWidth": 1.4 if small > 20 else 1},
        "encoding": {
            "x": _z_axis(found, x, names[0]),
            "y": _z_axis(found, y, names[1]),
            "stroke": hue,
            "fill": hue,
            "fillOpacity": {"condition": rescued, "value": 0.12},
            "shape": {"field": "outcome", "type": "nominal", "scale": shapes, "legend": None},
            "size": {"condition": {"test": "datum.case >= 0", "value": 110}, "value": small},
            "tooltip": {"value": "shown"},
        },
    }
    zero = {"mark": _rule("var(--axis)"), "data": {"values": [{}]}}
    spec = {
        "data": {"name": "points"},
        "height": 360,
        "layer": [
            {**zero, "encoding": {"x": {"datum": 0}}},
            {**zero, "encoding": {"y": {"datum": 0}}},
            points,
        ],
    }
    label = f"Failures by {names[0]} and {names[1]}, {count} points."
    return Chart(f"map-{index}-{x}-{y}", spec, 360, label, points=index)


def _z_axis(found: FailureMap, feature: int, name: str) -> Spec:
    z = [value for value in found.z[feature] if math.isfinite(value)]
    low = max(-FAR, math.floor(min(z, default=0) * 2) / 2)
    high = min(FAR, math.ceil(max(z, default=0) * 2) / 2)
    domain = [min(low, -1.0) - 0.15, max(high, 1.0) + 0.15]
    return {
        "field": f"z{feature}",
        "type": "quantitative",
        "scale": {"domain": domain, "nice": False, "zero": False},
        "axis": {"title": f"{name} (z)", "tickCount": 6, "grid": False},
    }


def rescue_charts(rows: Sequence[RescueRow], hues: Hues) -> list[Chart]:
    """For each regime the rescue rate of each operator, on the same axis."""
    domain = [0, min(1.0, math.ceil(max(reach(rows), 0.05) * 20) / 20)]
    regimes = list(dict.fromkeys(row.regime for row in rows))
    return [
        _rescue([row for row in rows if row.regime == regime], domain, index, hues)
        for index, regime in enumerate(regimes)
    ]


def _rescue(rows: Sequence[RescueRow], domain: list[float], index: int, hues: Hues) -> Chart:
    regime, labels = _regime(rows[0].regime), [_rescue_label(row) for row in rows]
    values = [
        {**_interval(row.rate), "label": label, "colour": str(i), "tip": _rescue_tip(row)}
        | {"few": row.attempts < FEW}
        for i, (row, label) in enumerate(zip(rows, labels, strict=True))
    ]
    numbers = [str(i) for i in range(len(rows))]
    scale = {"domain": numbers, "range": [hues[row.operator] for row in rows]}
    broken = f"split(datum.label, '{LINE_BREAK}')"
    axis = {"labelExpr": broken, "labelLimit": 200, "labelPadding": 12, "title": None}
    axis |= {"ticks": False, "domain": False}
    name = {"field": "label", "type": "nominal", "sort": labels, "axis": axis}
    rate = {
        "type": "quantitative",
        "scale": {"domain": domain, "nice": False},
        "axis": {"title": "rescued, share of attempts", "format": ".0%", "tickCount": 4},
    }
    hue = {"field": "colour", "type": "nominal", "scale": scale, "legend": None}
    height = 40 * len(rows) + 56
    spec = {
        "data": {"values": values},
        "height": height,
        "encoding": {"y": name, "color": hue, "tooltip": {"value": "shown"}},
        "layer": [
            {
                "mark": {"type": "rule", "clip": True},
                "encoding": {
                    "x": {"field": "low", **rate},
                    "x2": {"field": "high"},
                    "strokeWidth": {"condition": {"test": "datum.few", "value": 0.8}, "value": 2.2},
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
                "encoding": {"x": {"field": "value", **rate}},
            },
        ],
    }
    label = f"Rescue rate of {len(rows)} operators on {regime} failures."
    return Chart(f"rescue-{index}", spec, height, label, title=regime)


def _regime(name: str) -> str:
    return "all regimes" if name == EVERY_REGIME else words(name) or "no regime"


def _rescue_label(row: RescueRow) -> str:
    price = "" if row.per_rescue is None else f", {row.per_rescue:,.0f} tokens each"
    return f"{words(row.operator)}{LINE_BREAK}{row.rescued:,} of {row.attempts:,}{price}"


def _rescue_tip(row: RescueRow) -> list[list[str]]:
    each = "nothing rescued" if row.per_rescue is None else f"{row.per_rescue:,.0f}"
    return [
        ["operator", words(row.operator)],
        ["regime", _regime(row.regime)],
        ["rescued", f"{row.rescued:,} of {row.attempts:,} attempts"],
        ["rate", percent(row.rate)],
        ["tokens", f"{row.tokens:,}"],
        ["tokens per rescue", each],
    ]


def panel_charts(panel: Panel, index: int) -> list[Chart]:
    """Share rescued against tokens; no chart where there is no curve."""
    return [_panel(panel, index)] if panel.curves else []


def _panel(panel: Panel, index: int) -> Chart:
    colours = curve_colours(panel.curves)
    layers = [
        layer
        for curve, hue in zip(panel.curves, colours, strict=True)
        for layer in _curve(curve, hue)
    ]
    highest = max([e.high or e.value or 0 for c in panel.curves for e in c.rescued], default=0)
    rescued = {
        "type": "quantitative",
        "scale": {"domain": [0, min(1.0, math.ceil(max(highest, 0.1) * 10) / 10)]},
        "axis": {"title": "rescued, share of failed problems", "format": ".0%", "tickCount": 5},
    }
    spent = {
        "type": "quantitative",
        "scale": {"nice": False, "zero": True},
        "axis": {"title": "tokens per failed problem", "format": "~s", "grid": False},
    }
    spec = {"height": 320, "encoding": {"x": spent, "y": rescued}, "layer": layers}
    names = ", ".join(words(curve.name) for curve in panel.curves)
    return Chart(f"panel-{index}", spec, 320, f"Share rescued against tokens: {names}.")


def _curve(curve: Curve, hue: str) -> list[Spec]:
    values = [
        {**_interval(rescued), "tokens": tokens, "tip": _curve_tip(curve, tokens, rescued)}
        for tokens, rescued in zip(curve.tokens, curve.rescued, strict=True)
        if rescued.value is not None
    ]
    across: Spec = {"field": "tokens"}
    shown = {"x": across, "y": {"field": "value"}}
    ends = {"x": across, "y": {"field": "low"}, "y2": {"field": "high"}}
    data = {"data": {"values": values}}
    dash = [5, 4] if curve.source == "estimated" else [1, 0]
    line = {"type": "line", "color": hue, "strokeDash": dash}
    point = {"type": "point", "filled": True, "color": hue, "opacity": 1}
    area = {"type": "area", "color": hue, "opacity": 0.14 if curve.active else 0.08}
    if len(values) == 1:
        area = {"type": "rule", "color": hue, "strokeWidth": 2}
    return [
        {**data, "mark": area, "encoding": ends},
        {**data, "mark": {**line, "strokeWidth": 3 if curve.active else 1.8}, "encoding": shown},
        {
            **data,
            "mark": {**point, "size": 60 if len(values) == 1 else 30 if len(values) < 20 else 14},
            "encoding": {**shown, "tooltip": {"value": "shown"}},
        },
    ]


def _curve_tip(curve: Curve, tokens: float, rescued: Estimate) -> list[list[str]]:
    active = ", active policy" if curve.active and "active" not in curve.name else ""
    return [
        ["", f"{words(curve.name)} ({curve.source}{active})"],
        ["tokens per problem", f"{tokens:,.0f}"],
        ["rescued", percent(rescued)],
    ]


def calibration_chart(bins: Sequence[Bin], name: str, what: str) -> Chart:
    """Predicted chances against what came of them, with the line on which both are the same."""
    ends = [[b.predicted, b.observed.high or 0, b.observed.value or 0] for b in bins]
    most = max([0.1, *(min(1.0, max(end)) for end in ends)])
    top = math.ceil(most * 10) / 10
    values = [
        {**_interval(b.observed), "predicted": b.predicted, "count": b.count, "tip": _bin_tip(b)}
        for b in bins
    ]
    scale = {"domain": [0, top], "nice": False}
    axis = {"format": ".0%", "tickCount": 5}
    x = {"type": "quantitative", "scale": scale, "axis": {**axis, "title": "predicted"}}
    y = {"type": "quantitative", "scale": scale, "axis": {**axis, "title": what}}
    size = {
        "field": "count",
        "type": "quantitative",
        "scale": {"range": [40, 320], "zero": True},
        "legend": None,
    }
    blue, across = "var(--accent)", {"field": "predicted"}
    whiskers = {"x": across, "y": {"field": "low"}, "y2": {"field": "high"}}
    dots = {"x": across, "y": {"field": "value"}, "size": size, "tooltip": {"value": "shown"}}
    spec = {
        "data": {"values": values},
        "height": 320,
        "encoding": {"x": x, "y": y},
        "layer": [
            {
                "data": {
                    "values": [{"predicted": 0, "value": 0}, {"predicted": top, "value": top}]
                },
                "mark": {"type": "line", "color": "var(--axis)", "strokeDash": [5, 4]},
                "encoding": {"x": across, "y": {"field": "value"}},
            },
            {"mark": {"type": "rule", "strokeWidth": 2, "color": blue}, "encoding": whiskers},
            {
                "mark": {"type": "point", "filled": True, "color": blue, "opacity": 1},
                "encoding": dots,
            },
        ],
    }
    label = f"Predicted chance against {what}, {len(bins)} bins."
    return Chart(f"calibration-{name}", spec, 320, label)


def _bin_tip(found: Bin) -> list[list[str]]:
    return [
        ["predicted", share(found.predicted)],
        ["came true", percent(found.observed)],
        ["count", f"{found.count:,}"],
    ]


def drift_charts(drift: Drift, index: int) -> list[Chart]:
    """For each feature its mean z-score over time."""
    ends = [e for row in drift.means for m in row for e in (m.low, m.high, m.value)]
    reach = max([1.0, *(abs(e) for e in ends if e is not None)])
    reach = min(FAR, math.ceil(reach * 2) / 2)
    return [_drift(drift, index, f, reach) for f in range(len(drift.features))]


def _drift(drift: Drift, index: int, feature: int, reach: float) -> Chart:
    name, flagged = drift.features[feature], drift.features[feature] in drift.flagged
    values = [
        {**_interval(mean), "start": start, "tip": _drift_tip(start, count, mean)}
        for start, count, mean in zip(drift.starts, drift.counts, drift.means[feature], strict=True)
        if mean.value is not None
    ]
    hue = "var(--series-0)" if flagged else "var(--accent)"
    start = {"field": "start"}
    axis = {"title": None, "grid": False, "tickCount": 4}
    x = {
        "type": "temporal",
        "scale": {"type": "utc"},
        "axis": {**axis, "format": _time_format(drift.starts)},
    }
    y = {
        "type": "quantitative",
        "scale": {"domain": [-reach, reach], "nice": False, "clamp": True},
        "axis": {"title": "mean z", "tickCount": 5, "grid": False},
    }
    ends = {"x": start, "y": {"field": "low"}, "y2": {"field": "high"}}
    shown = {"x": start, "y": {"field": "value"}, "tooltip": {"value": "shown"}}
    alone: Spec = {"data": {"values": [{}]}}
    spec = {
        "data": {"values": values},
        "height": 220,
        "encoding": {"x": x, "y": y},
        "layer": [
            {
                **alone,
                "mark": {"type": "rect", "color": "var(--band)"},
                "encoding": {"x": None, "y": {"datum": -OFF}, "y2": {"datum": OFF}},
            },
            {**alone, "mark": _rule("var(--axis)"), "encoding": {"x": None, "y": {"datum": 0}}},
            {"mark": {"type": "rule", "strokeWidth": 2, "color": hue}, "encoding": ends},
            {"mark": {"type": "line", "strokeWidth": 2, "color": hue}, "encoding": shown},
            {
                "mark": {"type": "point", "filled": True, "size": 50, "color": hue, "opacity": 1},
                "encoding": shown,
            },
        ],
    }
    said = f"{words(name)}, off the reference" if flagged else words(name)
    label = f"Mean z-score of {words(name)} over {len(drift.starts)} spans of time."
    return Chart(f"drift-{index}-{feature}", spec, 220, label, title=said)


def _time_format(starts: Sequence[str]) -> str:
    """How the times of an axis are written: the more is the same, the less of it."""
    first, last = min(starts, default=""), max(starts, default="")
    if first[:10] == last[:10]:
        return "%H:%M:%S" if first[:13] == last[:13] else "%H:%M"
    return "%Y-%m" if first[:4] != last[:4] else "%b %-d"


def _drift_tip(start: str, count: int, mean: Estimate) -> list[list[str]]:
    return [["from", moment(start)], ["failures", f"{count:,}"], ["mean z", number(mean)]]


def _rule(hue: str) -> Spec:
    return {"type": "rule", "color": hue, "strokeWidth": 1}


def _interval(estimate: Estimate) -> Spec:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}
