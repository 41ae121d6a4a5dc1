"""Drift: do today's failures still look like those that the policy was fitted on?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recov_graph.report.content import OFF, Drift, Estimate
from recov_graph.report.failure_map import FEATURE_SETS, feature_columns
from recov_graph.report.reading import Problems
from recov_graph.report.reference import Reference
from recov_graph.report.statistics import Ints, mean

SPANS = 12
LEAST_IN_SPAN = 10


def drifts(problems: Problems, reference: Reference) -> tuple[Drift, ...]:
    """The drift of each set of features that any routed failure has."""
    made = []
    for features in FEATURE_SETS:
        measured = np.isfinite(feature_columns(problems, features)).all(axis=1)
        rows = np.flatnonzero(problems.lost & measured)
        if len(rows):
            made.append(_drift(problems, rows, features, reference))
    return tuple(made)


def _drift(problems: Problems, rows: Ints, features: Sequence[str], reference: Reference) -> Drift:
    z, against = reference.z_scores(problems, rows, features)
    spans = np.array_split(np.arange(len(rows)), max(1, min(SPANS, len(rows) // LEAST_IN_SPAN)))
    cluster = problems.cluster[rows]
    means = tuple(tuple(mean(column[span], cluster[span]) for span in spans) for column in z.T)
    known = reference.knows(problems, rows, features)
    newest = spans[-1]
    # All features are looked at, so each has to be further off than one alone would.
    level = 1 - 0.05 / len(features)
    flagged = tuple(
        name
        for name, column in zip(features, z.T, strict=True)
        if known and len(newest) >= LEAST_IN_SPAN
        if _is_off(mean(column[newest], cluster[newest], level=level))
    )
    return Drift(
        policy=against,
        features=tuple(features),
        starts=tuple(str(problems.started[rows[span[0]]]) for span in spans),
        counts=tuple(len(span) for span in spans),
        means=means,
        flagged=flagged,
        note=_note(flagged, known, len(spans)),
    )


def _is_off(one: Estimate) -> bool:
    if one.value is None or one.low is None or one.high is None:
        return False
    return abs(one.value) > OFF and (one.low > 0 or one.high < 0)


def _note(flagged: Sequence[str], known: bool, spans: int) -> str:
    if not known:
        return (
            "The policy was fitted on failures of other models, so there is nothing to drift from; "
            "shown is how the failures moved against their own mean. `recov-graph refit` gives the "
            "policy a reference of yours."
        )
    if flagged:
        return (
            f"{' and '.join(flagged)} lie more than {OFF} standard deviations off what the policy "
            "was fitted on: `recov-graph refit` fits it to what fails now."
        )
    newest = "the newest failures" if spans > 1 else "these failures"
    return f"No feature of {newest} lies more than {OFF} standard deviations off the reference."
