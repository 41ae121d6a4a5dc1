"""The numbers at the top: what failed, what was rescued, what it cost."""

from __future__ import annotations

import numpy as np

from recov_graph.report.content import Estimate, Figure
from recov_graph.report.reading import Flags, Problems
from recov_graph.report.retrying import Forecast
from recov_graph.report.statistics import Floats, resampled, share

LEAST_CHECKED = 0.9  # share of the failed that retry alone must have been measured on


def headline(problems: Problems, forecast: Forecast | None) -> tuple[Figure, ...]:
    """Five figures, in order; of problems that were routed."""
    routed, lost = problems.routed, problems.lost
    return (
        _share("failed", "failed at first", lost, routed, problems, "No first sample passed."),
        _share(
            "rescued",
            "rescued",
            lost & problems.rescued,
            lost,
            problems,
            "An intervention passed, a plain retry included.",
        ),
        _share(
            "stopped",
            "stopped",
            lost & (problems.outcome == "stopped"),
            lost,
            problems,
            "The chance of a rescue was too small to spend more.",
        ),
        _tokens(problems),
        saved(problems, forecast),
    )


def _share(
    name: str, label: str, hits: Flags, among: Flags, problems: Problems, note: str
) -> Figure:
    estimate = share(hits[among], problems.cluster[among])
    return Figure(name, label, int(hits.sum()), estimate, int(among.sum()), "share", note)


def _tokens(problems: Problems) -> Figure:
    lost = problems.lost
    spent = problems.spent[lost]
    estimate = resampled(lambda sums: sums[:, 0], spent[:, None], problems.cluster[lost])
    all_tokens = float(problems.tokens[problems.routed].sum())
    note = f"After the first samples; {all_tokens:,.0f} with them."
    total = float(spent.sum())
    return Figure("tokens", "tokens spent on failures", total, estimate, None, "tokens", note)


def saved(problems: Problems, forecast: Forecast | None) -> Figure:
    """What as many rescues would have cost by retry alone, less what was spent."""
    label = "tokens saved against retry alone"
    lost = problems.lost
    checked = lost & problems.retried
    if checked.any() and checked.sum() >= LEAST_CHECKED * lost.sum():
        estimate = _measured(problems, checked)
        why = (
            "By the tokens that retry alone, measured on the same problems, took for a rescue."
            if estimate.value is not None
            else "Retry alone, measured on the same problems, rescued none: no price to compare."
        )
        return Figure("saved", label, estimate.value, estimate, None, "tokens", why)
    estimate = Estimate(None) if forecast is None else _foreseen(problems, forecast)
    if estimate.value is not None:
        why = (
            "Estimated from how many of the first samples passed; `recov-graph run --baseline` "
            "measures it."
        )
    elif not lost.any():
        why = "Nothing has failed."
    else:
        why = (
            "Not known: retry alone was not measured, and what the first samples say does not "
            "reach as far. `recov-graph run --baseline` measures it."
        )
    return Figure("saved", label, estimate.value, estimate, None, "tokens", why)


def _measured(problems: Problems, checked: Flags) -> Estimate:
    columns = np.stack(
        [
            problems.rescued[checked].astype(float),
            problems.spent[checked],
            problems.retry_rescued[checked].astype(float),
            problems.retry_tokens[checked],
        ],
        axis=1,
    )

    def gain(sums: Floats) -> Floats:
        ours, spent, theirs, tokens = sums.T
        made: Floats = np.where(ours > 0, ours * tokens / theirs, 0.0) - spent
        return made

    return resampled(gain, columns, problems.cluster[checked])


def _foreseen(problems: Problems, forecast: Forecast) -> Estimate:
    """Where retry alone would reach the share that was rescued, and what it had spent by then."""
    lost = problems.lost
    n, reached = int(lost.sum()), float(problems.rescued[lost].mean())
    spent = float(problems.spent[lost].sum())
    needed = np.array(
        [
            np.interp(reached, rescued, tokens, right=np.inf)
            for rescued, tokens in zip(forecast.rescued, forecast.tokens, strict=True)
        ]
    )
    gains = n * needed - spent
    if not np.isfinite(gains[0]):
        return Estimate(None)
    low, high = np.quantile(gains[1:], [0.025, 0.975], method="nearest")
    return Estimate(float(gains[0]), float(low), float(high) if np.isfinite(high) else None)
