"""Going on with a problem that another process left half done, from what it stored.

What is stored is what was paid for, so the problem is taken up at the node that comes after its
last rows. Nodes that cost nothing are run again, and find what they found before.
"""

from __future__ import annotations

from typing import Any, cast

from recov_graph.attempts import SAMPLE, failed_samples, value_of
from recov_graph.errors import StoreError
from recov_graph.features import problem_features
from recov_graph.problem import Problem
from recov_graph.recorder import SPENT
from recov_graph.state import AttemptData, DecisionData, RecoveryState, new_recovery
from recov_graph.store.guard import loaded
from recov_graph.store.progress import (
    Stored,
    kept_rollouts,
    measured_rollouts,
    stored_problem,
)
from recov_graph.store.traces import Row, TraceStore

VERDICT = ("value", "score", "answer", "explanation")
MADE = ("id", "position", "operator", "temperature", "seed", "text", "finish_reason", "tokens")
DECISION = tuple(DecisionData.__annotations__)


def half_done(
    store: TraceStore, problem: Problem, recovery_id: str
) -> tuple[RecoveryState, str] | None:
    """The state of a problem under way and the node after which it goes on.

    None where it has to begin anew: nothing is stored of it that was paid for, or not all that is
    needed, as with ``store_text`` other than "full" or where an array of it is damaged. Of what
    ended in an error the end is taken back, either way.
    """
    store.reopen(recovery_id)
    stored = stored_problem(store, recovery_id)
    begun = _begun(store, stored, problem, recovery_id)
    if begun is None and (stored.attempts or stored.calls or stored.decisions):
        store.replace_problems([recovery_id])  # or what is made anew would be mixed with it
    return begun


def _begun(
    store: TraceStore, stored: Stored, problem: Problem, recovery_id: str
) -> tuple[RecoveryState, str] | None:
    if store.store_text != "full" or not stored.attempts:
        return None
    if any(row["charged"] is None and row["spent"] is None for row in stored.attempts):
        return None  # of a run that was not to be gone on with
    try:
        state = cast(
            RecoveryState,
            {
                **new_recovery(problem, recovery_id),
                "approve": [],
                "attempts": [_attempt(row) for row in stored.attempts],
                "route": [_decision(row) for row in stored.decisions],
                "calls": {row["id"]: _call(row) for row in stored.calls},
            },
        )
        state["features"] = _features(store, stored, state)
        kept_rollouts(store, recovery_id)  # whoever measures them later could not begin anew
    except StoreError as error:
        if error.__cause__ is not None:  # the database itself
            raise
        return None
    node = _last_node(state)
    if state["route"]:
        state["regime"] = state["route"][-1]["regime"]
    return state, node


def _last_node(state: RecoveryState) -> str:
    """The node that the rows are of; what it left unfinished is taken out of the state."""
    made = [attempt for attempt in state["attempts"] if attempt["operator"] != SAMPLE]
    maker = "intervene" if made else "generate"
    last = made[-1:] or state["attempts"]
    if any(attempt["verdict"] is None for attempt in last):
        return maker
    if "failed" not in map(value_of, last) or "passed" in map(value_of, last):
        # It has ended but for a note of it: to judge once more is free, and ends it.
        for attempt in last:
            attempt["verdict"] = None
        return maker
    if len(state["route"]) > len(made):
        if state["route"][-1]["operator"] is not None:
            return "classify"
        state["route"].pop()  # decided anew, to the same end
        return "featurize"
    return "verify" if state["features"] is None else "featurize"


def _features(store: TraceStore, stored: Stored, state: RecoveryState) -> dict[str, float] | None:
    """Those of the failed samples, or what they told of a black-box model."""
    if stored.rollout_features is not None:
        told = dict(stored.rollout_features)
        return {name: told[name] for name in told if name not in ("id", "feature_version")}
    failed = {attempt["id"] for attempt in failed_samples(state)}
    measured = [name for name in measured_rollouts(store, state["recovery_id"]) if name in failed]
    traces = [store.read_trace(name) for name in measured]
    kept = [trace.features for trace in traces if trace is not None]
    return problem_features(kept)._asdict() if kept else None


def _attempt(row: Row) -> AttemptData:
    judged = row["charged"] is not None
    details = row["told"] if judged else row["details"]
    attempt = {
        **{name: row[name] for name in MADE},
        "spent": row["charged"] if judged else row["spent"],
        "details": loaded(details, dict, f"an attempt of {row['id']}") if details else {},
        "verdict": None if row["value"] is None else {name: row[name] for name in VERDICT},
    }
    return cast(AttemptData, attempt)


def _decision(row: Row) -> DecisionData:
    decision: Any = {name: row[name] for name in DECISION}
    return cast(
        DecisionData,
        {
            **decision,
            "reason": row["reason"] or "",
            "candidates": loaded(row["candidates"], list, f"decision {row['id']}"),
            "measured": bool(row["measured"]),
            "once": loaded(row["once"] or "{}", dict, f"decision {row['id']}"),
        },
    )


def _call(row: Row) -> dict[str, Any]:
    call = {name: row[name] for name in ("id", "purpose", *SPENT)}
    tokens = row["prompt_tokens"] + row["completion_tokens"] + row["scored_tokens"]
    return {**call, "tokens": tokens}
