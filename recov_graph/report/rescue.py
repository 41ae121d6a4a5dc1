"""What each operator rescued, by the regime that was predicted when it was chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recov_graph.report.content import EVERY_REGIME, RescueRow
from recov_graph.report.reading import JUDGED, Columns, Flags, Texts, decision_clusters
from recov_graph.report.statistics import Floats, Ints, share

FEW = 10  # attempts below which an interval is not given the room it would take


def rescue_rows(decisions: Columns) -> tuple[RescueRow, ...]:
    """Rows of each regime, then over all regimes, with the operators used most first."""
    outcome, regime = decisions.texts("outcome"), decisions.texts("regime")
    operator = decisions.texts("carried_out")
    tokens = np.nan_to_num(decisions.numbers("tokens"))
    cluster = decision_clusters(decisions)
    judged = np.isin(outcome, JUDGED)
    rows = []
    names = sorted(set(regime[judged]))
    for name in (*names, EVERY_REGIME) if len(names) > 1 else names:
        inside = judged if name == EVERY_REGIME else judged & (regime == name)
        rows += sorted(
            (
                _row(name, made, inside & (operator == made), outcome, tokens, cluster)
                for made in dict.fromkeys(operator[inside])
            ),
            key=lambda row: -row.attempts,
        )
    return tuple(rows)


def reach(rows: Sequence[RescueRow]) -> float:
    """How far an axis of rates must go: for what is known well, or else for all of it."""
    known = [row for row in rows if row.attempts >= FEW] or rows
    ends = [end for row in known for end in (row.rate.high,) if end is not None]
    return max([*ends, *(row.rate.value or 0.0 for row in rows)], default=1.0)


def _row(
    regime: str, operator: str, rows: Flags, outcome: Texts, tokens: Floats, cluster: Ints
) -> RescueRow:
    hits = outcome[rows] == "rescued"
    spent, rescued = int(tokens[rows].sum()), int(hits.sum())
    return RescueRow(
        regime,
        operator,
        int(rows.sum()),
        rescued,
        share(hits, cluster[rows]),
        spent,
        spent / rescued if rescued else None,
    )
