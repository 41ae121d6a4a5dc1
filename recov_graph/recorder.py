"""Writing what the graph does into the trace store, row by row, as it happens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import uuid4

from recov_graph.attempts import SAMPLE, failed_samples
from recov_graph.problem import Problem
from recov_graph.rollout import Usage
from recov_graph.rollout_features import ROLLOUT_FEATURE_VERSION, RolloutFeatures
from recov_graph.routing.decision import Router
from recov_graph.routing.policy import ROUTER_VERSION
from recov_graph.signals import FEATURE_VERSION
from recov_graph.state import AttemptData, DecisionData, RecoveryState
from recov_graph.store.traces import TraceStore, now
from recov_graph.trace import Trace
from recov_graph.version import __version__


class Recorder:
    """One run of the store; does nothing where there is no store.

    Args:
        store: where to write, or None.
        kind: what the run is: "graph", "demo" or "run".
        model: the model's name.
        verifier: the verifier's name.
        router: whose name and hash every decision is stamped with.
        seed: of the run, if it has one.
    """

    def __init__(
        self,
        store: TraceStore | None,
        *,
        kind: str,
        model: str,
        verifier: str,
        router: Router,
        seed: int | None,
    ) -> None:
        self.store = store
        self.run_id = uuid4().hex[:12]
        self._verifier = verifier
        self._run: dict[str, Any] = {
            "id": self.run_id,
            "kind": kind,
            "model": model,
            "verifier": verifier,
            "policy": router.name,
            "policy_hash": router.content_hash,
            "package_version": __version__,
            "feature_version": FEATURE_VERSION,
            "router_version": ROUTER_VERSION,
            "store_text": store.store_text if store else "none",
            "seed": seed,
        }

    def started(self, recovery_id: str, problem: Problem) -> None:
        """A problem is taken up; its run is entered with the first."""
        answer = None if problem.answer is None else json.dumps(problem.answer, default=str)
        row = {
            "id": recovery_id,
            "run_id": self.run_id,
            "key": problem.id,
            "task": problem.task,
            "prompt": problem.prompt,
            "answer": answer,
            "started_at": now(),
        }
        self._run.setdefault("started_at", now())
        self._write(runs=[self._run], problems=[row])

    def attempted(
        self,
        recovery_id: str,
        attempts: Iterable[AttemptData],
        calls: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Rollouts were made by calls."""
        kept = ("id", "position", "operator", "temperature", "seed", "finish_reason", "tokens")
        rollouts = [
            {
                **{name: attempt[name] for name in kept},  # type: ignore[literal-required]
                "problem_id": recovery_id,
                "text": attempt["text"],
                "created_at": now(),
            }
            for attempt in attempts
        ]
        self._write(rollouts=rollouts, calls=_call_rows(recovery_id, calls))

    def judged(self, attempts: Iterable[AttemptData], decision: DecisionData | None) -> None:
        """Attempts were judged; those after a decision are interventions with an outcome."""
        verdicts, interventions = [], []
        for attempt in attempts:
            verdict = attempt["verdict"]
            assert verdict is not None
            verdicts.append({"id": attempt["id"], **verdict, "verifier": self._verifier})
            if decision is not None:
                outcome = "rescued" if verdict["value"] == "passed" else verdict["value"]
                interventions.append(
                    {
                        "id": attempt["id"],
                        "decision_id": decision["id"],
                        "operator": attempt["operator"],
                        "outcome": outcome,
                        "tokens": attempt["spent"],
                        "details": json.dumps(attempt["details"], default=_plain),
                    }
                )
        self._write(verdicts=verdicts, interventions=interventions)

    def measured(
        self,
        recovery_id: str,
        traces: Mapping[str, Trace],
        calls: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Failed rollouts were measured."""
        self._write(calls=_call_rows(recovery_id, calls))
        if self.store is not None:
            self.store.write_traces(traces)

    def told(self, recovery_id: str, features: RolloutFeatures) -> None:
        """What the first samples of a problem told without a model."""
        row = {"id": recovery_id, **features._asdict(), "feature_version": ROLLOUT_FEATURE_VERSION}
        self._write(rollout_features=[row])

    def decided(self, recovery_id: str, decision: DecisionData) -> None:
        """The router chose."""
        row = {
            **decision,
            "problem_id": recovery_id,
            "candidates": json.dumps(decision["candidates"]),
            "measured": int(decision["measured"]),
            "once": json.dumps(decision["once"]),
            "created_at": now(),
        }
        self._write(decisions=[row])

    def finished(self, recovery_id: str, state: RecoveryState, usage: Usage) -> None:
        """The problem ended; what is stored of it is what led there, and nothing else."""
        if self.store is None:
            return
        best = state["best"]
        row = {
            "id": recovery_id,
            "solved": int(state["solved"]),
            "best_rollout": best["id"] if best else None,
            "regime": state["regime"],
            "stop_reason": state["stop_reason"],
            "attempts": len(state["attempts"]),
            **{name: usage.as_dict()[name] for name in SPENT},
            "finished_at": now(),
        }
        attempts = [attempt["id"] for attempt in state["attempts"]]
        features = state["features"] or {}
        measured = [attempt["id"] for attempt in failed_samples(state)]
        traced = measured if "spread" in features else []
        self.store.settle(
            row,
            rollouts=attempts,
            verdicts=attempts,
            interventions=[one["id"] for one in state["attempts"] if one["operator"] != SAMPLE],
            features=traced,
            token_arrays=traced,
            decisions=[decision["id"] for decision in state["route"]],
            calls=state["calls"],
            rollout_features=[recovery_id] if "agreement" in features else [],
        )

    def trace(self, attempt_id: str) -> Trace | None:
        """What was measured on an attempt, if the store kept it."""
        return None if self.store is None else self.store.read_trace(attempt_id)

    def _write(self, **tables: list[dict[str, Any]]) -> None:
        if self.store is not None:
            self.store.write(**tables)


def _plain(value: Any) -> Any:
    """Numpy numbers and arrays as plain ones; anything else as its text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


SPENT = ("prompt_tokens", "completion_tokens", "scored_tokens", "seconds")


def _call_rows(recovery_id: str, calls: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "id": call_id,
            "problem_id": recovery_id,
            "purpose": call["purpose"],
            **{name: call[name] for name in SPENT},
        }
        for call_id, call in calls.items()
    ]
