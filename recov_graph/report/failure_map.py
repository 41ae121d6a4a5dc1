"""The failure map: failed problems by their features, as z-scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from recov_graph.features import FEATURES
from recov_graph.report.content import NOT_ROUTED, STOP, FailureMap
from recov_graph.report.reading import Columns, Flags, Problems, Texts
from recov_graph.report.reference import Reference
from recov_graph.report.statistics import Floats, Ints
from recov_graph.rollout_features import ROLLOUT_FEATURES

MOST_POINTS = 10_000
# What can be seen of a black box; the share of failed samples is 1 for most failures.
SEEN = tuple(name for name in ROLLOUT_FEATURES if name != "failed_share")
FEATURE_SETS = (FEATURES, SEEN)
DIGITS = 4  # significant ones that a raw feature is given with


def failure_maps(
    problems: Problems, decisions: Columns, reference: Reference
) -> tuple[FailureMap, ...]:
    """A map for each set of features that any failure has."""
    failed = problems.lost | ~problems.routed
    route, regime = first_decisions(problems, decisions)
    maps = []
    for features in FEATURE_SETS:
        values = feature_columns(problems, features)
        known = failed & np.isfinite(values).all(axis=1)
        if known.any():
            maps.append(_map(problems, features, known, route, regime, reference))
            unmeasured = int((problems.lost & ~known).sum())
            told = _told(problems, decisions)
            late = int((problems.lost & known & ~told).sum())
            maps[-1] = replace(maps[-1], unmeasured=unmeasured, late=late)
    return tuple(maps)


def feature_columns(problems: Problems, features: Sequence[str]) -> Floats:
    """Float [P, F]; NaN where a problem was not measured."""
    return np.stack([problems.rows.numbers(name) for name in features], axis=1)


def first_decisions(problems: Problems, decisions: Columns) -> tuple[Texts, Texts]:
    """Object [P] each: the operator and the regime of the first decision on each problem."""
    route = np.full(len(problems.id), NOT_ROUTED, object)
    regime = np.full(len(problems.id), "", object)
    at = {name: row for row, name in enumerate(problems.id)}
    first = decisions.numbers("step") == 0
    columns = (decisions.texts(name)[first] for name in ("problem_id", "operator", "regime"))
    for problem, operator, predicted in zip(*columns, strict=True):
        route[at[problem]] = STOP if operator is None else operator
        regime[at[problem]] = predicted
    return route, regime


def _told(problems: Problems, decisions: Columns) -> Flags:
    """Bool [P]: the first decision was told the features of the problem."""
    told = (decisions.numbers("step") == 0) & decisions.flags("measured")
    return np.isin(problems.id, decisions.texts("problem_id")[told])


def _map(
    problems: Problems,
    features: tuple[str, ...],
    known: Flags,
    route: Texts,
    regime: Texts,
    reference: Reference,
) -> FailureMap:
    rows = _thinned(np.flatnonzero(known))
    values = feature_columns(problems, features)[rows]
    z, against = reference.z_scores(problems, rows, features)
    return FailureMap(
        features=features,
        reference=against,
        z=tuple(tuple(np.round(column, 3).tolist()) for column in z.T),
        raw=tuple(tuple(float(f"{v:.{DIGITS}g}") for v in column) for column in values.T),
        route=tuple(route[rows]),
        outcome=tuple(problems.outcome[rows]),
        regime=tuple(regime[rows]),
        key=tuple(problems.key[rows]),
        task=tuple(problems.task[rows]),
        model=tuple(problems.model[rows]),
        problem=tuple(problems.id[rows]),
        unmeasured=0,
        left_out=int(known.sum()) - len(rows),
    )


def _thinned(rows: Ints) -> Ints:
    """At most as many as a page holds, spread evenly over time."""
    if len(rows) <= MOST_POINTS:
        return rows
    at = np.linspace(0, len(rows) - 1, MOST_POINTS).round().astype(np.int64)
    kept: Ints = rows[at]
    return kept
