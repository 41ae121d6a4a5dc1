"""What is read from a trace store to learn from: sums over many problems, in a few statements."""

from __future__ import annotations

from typing import Any

from recov_graph.rollout_features import ROLLOUT_FEATURE_VERSION
from recov_graph.signals import FEATURE_VERSION
from recov_graph.store.traces import Row, TraceStore

# The first samples of a problem: how many failed, how many passed.
SAMPLES = (
    "SELECT problem_id, SUM(value = 'failed'), SUM(value = 'passed') "
    "FROM rollouts JOIN verdicts USING (id) WHERE operator = 'sample' GROUP BY problem_id"
)
FEATURES = (
    "SELECT problem_id, AVG(spread), AVG(concentration), AVG(logit_dispersion) "
    "FROM rollouts JOIN features USING (id) "
    "WHERE operator = 'sample' AND feature_version = ? GROUP BY problem_id"
)
# Attempts by operator, wherever they come from: routed, imported, recorded.
OUTCOMES = (
    "SELECT problem_id, operator, passed, attempts FROM ("
    "SELECT 0 AS part, problem_id, interventions.operator, SUM(outcome = 'rescued') AS passed, "
    "COUNT(*) AS attempts FROM interventions JOIN rollouts USING (id) "
    "WHERE outcome IN ('rescued', 'failed') GROUP BY 2, 3 "
    "UNION ALL SELECT 1, problem_id, operator, SUM(passed), SUM(attempts) FROM tallies "
    "GROUP BY 2, 3 "
    "UNION ALL SELECT 2, problem_id, operator, SUM(passed), COUNT(*) FROM tape GROUP BY 2, 3"
    ") AS made ORDER BY part, problem_id, operator"
)
DECISIONS = (
    "SELECT problem_id, decisions.id, decisions.operator, probability, candidates, policy_hash, "
    "attempts_left, tokens_left, measured, once, outcome, tokens, interventions.operator "
    "FROM decisions LEFT JOIN interventions ON decision_id = decisions.id "
    "WHERE attempts_left IS NOT NULL "
    # What was decided on and never carried out, or could not be judged, tells nothing.
    "AND (decisions.operator IS NULL OR outcome IN ('rescued', 'failed')) "
    "ORDER BY problem_id, step"
)


def stored_problems(store: TraceStore) -> list[tuple[Any, ...]]:
    """(id, model, task, key, started_at) of every problem, the oldest first."""
    return store.rows(
        "SELECT problems.id, model, task, key, problems.started_at "
        "FROM problems JOIN runs ON runs.id = run_id ORDER BY problems.started_at, problems.rowid"
    )


def stored_samples(store: TraceStore) -> dict[str, tuple[int, int]]:
    """Failed and passed first samples by problem."""
    return {problem: (failed, passed) for problem, failed, passed in store.rows(SAMPLES)}


def stored_features(store: TraceStore) -> dict[str, tuple[float, float, float]]:
    """The mean of each feature over the failed samples, by problem."""
    return {problem: tuple(values) for problem, *values in store.rows(FEATURES, [FEATURE_VERSION])}


def stored_rollout_features(store: TraceStore) -> dict[str, tuple[float, float, float, float]]:
    """What the first samples of black-box models told, by problem."""
    rows = store.rows(
        "SELECT id, failed_share, agreement, truncated, length FROM rollout_features "
        "WHERE feature_version = ?",
        [ROLLOUT_FEATURE_VERSION],
    )
    return {problem: tuple(values) for problem, *values in rows}


def stored_profiles(store: TraceStore) -> dict[str, tuple[Any, ...]]:
    """(failed samples, three features) of recorded and imported problems; parts may be None."""
    rows = store.rows(
        "SELECT id, failed_samples, spread, concentration, logit_dispersion FROM profiles "
        "WHERE feature_version = ?",
        [FEATURE_VERSION],
    )
    return {problem: tuple(values) for problem, *values in rows}


def stored_outcomes(store: TraceStore) -> list[tuple[str, str, float, float]]:
    """(problem, operator, passed, attempts), judged attempts only."""
    return store.rows(OUTCOMES)


def stored_decisions(store: TraceStore) -> list[tuple[Any, ...]]:
    """The columns of DECISIONS for every decision that says what it was allowed, in order."""
    return store.rows(DECISIONS)


def tape_problems(store: TraceStore) -> list[Row]:
    """The failed problems that attempts were recorded of, with model, task and profile."""
    return store.query(
        "SELECT problems.id, key, task, model, failed_samples, spread, concentration, "
        "logit_dispersion, prompt_tokens, completion_tokens, scoring_tokens "
        "FROM problems JOIN runs ON runs.id = run_id "
        "JOIN profiles ON profiles.id = problems.id "
        "WHERE kind = 'record' AND profiles.feature_version = ? ORDER BY problems.rowid",
        [FEATURE_VERSION],
    )


def tape_attempts(store: TraceStore) -> list[tuple[str, str, int, int]]:
    """(problem id, operator, passed, tokens) of every recorded attempt, in order."""
    return store.rows(
        "SELECT problem_id, operator, passed, tokens FROM tape "
        "ORDER BY problem_id, operator, position"
    )


def tape_operators(store: TraceStore) -> set[str]:
    """The operators of which attempts are on the tape."""
    rows = store.rows(
        "SELECT DISTINCT operator FROM tape JOIN profiles ON profiles.id = problem_id "
        "WHERE feature_version = ?",
        [FEATURE_VERSION],
    )
    return {operator for (operator,) in rows}
