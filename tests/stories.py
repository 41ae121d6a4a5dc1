"""A stored failure written by hand, so that everything shown of it is known beforehand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from recov_graph.features import TraceFeatures
from recov_graph.rollout import Rollout
from recov_graph.signals import TokenSignals
from recov_graph.store import TraceStore
from recov_graph.trace import Trace

RUN = "run0"
STARTED = "2026-01-01T00:00:00.000+00:00"
ENDED = "2026-01-01T00:01:00.000+00:00"


def trace(text: str, junction: int, pieces: Sequence[str] | None, length: int) -> Trace:
    """J is 0.01 everywhere and 6 at the junction."""
    j = np.full(length, 0.01)
    j[junction] = 6.0
    zeros = np.zeros(length)
    return Trace(
        Rollout(
            text,
            np.arange(length, dtype=np.int32),
            "stop",
            pieces=None if pieces is None else tuple(pieces),
        ),
        TokenSignals(j, zeros, zeros, zeros, zeros, j),
        TraceFeatures(junction, 1.0, 1.0, 0.0),
    )


def add_run(store: TraceStore, run_id: str = RUN, **changes: Any) -> None:
    row = {
        "id": run_id,
        "kind": "run",
        "model": "model",
        "verifier": "exact",
        "policy": "policy",
        "policy_hash": "hash",
        "package_version": "0",
        "feature_version": 1,
        "router_version": 1,
        "store_text": store.store_text,
        "seed": 0,
        "started_at": STARTED,
    }
    store.write(runs=[{**row, **changes}])


def add_problem(store: TraceStore, name: str, run_id: str = RUN, **changes: Any) -> None:
    row = {
        "id": name,
        "run_id": run_id,
        "key": name,
        "task": "task",
        "prompt": f"prompt of {name}",
        "answer": '"12"',
        "started_at": STARTED,
    }
    store.write(problems=[{**row, **changes}])


def add_attempt(
    store: TraceStore,
    problem: str,
    position: int,
    text: str,
    operator: str = "sample",
    *,
    passed: bool = False,
    step: int = 0,
    details: Any = None,
    explanation: str = "expected 12",
) -> str:
    """A rollout with its verdict and, where it is no sample, its decision and outcome."""
    name = f"{problem}/{position}"
    value = "passed" if passed else "failed"
    tables: dict[str, list[dict[str, Any]]] = {
        "rollouts": [
            {
                "id": name,
                "problem_id": problem,
                "position": position,
                "operator": operator,
                "temperature": 0.6,
                "seed": 0,
                "finish_reason": "stop",
                "tokens": max(1, len(text)),
                "text": text,
                "created_at": STARTED,
            }
        ],
        "verdicts": [
            {
                "id": name,
                "value": value,
                "score": float(passed),
                "answer": text,
                "explanation": explanation,
                "verifier": "exact",
            }
        ],
    }
    if operator != "sample":
        decision = f"{problem}/decision{step}"
        add_decision(store, problem, operator, step)
        tables["interventions"] = [
            {
                "id": name,
                "decision_id": decision,
                "operator": operator,
                "outcome": "rescued" if passed else "failed",
                "tokens": 50,
                "details": json.dumps(details or {}),
            }
        ]
    store.write(**tables)
    return name


def add_decision(store: TraceStore, problem: str, operator: str | None, step: int) -> None:
    row = {
        "id": f"{problem}/decision{step}",
        "problem_id": problem,
        "step": step,
        "regime": "steerable_hard",
        "operator": operator,
        "probability": 1.0,
        "expected_rescue": 0.25,
        "candidates": json.dumps([{"operator": "retry", "expected_rescue": 0.125}]),
        "reason": f"because of step {step}",
        "policy": "policy",
        "policy_hash": "hash",
        "created_at": STARTED,
    }
    store.write(decisions=[row])


def end(store: TraceStore, problem: str, reason: str, *, routed: bool = True) -> None:
    row = {
        "id": problem,
        "solved": int(reason == "solved"),
        "best_rollout": None,
        "regime": "steerable_hard" if routed else None,
        "stop_reason": reason,
        "attempts": 4,
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "scored_tokens": 3,
        "seconds": 1.0,
        "finished_at": ENDED,
    }
    call = {name: row[name] for name in ("prompt_tokens", "completion_tokens", "scored_tokens")}
    calls = [{"id": f"{problem}/c", "problem_id": problem, "purpose": "p", "seconds": 1.0, **call}]
    store.write(outcomes=[row], calls=calls)


def hard(store: TraceStore, name: str = "hard") -> None:
    """Two measured failures, "x=1;A:13" and "x=2;A:14", and three interventions, one a rescue."""
    add_problem(store, name)
    for position, text in enumerate(("x=1;A:13", "x=2;A:14")):
        rollout = add_attempt(store, name, position, text)
        pieces = [*text, ""]  # one token a character, and the one that ends it
        store.write_traces({rollout: trace(text, 2, pieces, len(pieces))})
    replay = {"anchor": "replay", "position": 2}
    add_attempt(store, name, 2, "x=9;A:99", "sparse_steer", step=0, details=replay)
    add_attempt(store, name, 3, "A:77", "dense_steer", step=1, details={"mode": "path"})
    last = {"anchor": "replay", "position": 7}
    add_attempt(store, name, 4, "x=2;A:12", "local_temp", step=3, details=last, passed=True)
    end(store, name, "solved")
    store.write(retries=[{"id": name, "rescued": 0, "attempts": 3, "tokens": 90}])
