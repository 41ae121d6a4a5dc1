"""Stored failures, ready to learn from: problems whose first samples all failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recov_graph.errors import StoreError
from recov_graph.features import FEATURES
from recov_graph.rollout_features import ROLLOUT_FEATURES
from recov_graph.routing.decision import Evidence
from recov_graph.routing.outcomes import Floats, Outcomes
from recov_graph.routing.policy import cell_name
from recov_graph.store import TraceStore
from recov_graph.store.guard import loaded
from recov_graph.store.learning import (
    stored_decisions,
    stored_features,
    stored_outcomes,
    stored_problems,
    stored_profiles,
    stored_rollout_features,
    stored_samples,
    tape_problems,
)
from recov_graph.tape import TapeProblem
from recov_graph.words import short

MOST = 1e9  # of a feature or a count, as in a policy


@dataclass(frozen=True)
class StoredFailures:
    """Failed problems of a trace store, the oldest first.

    Attributes:
        outcomes: what operators did on them.
        ids: the store's id of each problem.
        models: each cell's model.
        tasks: each cell's task.
        group: int [N]; problems with the same number are the same problem, seen again.
        times: when each was stored.
    """

    outcomes: Outcomes
    ids: tuple[str, ...]
    models: tuple[str, ...]
    tasks: tuple[str, ...]
    group: NDArray[np.int64]
    times: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.int64]) -> StoredFailures:
        """Some of the problems."""
        return StoredFailures(
            self.outcomes.take(rows),
            tuple(self.ids[i] for i in rows),
            self.models,
            self.tasks,
            self.group[rows],
            tuple(self.times[i] for i in rows),
        )


def read_failures(
    store: TraceStore, *, model: str | None = None, task: str | None = None
) -> StoredFailures:
    """All failed problems of a store of which at least one attempt was judged.

    Args:
        store: the trace store.
        model: only problems of that model.
        task: only problems of that task.

    Raises:
        StoreError: there are none.
    """
    samples, measured = stored_samples(store), stored_features(store)
    profiles, told = stored_profiles(store), stored_rollout_features(store)
    made = stored_outcomes(store)
    operators = tuple(sorted({operator for _, operator, _, _ in made}))
    tried = {problem for problem, *_ in made}
    kept = []
    for problem in stored_problems(store):
        failed, passed = samples.get(problem[0], (0, 0))
        if (
            problem[0] in tried
            and not passed
            and (failed or problem[0] in profiles)
            and model in (None, problem[1])
            and task in (None, problem[2])
        ):
            kept.append(problem)
    if not kept:
        of = "".join(
            f" of {what} {name!r}"
            for what, name in (("model", model), ("task", task))
            if name is not None
        )
        raise StoreError(
            f"{store.path} holds no failed problem{of} with a judged intervention; "
            "`recov-graph run`, `record` and `import` store some"
        )
    row = {problem[0]: i for i, problem in enumerate(kept)}
    shape = (len(kept), len(operators))
    won, tries = np.zeros(shape), np.zeros(shape)
    column = {name: i for i, name in enumerate(operators)}
    for problem_id, operator, passes, attempts in made:
        i = row.get(problem_id)
        if i is not None:
            won[i, column[operator]] += passes
            tries[i, column[operator]] += attempts
    features = np.full((len(kept), len(FEATURES)), np.nan)
    rollout = np.full((len(kept), len(ROLLOUT_FEATURES)), np.nan)
    failed_samples = np.full(len(kept), np.nan)
    for problem_id, i in row.items():
        profile = profiles.get(problem_id)
        if profile is not None:
            failed_samples[i] = np.nan if profile[0] is None else profile[0]
            if profile[1] is not None:
                features[i] = profile[1:]
        if problem_id in samples and profile is None:
            failed_samples[i] = samples[problem_id][0]
        if problem_id in measured and np.isnan(features[i, 0]):
            features[i] = measured[problem_id]
        if problem_id in told and np.isnan(features[i, 0]):
            rollout[i] = told[problem_id]
    for numbers in (features, rollout, won, tries, failed_samples):
        _refuse_absurd(numbers, kept)
    names = sorted({(problem[1], problem[2]) for problem in kept})
    at = {name: i for i, name in enumerate(names)}
    keys: dict[tuple[str, str, str], int] = {}
    outcomes = Outcomes(
        operators=operators,
        cells=tuple(cell_name(*name) for name in names),
        cell=np.array([at[problem[1], problem[2]] for problem in kept], np.int64),
        features=features,
        failed_samples=failed_samples,
        passed=won,
        attempts=tries,
        rollout=rollout,
    )
    return StoredFailures(
        outcomes=outcomes,
        ids=tuple(problem[0] for problem in kept),
        models=tuple(m for m, _ in names),
        tasks=tuple(t for _, t in names),
        group=np.array([keys.setdefault(tuple(p[1:4]), len(keys)) for p in kept], np.int64),
        times=tuple(problem[4] for problem in kept),
    )


def told_on_tape(
    store: TraceStore, failures: StoredFailures, tape: Sequence[TapeProblem]
) -> Floats:
    """Float [N, 4], the rollout features of N recorded problems that are among the failures."""
    rows = {problem: row for row, problem in enumerate(failures.ids)}
    # The last counts, as for the tape.
    at = {
        (one["model"], one["task"], one["key"]): rows[one["id"]]
        for one in tape_problems(store)
        if one["id"] in rows
    }
    told: Floats = failures.outcomes.rollout[[at[one.model, one.task, one.id] for one in tape]]
    return told


def newest(failures: StoredFailures, share: float) -> tuple[StoredFailures, StoredFailures]:
    """(older, newest) problems; one that was seen several times is wholly on one side."""
    last = np.zeros(int(failures.group.max()) + 1, np.int64)
    np.maximum.at(last, failures.group, np.arange(len(failures)))
    order = np.argsort(last, kind="stable")
    held = set(order[len(order) - round(share * len(order)) :].tolist())
    is_held = np.array([group in held for group in failures.group.tolist()], bool)
    return failures.take(np.flatnonzero(~is_held)), failures.take(np.flatnonzero(is_held))


@dataclass(frozen=True)
class LoggedDecision:
    """One stored decision of a router, with what became of it.

    Attributes:
        row: index of the problem among the failures given.
        evidence: what the router was asked.
        operator: what it chose; None for a stop.
        probability: with which it chose that.
        policy_hash: the policy it went by.
        rescued: whether the attempt passed.
        tokens: what the attempt cost.
    """

    row: int
    evidence: Evidence
    operator: str | None
    probability: float
    policy_hash: str
    rescued: bool
    tokens: int


def logged_decisions(store: TraceStore, failures: StoredFailures) -> list[LoggedDecision]:
    """The stored decisions on these problems, in order, problem by problem."""
    rows = {problem: i for i, problem in enumerate(failures.ids)}
    found: list[LoggedDecision] = []
    tried: dict[int, list[str]] = {}
    for (
        problem,
        name,
        operator,
        probability,
        candidates,
        policy_hash,
        attempts_left,
        tokens_left,
        measured,
        once,
        outcome,
        tokens,
        made,
    ) in stored_decisions(store):
        row = rows.get(problem)
        if row is None:
            continue
        before = tried.setdefault(row, [])
        if made not in (None, operator):  # what was decided on gave way to another
            before.append(made)
            continue
        evidence = _evidence(
            failures,
            row,
            before,
            loaded(candidates, list, f"decision {name}"),
            attempts_left,
            tokens_left,
            bool(measured),
            loaded(once or "{}", dict, f"decision {name}"),
        )
        found.append(
            LoggedDecision(
                row,
                evidence,
                operator,
                probability,
                policy_hash,
                outcome == "rescued",
                tokens or 0,
            )
        )
        if operator is not None:
            before.append(operator)
    return sorted(found, key=lambda decision: decision.row)


def _evidence(
    failures: StoredFailures,
    row: int,
    tried: Sequence[str],
    candidates: Sequence[dict[str, Any]],
    attempts_left: int,
    tokens_left: float | None,
    measured: bool,
    once: dict[str, int],
) -> Evidence:
    cell = int(failures.outcomes.cell[row])
    failed = failures.outcomes.failed_samples[row]
    return Evidence(
        model=failures.models[cell],
        task=failures.tasks[cell],
        features=failures.outcomes.told(row, measured=measured),
        failed_samples=0 if np.isnan(failed) else int(failed),
        tried=list(tried),
        costs=_costs(candidates),
        attempts_left=attempts_left,
        tokens_left=np.inf if tokens_left is None else tokens_left,
        draw=1.0,
        once=once,
    )


def _refuse_absurd(numbers: Floats, problems: Sequence[tuple[Any, ...]]) -> None:
    """Refuse numbers that nobody measured: a fit to them would say nothing.

    Raises:
        StoreError: naming the first problem with one.
    """
    absurd = np.abs(np.nan_to_num(numbers.reshape(len(problems), -1))) > MOST
    if absurd.any():
        problem = problems[int(absurd.any(axis=1).argmax())][0]
        raise StoreError(
            f"what is stored of problem {short(problem)} is damaged: a feature or a count is "
            f"beyond {MOST:.0e}; check the database file"
        )


def _costs(candidates: Sequence[Any]) -> dict[str, int]:
    """The cost of each operator that could be chosen, as it was expected.

    Raises:
        StoreError: whoever wrote the decision wrote something else.
    """
    try:
        return {str(one["operator"]): int(one["expected_cost"]) for one in candidates}
    except (TypeError, KeyError, ValueError, OverflowError):
        raise StoreError(
            f"the candidates of a decision are damaged ({short(candidates)}); check the database "
            "file"
        ) from None
