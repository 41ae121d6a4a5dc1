"""Whether the chances that were predicted came true, for attempts and for stops."""

from __future__ import annotations

import numpy as np

from recov_graph.report.content import Bin, Calibration
from recov_graph.report.reading import JUDGED, Columns, Flags, Problems, decision_clusters
from recov_graph.report.statistics import NOTHING, Floats, Ints, share

BINS = 10
LEAST_IN_BIN = 10


def calibration(problems: Problems, decisions: Columns) -> Calibration:
    """Bins of predictions with what came of them."""
    cluster = decision_clusters(decisions)
    predicted = decisions.numbers("expected_rescue")
    operator = decisions.texts("operator")
    # Where another operator had to stand in, the prediction was of something else.
    followed = np.isin(decisions.texts("outcome"), JUDGED)
    followed &= operator == decisions.texts("carried_out")
    hits = decisions.texts("outcome") == "rescued"
    attempts = _bins(predicted[followed], hits[followed], cluster[followed])
    stops = np.array([name is None for name in operator], bool)
    chance = dict(zip(decisions.texts("problem_id")[stops], predicted[stops], strict=True))
    stopped = problems.lost & (problems.outcome == "stopped")
    stopped &= np.isin(problems.id, np.array(list(chance), object)) if chance else False
    checked = stopped & problems.retried
    at = np.array([chance.get(name, np.nan) for name in problems.id], float)
    wrong = problems.retry_rescued
    return Calibration(
        attempts=attempts,
        error=_error(attempts),
        stops=_bins(at[checked], wrong[checked], problems.cluster[checked]),
        stopped=int(stopped.sum()),
        stop_chance=float(at[stopped].mean()) if stopped.any() else None,
        stop_checked=int(checked.sum()),
        stop_missed=share(wrong[checked], problems.cluster[checked]) if checked.any() else NOTHING,
        note=_note(stopped, checked),
    )


def _bins(predicted: Floats, hits: Flags, cluster: Ints) -> tuple[Bin, ...]:
    """Bins of about as many predictions each; equal ones are never parted."""
    n = len(predicted)
    if n == 0:
        return ()
    count = max(1, min(BINS, n // LEAST_IN_BIN))
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, count + 1)[1:-1]))
    place = np.searchsorted(edges, predicted, side="right")
    return tuple(
        Bin(
            float(predicted[place == k].mean()),
            share(hits[place == k], cluster[place == k]),
            int((place == k).sum()),
        )
        for k in np.unique(place)
    )


def _error(bins: tuple[Bin, ...]) -> float | None:
    total = sum(one.count for one in bins)
    if not total:
        return None
    off = sum(one.count * abs(one.predicted - (one.observed.value or 0.0)) for one in bins)
    return off / total


def _note(stopped: Flags, checked: Flags) -> str:
    if not stopped.any():
        return "No problem was stopped."
    if not checked.any():
        return (
            "What going on would have brought after a stop is not known: nobody tried. "
            "`recov-graph run --baseline` has retry alone go on where the loop stopped."
        )
    return (
        "Where the loop stopped, retry alone went on with tokens of its own. What it rescued there "
        "is what the stops missed at least; steering might have rescued others. It may have had "
        "more tokens than the attempts that were left when the loop stopped."
    )
