"""Runs written straight into a trace store, with every number of one's own choice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from recov_graph.signals import FEATURE_VERSION
from recov_graph.store import TraceStore

SPENT = {"prompt_tokens": 0, "completion_tokens": 0, "scored_tokens": 0, "seconds": 0.0}


class StoredRun:
    """One run of a store; problems are added with what was tried on them.

    Args:
        store: where it is written.
        name: the run's id, and what the ids of its problems begin with.
    """

    def __init__(
        self,
        store: TraceStore,
        name: str = "run1",
        *,
        kind: str = "run",
        model: str = "scripted",
        policy_hash: str = "0" * 16,
        started_at: str = "2026-01-01T00:00:00.000+00:00",
    ) -> None:
        self.store, self.name = store, name
        self.problems = 0
        store.write(
            runs=[
                {
                    "id": name,
                    "kind": kind,
                    "model": model,
                    "verifier": "exact",
                    "policy": "made-up",
                    "policy_hash": policy_hash,
                    "package_version": "0",
                    "feature_version": FEATURE_VERSION,
                    "router_version": 1,
                    "store_text": store.store_text,
                    "seed": 0,
                    "started_at": started_at,
                }
            ]
        )

    def problem(
        self,
        *,
        samples: str = "ffff",
        tried: Sequence[tuple[str, str, int]] = (),
        expected: Sequence[float] = (),
        regime: str = "sampling",
        ended: str | None = None,
        stop_chance: float = 0.01,
        features: tuple[float, float, float] | None = None,
        retry: tuple[bool, int] | None = None,
        key: str | None = None,
        task: str = "task",
        sample_tokens: int = 100,
        prompt: str = "prompt",
        texts: Sequence[str] = (),
    ) -> str:
        """Add a problem; its id comes back.

        Args:
            samples: the verdicts of its first samples: p, f or u a sample.
            tried: (operator, outcome, tokens) of each intervention.
            expected: the rescue that each of them was expected to bring; by default 0.1.
            ended: its stop reason; by default as its attempts say. "" for one under way.
            features: of each of its failed samples.
            retry: whether retry alone rescued it, and with how many tokens.
            texts: of the attempts, in order; by default all the same.
        """
        name = f"{self.name}-{self.problems:05d}"
        at = f"2026-01-01T{self.problems // 3600:02d}:{self.problems // 60 % 60:02d}"
        at += f":{self.problems % 60:02d}.000+00:00"
        self.problems += 1
        verdicts = [{"p": "passed", "f": "failed", "u": "unscored"}[one] for one in samples]
        outcomes = [outcome for _, outcome, _ in tried]
        solved = "passed" in verdicts or "rescued" in outcomes
        reason = ended if ended is not None else "solved" if solved else "out_of_reach"
        rows: dict[str, list[dict[str, Any]]] = {
            "problems": [
                {
                    "id": name,
                    "run_id": self.name,
                    "key": key or name,
                    "task": task,
                    "prompt": prompt,
                    "answer": json.dumps("right"),
                    "started_at": at,
                }
            ],
            "calls": [
                {**SPENT, "id": f"{name}/call0", "problem_id": name, "purpose": "sample"}
                | {"completion_tokens": sample_tokens}
            ],
            "rollouts": [],
            "verdicts": [],
            "features": [],
            "decisions": [],
            "interventions": [],
            "retries": [],
            "outcomes": [],
        }
        said = [*texts, *[f"text {i}" for i in range(len(texts), len(verdicts) + len(tried))]]
        for position, verdict in enumerate(verdicts):
            rows["rollouts"].append(self._rollout(name, position, "sample", said[position], at))
            rows["verdicts"].append(_verdict(name, position, verdict))
            if features is not None and verdict == "failed":
                spread, concentration, dispersion = features
                rows["features"].append(
                    {
                        "id": f"{name}/{position}",
                        "junction": 1,
                        "spread": spread,
                        "concentration": concentration,
                        "logit_dispersion": dispersion,
                        "feature_version": FEATURE_VERSION,
                    }
                )
        chances = [*expected, *[0.1] * (len(tried) - len(expected))]
        for step, ((operator, outcome, tokens), chance) in enumerate(
            zip(tried, chances, strict=True)
        ):
            position = len(verdicts) + step
            rows["decisions"].append(_decision(name, step, operator, chance, regime, at))
            rows["rollouts"].append(self._rollout(name, position, operator, said[position], at))
            rows["verdicts"].append(
                _verdict(name, position, "passed" if outcome == "rescued" else outcome)
            )
            rows["interventions"].append(
                {
                    "id": f"{name}/{position}",
                    "decision_id": f"{name}/decision{step}",
                    "operator": operator,
                    "outcome": outcome,
                    "tokens": tokens,
                    "details": "{}",
                }
            )
            rows["calls"].append(
                {**SPENT, "id": f"{name}/call{step + 1}", "problem_id": name, "purpose": "steer"}
                | {"completion_tokens": tokens}
            )
        if reason == "out_of_reach":
            rows["decisions"].append(_decision(name, len(tried), None, stop_chance, regime, at))
        if retry is not None:
            rescued, tokens = retry
            rows["retries"].append(
                {"id": name, "rescued": int(rescued), "attempts": 1, "tokens": tokens}
            )
        if reason:
            spent = sample_tokens + sum(tokens for _, _, tokens in tried)
            rows["outcomes"].append(
                {
                    **SPENT,
                    "id": name,
                    "solved": int(solved),
                    "best_rollout": f"{name}/0",
                    "regime": regime,
                    "stop_reason": reason,
                    "attempts": len(verdicts) + len(tried),
                    "completion_tokens": spent,
                    "finished_at": at,
                }
            )
        self.store.write(**rows)
        return name

    def _rollout(
        self, problem: str, position: int, operator: str, text: str, at: str
    ) -> dict[str, Any]:
        return {
            "id": f"{problem}/{position}",
            "problem_id": problem,
            "position": position,
            "operator": operator,
            "temperature": 0.6,
            "seed": 0,
            "finish_reason": "stop",
            "tokens": 25,
            "text": text,
            "created_at": at,
        }


def _verdict(problem: str, position: int, value: str) -> dict[str, Any]:
    return {
        "id": f"{problem}/{position}",
        "value": value,
        "score": float(value == "passed"),
        "answer": "wrong",
        "explanation": "differs",
        "verifier": "exact",
    }


def _decision(
    problem: str, step: int, operator: str | None, expected: float, regime: str, at: str
) -> dict[str, Any]:
    return {
        "id": f"{problem}/decision{step}",
        "problem_id": problem,
        "step": step,
        "regime": regime,
        "operator": operator,
        "probability": 1.0,
        "expected_rescue": expected,
        "candidates": "[]",
        "reason": "made up",
        "policy": "made-up",
        "policy_hash": "0" * 16,
        "created_at": at,
        "attempts_left": 8 - step,
        "tokens_left": None,
        "measured": 1,
        "once": "{}",
    }
