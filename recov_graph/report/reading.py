"""What a report is computed from: the problems and decisions of a store, a column each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recov_graph.report.content import OUTCOMES
from recov_graph.report.statistics import Floats, Ints, clusters
from recov_graph.store import TraceStore
from recov_graph.store.learning import stored_samples

Texts = NDArray[np.object_]
Flags = NDArray[np.bool_]
RECORDED = ("record", "import")  # kinds of runs whose problems were never routed
# A problem that has not ended has no reason to have stopped; any other is an error.
ENDS = {
    "solved": "rescued",
    "out_of_reach": "stopped",
    "budget_exhausted": "out of budget",
    None: "unfinished",
}


class Columns:
    """Rows of one kind as columns, by name.

    Args:
        names: of the columns.
        rows: what a query gave.
    """

    def __init__(self, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._columns = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}

    def texts(self, name: str) -> Texts:
        """Object [N]: texts, or None."""
        values = self._columns.get(name, ())
        column = np.empty(len(values), object)
        column[:] = values
        return column

    def numbers(self, name: str) -> Floats:
        """Float [N]; NaN for none."""
        return np.array(self._columns.get(name, ()), np.float64)

    def flags(self, name: str) -> Flags:
        """Bool [N]; False for none."""
        return np.nan_to_num(self.numbers(name)).astype(bool)


@dataclass(frozen=True)
class Problems:
    """P problems; see the columns of the view `problem`.

    `sample_price` is what one more sample would cost, by those first drawn; NaN where unknown.
    """

    rows: Columns
    id: Texts
    kind: Texts
    model: Texts
    task: Texts
    key: Texts
    policy_hash: Texts
    started: Texts
    failed: Flags
    solved: Flags
    rescued: Flags
    samples_failed: Ints
    samples_passed: Ints
    sample_price: Floats
    tokens: Floats
    spent: Floats
    retried: Flags
    retry_rescued: Flags
    retry_tokens: Floats

    @cached_property
    def cluster(self) -> Ints:
        """Int [P]: a problem that was run several times is one cluster."""
        return clusters(self.model, self.task, self.key)

    @cached_property
    def routed(self) -> Flags:
        """Bool [P]: went through the graph, whether it failed or not."""
        return ~np.isin(self.kind, RECORDED)

    @cached_property
    def lost(self) -> Flags:
        """Bool [P]: routed, and all of its first samples failed."""
        return self.routed & self.failed

    @cached_property
    def outcome(self) -> Texts:
        """Object [P]: how a failed problem ended, one of OUTCOMES; of no meaning for others."""
        reasons = self.rows.texts("stop_reason")
        ends = [ENDS.get(reason, "error") for reason in reasons]
        names = np.empty(len(ends), object)
        names[:] = ends
        names[~self.routed] = OUTCOMES[-1]
        return names


PROBLEM = (
    "problem_id, run_kind, model, task, key, policy_hash, started_at, first_failed, rescued, "
    "solved, stop_reason, first_regime, samples, tokens, recovery_tokens, spread, "
    "concentration, logit_dispersion, failed_share, agreement, truncated, length, retry_rescued, "
    "retry_tokens"
)
DECISION = (
    "problem_id, model, task, key, step, regime, operator, expected_rescue, outcome, tokens, "
    "carried_out, measured"
)


def read_problems(store: TraceStore, run: str | None) -> Problems:
    """All problems, or those of a run, the oldest first."""
    rows = store.rows(
        f"SELECT {PROBLEM} FROM problem WHERE ?1 IS NULL OR run_id = ?1 "
        "ORDER BY started_at, problem_id",
        [run],
    )
    columns = Columns(PROBLEM.split(", "), rows)
    drawn = stored_samples(store)
    counts = [drawn.get(name, (0, 0)) for name in columns.texts("problem_id")]
    samples = np.array(counts, np.int64).reshape(-1, 2)
    return Problems(
        rows=columns,
        id=columns.texts("problem_id"),
        kind=columns.texts("run_kind"),
        model=columns.texts("model"),
        task=columns.texts("task"),
        key=columns.texts("key"),
        policy_hash=columns.texts("policy_hash"),
        started=columns.texts("started_at"),
        failed=columns.flags("first_failed"),
        solved=columns.flags("solved"),
        rescued=columns.flags("rescued"),
        samples_failed=samples[:, 0],
        samples_passed=samples[:, 1],
        sample_price=_prices(store, columns),
        tokens=np.nan_to_num(columns.numbers("tokens")),
        spent=np.nan_to_num(columns.numbers("recovery_tokens")),
        retried=~np.isnan(columns.numbers("retry_tokens")),
        retry_rescued=columns.flags("retry_rescued"),
        retry_tokens=np.nan_to_num(columns.numbers("retry_tokens")),
    )


def _prices(store: TraceStore, columns: Columns) -> Floats:
    """Float [P]: the prompt, which a retry reads anew, and a completion of mean length.

    A black box may have read the prompt for each of its samples; that it did is taken for granted,
    since a retry that seems too dear would make whatever else was tried look good.
    """
    first = {
        problem: (prompt, completion)
        for problem, prompt, completion in store.rows(
            "SELECT problem_id, prompt_tokens, completion_tokens FROM calls "
            "WHERE id = problem_id || '/call0'"
        )
    }
    problems = columns.texts("problem_id")
    read = np.array([first.get(name, (np.nan, np.nan)) for name in problems], float).reshape(-1, 2)
    samples = np.maximum(1, np.nan_to_num(columns.numbers("samples"), nan=1))
    black_box = np.isfinite(columns.numbers("agreement"))
    prices: Floats = read[:, 0] / np.where(black_box, samples, 1) + read[:, 1] / samples
    return prices


JUDGED = ("rescued", "failed")  # outcomes of attempts that tell something


def decision_clusters(decisions: Columns) -> Ints:
    """Int [D]: decisions on the same problem, however often it was run, are one cluster."""
    return clusters(*(decisions.texts(name) for name in ("model", "task", "key")))


def read_decisions(store: TraceStore, run: str | None) -> Columns:
    """All decisions, or those of a run, problem by problem in order."""
    rows = store.rows(
        f"SELECT {DECISION} FROM decision WHERE ?1 IS NULL OR run_id = ?1 "
        "ORDER BY problem_id, step",
        [run],
    )
    return Columns(DECISION.split(", "), rows)
