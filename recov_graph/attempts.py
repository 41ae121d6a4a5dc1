"""Attempts as data in the graph's state: making them, and picking from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import AIMessage

from recov_graph.rollout import SAMPLE as SAMPLE
from recov_graph.rollout import FinishReason, Rollout
from recov_graph.rollout_features import FailedSample, RolloutFeatures, rollout_features
from recov_graph.state import AttemptData, RecoveryOutput, RecoveryState

NO_ANSWER = "No answer was found."
ORDER = {"passed": 2, "unscored": 1, "failed": 0}


def new_attempt(
    recovery_id: str,
    position: int,
    operator: str,
    rollout: Rollout,
    *,
    temperature: float,
    seed: int,
    spent: int,
    details: dict[str, Any] | None = None,
) -> AttemptData:
    """A rollout that is not judged yet; the same id whenever a node is run again."""
    return {
        "id": f"{recovery_id}/{position}",
        "position": position,
        "operator": operator,
        "temperature": temperature,
        "seed": seed,
        "text": rollout.text,
        "finish_reason": rollout.finish_reason,
        "tokens": len(rollout),
        "spent": spent,
        "details": details or {},
        "verdict": None,
    }


def paid_for(state: RecoveryState, calls: Mapping[str, Any]) -> int:
    """Tokens of an attempt that is made now: those of its own calls, scoring before it included.

    A process that died may have paid for that scoring: then there are features that there were none
    of when the attempt was decided on.
    """
    own = sum(call["tokens"] for call in calls.values())
    if state["features"] is None or state["route"][-1]["measured"]:
        return int(own)
    scored = (call for call in state["calls"].values() if call["purpose"] == "score")
    return int(own + sum(call["tokens"] for call in scored))


def shares(total: int, parts: int) -> list[int]:
    """A whole number as even whole parts that add up to it."""
    each, rest = divmod(total, parts)
    return [each + (i < rest) for i in range(parts)]


def value_of(attempt: AttemptData) -> str | None:
    """The verdict's value, None before it is judged."""
    return attempt["verdict"]["value"] if attempt["verdict"] else None


def failed_samples(state: RecoveryState) -> list[AttemptData]:
    """The first rollouts that failed."""
    return [
        attempt
        for attempt in state["attempts"]
        if attempt["operator"] == SAMPLE and value_of(attempt) == "failed"
    ]


def features_of_samples(attempts: Sequence[AttemptData]) -> RolloutFeatures:
    """What the first rollouts among judged attempts tell without a model.

    Raises:
        InvalidInputError: none of them failed.
    """
    samples = [attempt for attempt in attempts if attempt["operator"] == SAMPLE]
    failed = [
        FailedSample(
            answer_of(sample) or sample["text"],
            cast(FinishReason, sample["finish_reason"]),
            sample["tokens"],
        )
        for sample in samples
        if value_of(sample) == "failed"
    ]
    return rollout_features(failed, len(samples))


def best_attempt(attempts: Sequence[AttemptData]) -> AttemptData | None:
    """The attempt that passed, else the unscored before the failed, by score, then the first."""

    def worth(attempt: AttemptData) -> tuple[float, ...]:
        verdict = attempt["verdict"]
        judged = (ORDER[verdict["value"]], verdict["score"] or 0.0) if verdict else (-1, 0.0)
        return (*judged, attempt["finish_reason"] == "stop", -attempt["position"])

    return max(attempts, key=worth, default=None)


def answer_of(attempt: AttemptData | None) -> str | None:
    """What the verifier extracted, else the attempt's text."""
    if attempt is None:
        return None
    verdict = attempt["verdict"]
    return verdict["answer"] if verdict and verdict["answer"] is not None else attempt["text"]


def mark_of(result: RecoveryState | RecoveryOutput) -> dict[str, Any]:
    """What an AI message says of the recovery it came from, among its `additional_kwargs`."""
    best = result["best"]
    return {
        "solved": result["solved"],
        "verdict": value_of(best) if best else None,
        "stop_reason": result["stop_reason"],
        "attempts": len(result["attempts"]),
        "operator": best["operator"] if best else None,
    }


def answer_message(result: RecoveryState, recovery_id: str, said: str) -> AIMessage:
    """What a chat is answered, marked; `said` where there is no answer."""
    text = answer_of(result["best"]) or said or NO_ANSWER
    mark = {"recovery": mark_of(result)}
    return AIMessage(text, id=f"{recovery_id}/answer", additional_kwargs=mark)


def attempt_event(attempt: AttemptData) -> dict[str, Any]:
    """What is streamed of a judged attempt."""
    return {
        "type": "attempt",
        "position": attempt["position"],
        "operator": attempt["operator"],
        "text": attempt["text"],
        "verdict": attempt["verdict"],
        "spent": attempt["spent"],
    }
