"""Many problems through one graph: what is kept of them, and retry alone measured beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from recov_graph.baseline import RetryAlone, retry_alone
from recov_graph.figures import (
    Figures,
    Output,
    first_failed,
    recovery_tokens,
    regime_of,
    retry_figures,
)
from recov_graph.graph import CompiledGraph
from recov_graph.models.base import Model
from recov_graph.problem import Problem
from recov_graph.store import TraceStore
from recov_graph.verifiers import Verifier

Keep = Literal["results", "failures", "figures"]


class FailedProblem(NamedTuple):
    """A problem whose first samples failed: its id in the store, regime and recovery tokens."""

    order: int
    problem: Problem
    id: str
    regime: str
    tokens: int


@dataclass(slots=True)
class Batch:
    """What the graph made of problems.

    Args:
        keep: what is kept of each: "results", all of it; "failures", what is needed to measure
            retry alone beside them; "figures", nothing but the sums, whatever their number.

    Attributes:
        figures: the sums over all.
        results: (problem, the graph's output), as they ended.
        failures: those whose first samples failed.
        seconds: wall-clock time of the graph.
        retry: what retry alone did with as many tokens, by problem id, where measured.
        not_reached: problems that a budget over all of them left no samples for.
        example: the problem to look at first: a rescued one, else a failed one, else any.
    """

    keep: Keep = "results"
    figures: Figures = field(default_factory=Figures)
    results: list[tuple[Problem, dict[str, Any]]] = field(default_factory=list)
    failures: list[FailedProblem] = field(default_factory=list)
    seconds: float = 0.0
    retry: dict[str, RetryAlone] | None = None
    not_reached: int = 0
    example: str | None = None
    _worth: int = -1

    def add(self, problem: Problem, output: Output, order: int | None = None) -> None:
        """A problem has ended so; `order` is its place among all, by default as they end."""
        self.figures.add(output)
        worth = 2 * bool(output["route"]) + bool(output["solved"])
        if worth > self._worth:
            self.example, self._worth = problem.id, worth
        if self.keep == "results":
            self.results.append((problem, dict(output)))
        if self.keep != "figures" and first_failed(output):
            name = output["attempts"][0]["id"].rpartition("/")[0]
            place = self.figures.problems if order is None else order
            regime, tokens = regime_of(output), recovery_tokens(output)
            self.failures.append(FailedProblem(place, problem, name, regime, tokens))

    @property
    def failed(self) -> list[tuple[Problem, dict[str, Any]]]:
        """Of the results, those whose first samples failed."""
        return [(problem, out) for problem, out in self.results if first_failed(out)]


def run_batch(
    graph: CompiledGraph,
    problems: Iterable[Problem],
    on_result: Callable[[Batch], None] = lambda batch: None,
) -> Batch:
    """Every problem through the graph, one after the other."""
    batch = Batch()
    started = time.monotonic()
    for problem in problems:
        batch.add(problem, graph.invoke({"problem": problem.model_dump()}))
        batch.seconds = time.monotonic() - started
        on_result(batch)
    return batch


def compare_with_retry(batch: Batch, model: Model, verifier: Verifier, **settings: Any) -> None:
    """Spend on fresh samples, over all failed problems, what the loop spent after the first ones.

    One pool for all: a pool for each regime would give most tokens to the problems that the loop
    could not rescue, and make retrying look worse than it is.
    """
    batch.failures.sort(key=lambda failed: failed.order)  # however many went side by side
    batch.retry = retry_alone(
        model,
        verifier,
        [failed.problem for failed in batch.failures],
        tokens=sum(failed.tokens for failed in batch.failures),
        **settings,
    )


def keep_retries(batch: Batch, store: TraceStore) -> None:
    """Store what retry alone did, beside the problems it was measured on."""
    if batch.retry is None:
        return
    store.write_paid(
        retries=[
            {
                "id": failed.id,
                "rescued": int(batch.retry[failed.problem.id].rescued),
                "attempts": batch.retry[failed.problem.id].attempts,
                "tokens": batch.retry[failed.problem.id].tokens,
            }
            for failed in batch.failures
        ]
    )


def summary(batch: Batch) -> dict[str, Any]:
    """The batch in figures, as plain data; see `Figures.as_data`."""
    figures = {
        **batch.figures.as_data(),
        "not_reached": batch.not_reached,
        "seconds": round(batch.seconds, 3),
    }
    if batch.retry is not None:
        for regime, row in figures["by_regime"].items():
            ids = [failed.problem.id for failed in batch.failures if failed.regime == regime]
            row["retry_alone"] = retry_figures([batch.retry[name] for name in ids])
        figures["retry_alone"] = retry_figures(list(batch.retry.values()))
    return figures
