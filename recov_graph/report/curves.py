"""Rescue against budget: the loop as it ran, retry alone, and policies on recorded attempts."""

from __future__ import annotations

from collections import Counter

import numpy as np

from recov_graph.report.content import Curve, Estimate, Panel
from recov_graph.report.reading import Flags, Problems
from recov_graph.report.reference import Reference
from recov_graph.report.retrying import Forecast
from recov_graph.report.statistics import Floats, Ints, share

POINTS = 24  # limits of a curve, spread evenly over problems
MOST_POLICIES = 4  # that get a curve of their own, those with most failed problems


def observed_panel(
    problems: Problems, forecast: Forecast | None, reference: Reference
) -> Panel | None:
    """The loop as it ran against retry alone; None where nothing has failed."""
    lost = problems.lost
    if not lost.any():
        return None
    curves = []
    used = Counter(problems.policy_hash[lost].tolist()).most_common(MOST_POLICIES)
    for policy, _ in used:
        own = lost & (problems.policy_hash == policy)
        active = policy == reference.policy.content_hash
        name = "the active policy" if active else f"policy {policy}"
        made = _curve(problems.rescued[own], problems.spent[own], problems.cluster[own])
        curves.append(Curve(name, "observed", active, *made))
    checked = lost & problems.retried
    if checked.any():
        made = _curve(
            problems.retry_rescued[checked],
            problems.retry_tokens[checked],
            problems.cluster[checked],
        )
        curves.append(Curve("retry alone", "measured", False, *made))
    if forecast is not None:
        most = max(curve.tokens[-1] for curve in curves)
        curves.append(_foreseen(forecast, most))
    curves = [curve for curve in curves if curve.tokens[-1] > 0]  # else nothing was spent
    return Panel("These runs", int(lost.sum()), tuple(curves), _note(problems, checked, forecast))


def _curve(
    rescued: Flags, spent: Floats, cluster: Ints
) -> tuple[tuple[float, ...], tuple[Estimate, ...]]:
    """Mean tokens and share rescued if every problem were given up at a limit, for many limits."""
    limits = np.unique(np.quantile(spent, np.linspace(0, 1, POINTS)))
    tokens = [0.0, *(float(np.minimum(spent, limit).mean()) for limit in limits)]
    shares = [share(rescued & (spent <= limit), cluster) for limit in (-1.0, *limits)]
    return tuple(tokens), tuple(shares)


def _foreseen(forecast: Forecast, most: float) -> Curve:
    """As far as the other curves go, and one point more."""
    tokens = forecast.tokens[0]
    kept = min(len(tokens), int(np.searchsorted(tokens, most)) + 1)
    low, high = np.quantile(forecast.rescued[1:, :kept], [0.025, 0.975], axis=0)
    points = zip(forecast.rescued[0, :kept].tolist(), low.tolist(), high.tolist(), strict=True)
    return Curve(
        "retry alone, foreseen",
        "estimated",
        False,
        tuple(tokens[:kept].tolist()),
        tuple(Estimate(value, min(value, lo), max(value, hi)) for value, lo, hi in points),
    )


def _note(problems: Problems, checked: Flags, forecast: Forecast | None) -> str:
    said = ["If every problem were given up at a limit: what is rescued by then, and spent."]
    lost = problems.lost
    if len(set(problems.policy_hash[lost])) > 1:
        said.append("Policies ran on different problems, so their curves are no comparison.")
    if not checked.any():
        said.append("Retry alone was not measured: `recov-graph run --baseline` does.")
    elif checked.sum() < lost.sum():
        said.append(f"Retry alone was measured on {int(checked.sum())} of {int(lost.sum())}.")
    if forecast is not None:
        said.append("Foreseen is what the first samples lead one to expect of retries.")
    return " ".join(said)
