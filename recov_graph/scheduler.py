"""One budget over many problems: each next attempt goes where a rescue is cheapest.

Every problem is a thread of the same graph that pauses before it intervenes. Of all that wait, the
one whose next attempt promises the most rescues per token goes on; problems leave as they end.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from recov_graph.batch import Batch
from recov_graph.context import RecoveryContext
from recov_graph.errors import InvalidInputError
from recov_graph.graph import CompiledGraph, Graph
from recov_graph.problem import Problem
from recov_graph.state import RecoveryState
from recov_graph.words import short

# What a problem stops before: what a decision is told differs from what a call may spend.
STOPS = ("classify", "intervene")
# Where less is left than this many times an attempt so far, a router is told how much it is.
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
                    f"{name} is {short(value)}; it must be a whole number above 0, or None"
                )
        worth = self.least_worth
        number = isinstance(worth, int | float) and not isinstance(worth, bool)
        if not (number and 0 <= worth < float("inf")):
            raise InvalidInputError(f"least_worth is {short(worth)}; it must be 0 or more")


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
    def mean_cost(self) -> float:
        """Tokens that an attempt has cost so far."""
        return self.tokens / max(1, self.attempts)

    @property
    def worth(self) -> float:
        """Rescues expected per 1,000 tokens of the attempt decided on."""
        decision = self.output["route"][-1]
        costs = {c["operator"]: c["expected_cost"] for c in decision["candidates"]}
        # A router of someone's own need not list candidates.
        cost = costs.get(decision["operator"], self.mean_cost)
        cost += decision["once"].get(decision["operator"], 0)
        return float(1000 * decision["expected_rescue"] / max(1, cost))


class Found(NamedTuple):
    """What is known of a problem from before: its output, or its state and the node it is after."""

    output: dict[str, Any] | None = None
    half_done: tuple[RecoveryState, str] | None = None


def nothing_found(order: int, problem: Problem) -> Found:
    """Every problem is new."""
    return Found()


class Scheduler:
    """Runs problems on one budget.

    Args:
        graph: as `build_recovery_graph` makes it, not compiled; with `open_problems` at least as
            large as the number of problems.
        samples: first samples of each problem, as of the graph.
        pool: what may be spent.
        max_tokens: what each problem may spend, as of the graph's budget.
        found: what is known of a problem from before, by its place among all and itself. What was
            spent on it then counts.

    Attributes:
        tokens, attempts: spent on all.
        not_reached: problems that nothing was left for.
        stopped: whether it was told to stop, and problems were left as they were.
    """

    def __init__(
        self,
        graph: Graph,
        samples: int,
        pool: Pool,
        *,
        max_tokens: int | None = None,
        found: Callable[[int, Problem], Found] = nothing_found,
    ) -> None:
        self._saver = InMemorySaver()
        self._graph: CompiledGraph = graph.compile(
            checkpointer=self._saver, interrupt_before=list(STOPS)
        )
        self._samples, self._pool = samples, pool
        self._each = float("inf") if max_tokens is None else max_tokens
        self.tokens = 0
        self.attempts = 0
        self.not_reached: list[Problem] = []
        self.stopped = False
        self._found = found

    def stop(self) -> None:
        """Leave all problems as they are once the present step is stored."""
        self.stopped = True

    def run(self, problems: Sequence[Problem]) -> Iterator[tuple[Problem, dict[str, Any]]]:
        """Each problem with the graph's output, as it ends, but those never begun."""
        known = [self._found(order, problem) for order, problem in enumerate(problems)]
        for problem, found in zip(problems, known, strict=True):
            self._count_found(found)
            if found.output is not None:
                yield problem, found.output
        # What is left is known once all of it is counted.
        refused = any(found.output and self._refused(found.output) for found in known)
        waiting: list[tuple[float, int, _Open]] = []
        for order, (problem, found) in enumerate(zip(problems, known, strict=True)):
            if found.output is not None:
                continue
            if self.stopped:
                return
            nothing_left = refused or self._attempts_left < self._samples or self._tokens_left <= 0
            if found.half_done is None and nothing_left:
                self.not_reached.append(problem)
                continue
            opened = _Open(problem, {"configurable": {"thread_id": uuid4().hex}}, {})
            if found.half_done is not None:
                self._take_up(opened, *found.half_done)
            else:
                self._go_on(opened, {"problem": problem.model_dump()})
            if opened.ended:
                yield self._closed(opened)
                refused = refused or self._refused(opened.output)
            else:
                heapq.heappush(waiting, (-opened.worth, order, opened))
        if self.stopped:
            return
        while waiting and self._may_go_on(waiting[0][2]):
            _, order, best = heapq.heappop(waiting)
            self._go_on(best, None)
            if best.ended:
                yield self._closed(best)
            else:
                heapq.heappush(waiting, (-best.worth, order, best))
            if self.stopped:
                return
        for _, _, left in sorted(waiting, key=lambda item: item[1]):
            self._end(left)
            yield self._closed(left)

    def _may_go_on(self, best: _Open) -> bool:
        """Whether the best attempt of all is worth its price and within what is left."""
        return (
            best.worth >= self._pool.least_worth
            and self._attempts_left >= 1
            and self._tokens_left > 0
        )

    def _refused(self, output: dict[str, Any]) -> bool:
        """Whether too few tokens were left of all to sample a problem, and the next, even once."""
        over = output["stop_reason"] == "budget_exhausted" and not output["attempts"]
        return over and self._tokens_left < self._each

    def _go_on(self, opened: _Open, given: dict[str, Any] | None) -> None:
        """Make the attempt decided on, or the first ones, and decide on the next."""
        self._step(opened, given, RecoveryContext(max_tokens=self._limit(opened)))
        if not opened.ended:
            self._decide(opened)

    def _decide(self, opened: _Open) -> None:
        # A router plans with the tokens it is told of, so far from the end it is told of none.
        close = self._tokens_left < CLOSE * opened.mean_cost
        limit = self._limit(opened) if close else None
        self._step(opened, None, RecoveryContext(max_tokens=limit))

    def _count_found(self, found: Found) -> None:
        """Charge to all what was spent on a problem before."""
        if found.output is not None:
            self.tokens += found.output["usage"]["tokens"]
            self.attempts += len(found.output["attempts"])
        elif found.half_done is not None:
            state, _ = found.half_done
            self.tokens += sum(int(call["tokens"]) for call in state["calls"].values())
            self.attempts += len(state["attempts"])

    def _take_up(self, opened: _Open, state: RecoveryState, node: str) -> None:
        """Go on with a problem from before, whose cost is counted, up to its next attempt."""
        self._graph.update_state(opened.config, state, as_node=node)
        opened.tokens = sum(int(call["tokens"]) for call in state["calls"].values())
        opened.attempts = len(state["attempts"])
        opened.output = dict(state)
        while not opened.ended:
            (following,) = self._graph.get_state(opened.config).next
            if following == "intervene":
                break
            if following == "classify":
                self._decide(opened)
            else:
                self._step(opened, None, RecoveryContext(max_tokens=self._limit(opened)))

    def _end(self, opened: _Open) -> None:
        """End a problem that nothing more is spent on: asked anew, it has no attempts left."""
        features = {"features": opened.output["features"]}
        self._graph.update_state(opened.config, features, as_node="featurize")
        self._step(opened, None, RecoveryContext(max_attempts=opened.attempts))

    def _step(self, opened: _Open, given: Any, context: RecoveryContext) -> None:
        output = self._graph.invoke(given, opened.config, context=context)
        if output.get("__interrupt__"):
            raise InvalidInputError(
                f"problem {opened.problem.id!r} waits for an answer, which problems on one budget "
                "cannot; run it without a total"
            )
        opened.output = dict(output)
        self._count(opened)

    def _count(self, opened: _Open) -> None:
        """Charge to all what the problem has spent since."""
        state = self._graph.get_state(opened.config).values
        tokens = sum(int(call["tokens"]) for call in state["calls"].values())
        self.tokens += tokens - opened.tokens
        self.attempts += len(state["attempts"]) - opened.attempts
        opened.tokens, opened.attempts = tokens, len(state["attempts"])

    def _closed(self, opened: _Open) -> tuple[Problem, dict[str, Any]]:
        self._saver.delete_thread(opened.config["configurable"]["thread_id"])
        return opened.problem, opened.output

    def _limit(self, opened: _Open) -> int | None:
        """Tokens that a problem may have spent at most after its next call; None for any."""
        limit = min(self._each, opened.tokens + self._tokens_left)
        return None if limit == float("inf") else max(1, int(limit))

    @property
    def _tokens_left(self) -> float:
        return float("inf") if self._pool.tokens is None else self._pool.tokens - self.tokens

    @property
    def _attempts_left(self) -> float:
        limit = self._pool.attempts
        return float("inf") if limit is None else limit - self.attempts


def run_pooled(
    graph: Graph,
    problems: Sequence[Problem],
    samples: int,
    pool: Pool,
    on_result: Callable[[Batch], None] = lambda batch: None,
    *,
    max_tokens: int | None = None,
) -> Batch:
    """All problems on one budget; see `Scheduler`."""
    batch = Batch()
    started = time.monotonic()
    scheduler = Scheduler(graph, samples, pool, max_tokens=max_tokens)
    for problem, output in scheduler.run(problems):
        batch.add(problem, output)
        batch.seconds = time.monotonic() - started
        on_result(batch)
    batch.not_reached = len(scheduler.not_reached)
    return batch
