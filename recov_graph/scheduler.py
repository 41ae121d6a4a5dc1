"""One budget over many problems: each next attempt goes where a rescue is cheapest.

Every problem is a thread of the same graph that pauses before it intervenes. Of all that wait, the
one whose next attempt promises the most rescues per token goes on; problems leave as they end.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from recov_graph.batch import Batch
from recov_graph.errors import InvalidInputError
from recov_graph.graph import CompiledGraph, Graph
from recov_graph.problem import Problem
from recov_graph.state import RecoveryContext

NODE = "intervene"  # what a problem waits before
# Where less is left than this many times an expected attempt, the budget is held call by call.
CLOSE = 8


@dataclass(slots=True)
class Pool:
    """What all problems together may spend.

    Args:
        tokens: in all, first samples and scoring included; None for no limit.
        attempts: rollouts in all, first samples included; None for no limit.
        least_worth: rescues expected per 1,000 tokens below which nothing more is tried.
    """

    tokens: int | None = None
    attempts: int | None = None
    least_worth: float = 0.0

    def __post_init__(self) -> None:
        for name in ("tokens", "attempts"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and value > 0):
                raise InvalidInputError(
                    f"{name} is {value!r}; it must be a whole number above 0, or None"
                )
        if not 0 <= self.least_worth < float("inf"):
            raise InvalidInputError(f"least_worth is {self.least_worth!r}; it must be 0 or more")


@dataclass(slots=True)
class _Open:
    """A problem under way."""

    problem: Problem
    config: RunnableConfig
    output: dict[str, Any]
    tokens: int = 0
    attempts: int = 0

    @property
    def ended(self) -> bool:
        return self.output.get("stop_reason") is not None

    @property
    def next_cost(self) -> int:
        """Tokens that the attempt decided on is expected to cost."""
        decision = self.output["route"][-1]
        costs = {c["operator"]: c["expected_cost"] for c in decision["candidates"]}
        once = decision["once"].get(decision["operator"], 0)
        return int(costs.get(decision["operator"], 0) + once)

    @property
    def worth(self) -> float:
        """Rescues expected per 1,000 tokens of the attempt decided on."""
        expected: float = self.output["route"][-1]["expected_rescue"]
        return 1000 * expected / max(1, self.next_cost)


class Scheduler:
    """Runs problems on one budget.

    Args:
        graph: as `build_recovery_graph` makes it, not compiled; with `open_problems` at least as
            large as the number of problems.
        samples: first samples of each problem, as of the graph.
        pool: what may be spent.
    """

    def __init__(self, graph: Graph, samples: int, pool: Pool) -> None:
        self._saver = InMemorySaver()
        self._graph: CompiledGraph = graph.compile(
            checkpointer=self._saver, interrupt_before=[NODE]
        )
        self._samples, self._pool = samples, pool
        self.tokens = 0
        self.attempts = 0
        self.not_reached: list[Problem] = []

    def run(self, problems: Sequence[Problem]) -> Iterator[tuple[Problem, dict[str, Any]]]:
        """Each problem with the graph's output, as it ends, but those never begun."""
        waiting: list[tuple[float, int, _Open]] = []
        for order, problem in enumerate(problems):
            if self._left(self.attempts, self._pool.attempts) < self._samples or (
                self._left(self.tokens, self._pool.tokens) <= 0
            ):
                self.not_reached = list(problems[order:])
                break
            opened = _Open(problem, {"configurable": {"thread_id": uuid4().hex}}, {})
            self._go_on(opened, {"problem": problem.model_dump()}, expected=0)
            if opened.ended:
                yield self._closed(opened)
            else:
                heapq.heappush(waiting, (-opened.worth, order, opened))
        while waiting and self._may_go_on(waiting[0][2]):
            _, order, best = heapq.heappop(waiting)
            self._go_on(best, None, expected=best.next_cost)
            if best.ended:
                yield self._closed(best)
            else:
                heapq.heappush(waiting, (-best.worth, order, best))
        for _, _, left in sorted(waiting, key=lambda item: item[1]):
            self._end(left)
            yield self._closed(left)

    def _may_go_on(self, best: _Open) -> bool:
        """Whether the best attempt of all is worth its price and within what is left."""
        return (
            best.worth >= self._pool.least_worth
            and self._left(self.attempts, self._pool.attempts) >= 1
            and self._left(self.tokens, self._pool.tokens) > 0
        )

    def _go_on(self, opened: _Open, given: dict[str, Any] | None, *, expected: int) -> None:
        left = self._left(self.tokens, self._pool.tokens)
        limit = None
        # Far from the end nothing is held back: a router plans with the tokens it is told of.
        if left < float("inf") and (given is not None or left < CLOSE * expected):
            limit = max(1, int(opened.tokens + left))
        self._step(opened, given, limit)

    def _end(self, opened: _Open) -> None:
        """End a problem that nothing more is spent on: with no tokens its next call is refused."""
        self._step(opened, None, max(1, opened.tokens))

    def _step(self, opened: _Open, given: Any, limit: int | None) -> None:
        context = RecoveryContext(max_tokens=limit)
        opened.output = dict(self._graph.invoke(given, opened.config, context=context))
        state = self._graph.get_state(opened.config).values
        tokens = sum(int(call["tokens"]) for call in state["calls"].values())
        self.tokens += tokens - opened.tokens
        self.attempts += len(state["attempts"]) - opened.attempts
        opened.tokens, opened.attempts = tokens, len(state["attempts"])

    def _closed(self, opened: _Open) -> tuple[Problem, dict[str, Any]]:
        self._saver.delete_thread(opened.config["configurable"]["thread_id"])
        return opened.problem, opened.output

    def _left(self, spent: int, limit: int | None) -> float:
        return float("inf") if limit is None else limit - spent


def run_pooled(
    graph: Graph,
    problems: Sequence[Problem],
    samples: int,
    pool: Pool,
    on_result: Callable[[Batch], None] = lambda batch: None,
) -> Batch:
    """All problems on one budget; see `Scheduler`."""
    batch = Batch()
    started = time.monotonic()
    scheduler = Scheduler(graph, samples, pool)
    for problem, output in scheduler.run(problems):
        batch.results.append((problem, output))
        batch.seconds = time.monotonic() - started
        on_result(batch)
    batch.not_reached = len(scheduler.not_reached)
    return batch
