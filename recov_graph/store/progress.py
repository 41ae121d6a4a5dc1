"""Reading how far the problems of a run have come, so that it can be gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recov_graph.rollout import Rollout
from recov_graph.store.blobs import unpack, unpack_topk
from recov_graph.store.guard import loaded
from recov_graph.store.traces import Row, TraceStore

# How the problems of a list ended; of the attempts just what sums are made of.
ENDED = (
    "SELECT problems.id, prompt, answer, solved, stop_reason, outcomes.regime AS regime, "
    "prompt_tokens + completion_tokens + scored_tokens AS tokens "
    "FROM problems LEFT JOIN outcomes ON outcomes.id = problems.id WHERE problems.id IN ({})"
)
ATTEMPTS = (
    "SELECT problem_id, rollouts.operator AS operator, value, interventions.tokens AS spent "
    "FROM rollouts LEFT JOIN verdicts ON verdicts.id = rollouts.id "
    "LEFT JOIN interventions ON interventions.id = rollouts.id "
    "WHERE problem_id IN ({}) ORDER BY problem_id, position"
)
FIRST_REGIMES = "SELECT problem_id, regime FROM decisions WHERE step = 0 AND problem_id IN ({})"
# The first samples are one call, the first there is.
FIRST_CALLS = (
    "SELECT problem_id, prompt_tokens + completion_tokens + scored_tokens AS tokens FROM calls "
    "WHERE id = problem_id || '/call0' AND problem_id IN ({})"
)


@dataclass(slots=True)
class Ended:
    """How a stored problem stands, as far as sums over many need it.

    Attributes:
        prompt: as it is stored, for what is asked under the same id again.
        answer: the expected one, likewise.
        stop_reason: why it ended; None while it is under way.
        solved: whether it was.
        tokens: spent on it, once it has ended.
        first_regime: the regime predicted first; None where nothing was decided.
        first_tokens: spent on the first samples.
        attempts: (operator, verdict's value, tokens) in order; tokens of interventions only.
    """

    prompt: str | None
    answer: str | None
    stop_reason: str | None
    solved: bool
    tokens: int
    first_regime: str | None
    first_tokens: int
    attempts: list[tuple[str, str | None, int | None]]


@dataclass(slots=True)
class Stored:
    """All rows of a problem under way, in order."""

    attempts: list[Row]
    decisions: list[Row]
    calls: list[Row]
    rollout_features: Row | None


def resumable_runs(store: TraceStore) -> list[Row]:
    """The runs that can be gone on with, the latest first."""
    return store.query("SELECT * FROM runs WHERE settings IS NOT NULL ORDER BY started_at DESC")


def ended_problems(store: TraceStore, ids: Sequence[str]) -> dict[str, Ended]:
    """How those of the problems stand that are stored, by id."""

    def rows(sql: str) -> list[Any]:
        return store.rows(sql.format(", ".join("?" * len(ids))), ids) if ids else []

    found = {
        name: Ended(prompt, answer, reason, bool(solved), tokens or 0, None, 0, [])
        for name, prompt, answer, solved, reason, _, tokens in rows(ENDED)
    }
    for name, operator, value, spent in rows(ATTEMPTS):
        found[name].attempts.append((operator, value, spent))
    for name, regime in rows(FIRST_REGIMES):
        found[name].first_regime = regime
    for name, tokens in rows(FIRST_CALLS):
        found[name].first_tokens = tokens
    return found


def stored_problem(store: TraceStore, problem_id: str) -> Stored:
    """What was stored of a problem under way."""
    calls = store.query("SELECT * FROM calls WHERE problem_id = ?", [problem_id])
    features = store.query("SELECT * FROM rollout_features WHERE id = ?", [problem_id])
    return Stored(
        attempts=store.query(
            "SELECT rollouts.*, value, score, verdicts.answer AS answer, explanation, "
            "interventions.tokens AS charged, interventions.details AS told, "
            "underway.spent AS spent, underway.details AS details FROM rollouts "
            "LEFT JOIN verdicts ON verdicts.id = rollouts.id "
            "LEFT JOIN interventions ON interventions.id = rollouts.id "
            "LEFT JOIN underway ON underway.id = rollouts.id "
            "WHERE problem_id = ? ORDER BY position",
            [problem_id],
        ),
        decisions=store.problem_decisions(problem_id),
        calls=sorted(calls, key=lambda call: int(call["id"].rpartition("/call")[2])),
        rollout_features=features[0] if features else None,
    )


def measured_rollouts(store: TraceStore, problem_id: str) -> list[str]:
    """The ids of a problem's rollouts that features are stored of."""
    rows = store.rows(
        "SELECT features.id FROM features JOIN rollouts ON rollouts.id = features.id "
        "WHERE problem_id = ? ORDER BY position",
        [problem_id],
    )
    return [name for (name,) in rows]


def kept_rollouts(store: TraceStore, problem_id: str) -> dict[str, Rollout]:
    """The rollouts of a problem under way whose arrays are kept, by id."""
    rows = store.query(
        "SELECT rollouts.id AS id, text, finish_reason, taken, pieces, specialist "
        "FROM underway JOIN rollouts ON rollouts.id = underway.id "
        "WHERE problem_id = ? AND taken IS NOT NULL ORDER BY position",
        [problem_id],
    )
    return {
        row["id"]: Rollout(
            text=row["text"],
            token_ids=unpack(row["taken"])[0],
            finish_reason=row["finish_reason"],
            specialist=unpack_topk(row["specialist"]),
            pieces=None if row["pieces"] is None else tuple(loaded(row["pieces"], list, "pieces")),
        )
        for row in rows
    }
