"""Many problems through one graph, and the figures that sum a batch up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from recov_graph.attempts import SAMPLE
from recov_graph.baseline import RetryAlone, retry_alone
from recov_graph.graph import CompiledGraph
from recov_graph.models.base import Model
from recov_graph.problem import Problem
from recov_graph.store import TraceStore
from recov_graph.verifiers import Verifier

UNROUTED = "not routed"  # failures that the budget left no attempt for


@dataclass(slots=True)
class Batch:
    """Problems with what the graph made of them.

    Attributes:
        results: (problem, the graph's output), in order.
        seconds: wall-clock time of the graph.
        retry: what retry alone did with as many tokens, by problem id, where measured.
        not_reached: problems that a budget over all of them left no samples for.
    """

    results: list[tuple[Problem, dict[str, Any]]] = field(default_factory=list)
    seconds: float = 0.0
    retry: dict[str, RetryAlone] | None = None
    not_reached: int = 0

    @property
    def failed(self) -> list[tuple[Problem, dict[str, Any]]]:
        """Those whose first samples failed: none passed, and at least one could be judged."""
        return [(problem, out) for problem, out in self.results if _first_failed(out)]


def run_batch(
    graph: CompiledGraph,
    problems: Iterable[Problem],
    on_result: Callable[[Batch], None] = lambda batch: None,
) -> Batch:
    """Every problem through the graph, one after the other."""
    batch = Batch()
    started = time.monotonic()
    for problem in problems:
        output = graph.invoke({"problem": problem.model_dump()})
        batch.results.append((problem, dict(output)))
        batch.seconds = time.monotonic() - started
        on_result(batch)
    return batch


def compare_with_retry(batch: Batch, model: Model, verifier: Verifier, **settings: Any) -> None:
    """Spend on fresh samples, over all failed problems, what the loop spent after the first ones.

    One pool for all: a pool for each regime would give most tokens to the problems that the loop
    could not rescue, and make retrying look worse than it is.
    """
    batch.retry = retry_alone(
        model,
        verifier,
        [problem for problem, _ in batch.failed],
        tokens=sum(recovery_tokens(output) for _, output in batch.failed),
        **settings,
    )


def keep_retries(batch: Batch, store: TraceStore) -> None:
    """Store what retry alone did, beside the problems it was measured on."""
    if batch.retry is None:
        return
    store.write(
        retries=[
            {
                "id": output["attempts"][0]["id"].rpartition("/")[0],
                "rescued": int(batch.retry[problem.id].rescued),
                "attempts": batch.retry[problem.id].attempts,
                "tokens": batch.retry[problem.id].tokens,
            }
            for problem, output in batch.failed
        ]
    )


def recovery_tokens(output: dict[str, Any]) -> int:
    """Tokens spent on one problem after its first samples: scoring, ancestor and attempts."""
    first = sum(a["spent"] for a in output["attempts"] if a["operator"] == SAMPLE)
    return int(output["usage"]["tokens"] - first)


def summary(batch: Batch) -> dict[str, Any]:
    """The batch in figures, as plain data.

    Problems are solved_first, failed or unjudged (no first sample could be drawn and judged); the
    failed are rescued, stopped, budget_exhausted or errors.
    """
    outputs = [out for _, out in batch.results]
    failed = [out for _, out in batch.failed]
    solved_first = sum(out["solved"] and not out["route"] for out in outputs)
    reasons = [out["stop_reason"] for out in failed]
    recovery = sum(recovery_tokens(out) for out in failed)
    figures: dict[str, Any] = {
        "problems": len(outputs),
        "solved_first": solved_first,
        "failed": len(failed),
        "rescued": sum(out["solved"] for out in failed),
        "stopped": reasons.count("out_of_reach"),
        "budget_exhausted": reasons.count("budget_exhausted"),
        "errors": reasons.count("model_error") + reasons.count("verifier_error"),
        "unjudged": len(outputs) - solved_first - len(failed),
        "by_intervention": _by_intervention(failed),
        "by_regime": {
            regime: _regime([out for out in failed if _regime_of(out) == regime])
            for regime in _regimes(batch.failed)
        },
        "not_reached": batch.not_reached,
        "tokens": sum(int(out["usage"]["tokens"]) for out in outputs),
        "recovery_tokens": recovery,
        "seconds": round(batch.seconds, 3),
    }
    if batch.retry is not None:
        for regime, row in figures["by_regime"].items():
            ids = [problem.id for problem, out in batch.failed if _regime_of(out) == regime]
            row["retry_alone"] = _retry([batch.retry[name] for name in ids])
        figures["retry_alone"] = _retry(list(batch.retry.values()))
    return figures


def _regime(outputs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "problems": len(outputs),
        "rescued": sum(out["solved"] for out in outputs),
        "tokens": sum(recovery_tokens(out) for out in outputs),
        "by_intervention": _by_intervention(outputs),
    }


def _by_intervention(outputs: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for attempt in (a for out in outputs for a in out["attempts"] if a["operator"] != SAMPLE):
        row = table.setdefault(attempt["operator"], {"attempts": 0, "rescues": 0, "tokens": 0})
        row["attempts"] += 1
        row["rescues"] += attempt["verdict"] is not None and attempt["verdict"]["value"] == "passed"
        row["tokens"] += attempt["spent"]
    return dict(sorted(table.items(), key=lambda item: -item[1]["attempts"]))


def _retry(outcomes: Sequence[RetryAlone]) -> dict[str, int]:
    return {
        "rescued": sum(outcome.rescued for outcome in outcomes),
        "attempts": sum(outcome.attempts for outcome in outcomes),
        "tokens": sum(outcome.tokens for outcome in outcomes),
    }


def _regimes(failed: Sequence[tuple[Problem, dict[str, Any]]]) -> list[str]:
    return sorted({_regime_of(out) for _, out in failed})


def _regime_of(output: dict[str, Any]) -> str:
    """The regime predicted first: the last one knows how the problem ended."""
    return output["route"][0]["regime"] if output["route"] else UNROUTED


def _first_failed(output: dict[str, Any]) -> bool:
    first = [a["verdict"] for a in output["attempts"] if a["operator"] == SAMPLE]
    values = {verdict["value"] for verdict in first if verdict is not None}
    return "failed" in values and "passed" not in values
