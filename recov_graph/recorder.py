"""Writing what the graph does into the trace store, row by row, as it happens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from recov_graph.attempts import SAMPLE, failed_samples
from recov_graph.problem import Problem
from recov_graph.rollout import Rollout, Usage
from recov_graph.rollout_features import ROLLOUT_FEATURE_VERSION, RolloutFeatures
from recov_graph.routing.decision import Router
from recov_graph.routing.policy import ROUTER_VERSION
from recov_graph.signals import FEATURE_VERSION
from recov_graph.state import AttemptData, DecisionData, RecoveryState
from recov_graph.store.blobs import pack, pack_topk
from recov_graph.store.progress import kept_rollouts
from recov_graph.store.rules import AGAIN
from recov_graph.store.traces import TraceStore, now
from recov_graph.trace import Trace
from recov_graph.version import __version__


@dataclass(frozen=True, slots=True)
class RunStart:
    """A run that can be gone on with: what is stored of it is enough to take it up again.

    Attributes:
        id: of the run in the store.
        name: gives the id that a problem of the run is stored under, the same whenever asked.
        settings: how the run was begun, as JSON: who goes on with it has to ask for the same.
        planned: how many problems it has.
        started_at: when it was begun, where that was before.
    """

    id: str
    name: Callable[[Problem], str]
    settings: str
    planned: int
    started_at: str | None = None


class Recorder:
    """One run of the store; does nothing where there is no store.

    Args:
        store: where to write, or None.
        kind: what the run is: "graph", "demo" or "run".
        model: the model's name.
        verifier: the verifier's name.
        router: whose name and hash every decision is stamped with.
        seed: of the run, if it has one.
        run: which run, where it can be gone on with; by default a new one that cannot.
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
        run: RunStart | None = None,
    ) -> None:
        self.store = store
        self.run_id = run.id if run else uuid4().hex[:12]
        self._start = run
        # What a problem is gone on with is text in another guise.
        self._resumable = run is not None and store is not None and store.store_text == "full"
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
        if run is not None:
            self._run |= {"settings": run.settings, "planned": run.planned}
            if run.started_at is not None:
                self._run["started_at"] = run.started_at

    def id_of(self, problem: Problem) -> str | None:
        """The id that a problem is stored under, where that is known before it is taken up."""
        return None if self._start is None else self._start.name(problem)

    def started(self, recovery_id: str, problem: Problem) -> None:
        """A problem is taken up; its run is entered with the first."""
        row = {
            "id": recovery_id,
            "run_id": self.run_id,
            "key": problem.id,
            "task": problem.task,
            "prompt": problem.prompt,
            "answer": answer_text(problem),
            "started_at": now(),
        }
        self._run.setdefault("started_at", now())
        self._write(runs=[self._run], problems=[row])

    def attempted(
        self,
        recovery_id: str,
        attempts: Iterable[AttemptData],
        calls: Mapping[str, Mapping[str, Any]],
        arrays: Mapping[str, Rollout] | None = None,
    ) -> None:
        """Rollouts were made by calls; `arrays` are those that may yet be measured, by id."""
        attempts = list(attempts)
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
        underway = [_underway(one, (arrays or {}).get(one["id"])) for one in attempts]
        self._paid(
            rollouts=rollouts,
            calls=_call_rows(recovery_id, calls),
            underway=underway if self._resumable else [],
        )

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
        if self.store is not None:
            self.store.write_traces(traces, calls=_call_rows(recovery_id, calls))

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
            # What ended in an error may be gone on with.
            underway=attempts if state["stop_reason"] in AGAIN else [],
        )

    def trace(self, attempt_id: str) -> Trace | None:
        """What was measured on an attempt, if the store kept it."""
        return None if self.store is None else self.store.read_trace(attempt_id)

    def rollouts(self, recovery_id: str) -> dict[str, Rollout]:
        """The rollouts of a problem under way that may yet be measured, if the store kept them."""
        return kept_rollouts(self.store, recovery_id) if self.store and self._resumable else {}

    def _write(self, **tables: list[dict[str, Any]]) -> None:
        if self.store is not None:
            self.store.write(**tables)

    def _paid(self, **tables: list[dict[str, Any]]) -> None:
        if self.store is not None:
            self.store.write_paid(**tables)


def _plain(value: Any) -> Any:
    """Numpy numbers and arrays as plain ones; anything else as its text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def answer_text(problem: Problem) -> str | None:
    """The expected answer as it is stored where texts are."""
    return None if problem.answer is None else json.dumps(problem.answer, default=str)


def _underway(attempt: AttemptData, rollout: Rollout | None) -> dict[str, Any]:
    """What is needed of an attempt until its problem has ended, and is nowhere else."""
    pieces = None if rollout is None else rollout.pieces
    return {
        "id": attempt["id"],
        "spent": attempt["spent"],
        "details": json.dumps(attempt["details"], default=_plain),
        "taken": None if rollout is None else pack(rollout.token_ids),
        "pieces": None if pieces is None else json.dumps(pieces),
        "specialist": None if rollout is None else pack_topk(rollout.specialist),
    }


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
