"""Problems through one graph, several at a time, until all have ended or it is told to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from recov_graph.errors import InvalidInputError
from recov_graph.graph import Graph
from recov_graph.problem import Problem
from recov_graph.resuming import half_done
from recov_graph.runs import LOOK_UP, ProblemIds, stored_outputs
from recov_graph.store import TraceStore

Output = dict[str, Any]


class Ran(NamedTuple):
    """A problem that has ended: its place among all, itself, and the graph's output.

    Of one that had ended before, the output has no texts: see `runs.stored_outputs`.
    """

    order: int
    problem: Problem
    output: Output


class Runner:
    """Runs problems; thread-safe in that `stop` may be called from anywhere.

    Args:
        graph: as `build_recovery_graph` makes it, not compiled, with `ids` as its `run.name`.
        store: where it stores.
        ids: under which ids problems are stored.
        concurrency: problems under way at a time.
        resume: whether some may have been begun, or have ended, before.
        on_end: called with a problem and its output where it ended just now, from any thread.
    """

    def __init__(
        self,
        graph: Graph,
        store: TraceStore,
        ids: ProblemIds,
        *,
        concurrency: int = 1,
        resume: bool = False,
        on_end: Callable[[Problem, Output], object] = lambda problem, output: None,
    ) -> None:
        if concurrency < 1:
            raise InvalidInputError(f"concurrency is {concurrency}; it must be at least 1")
        self._graph = graph.compile()
        self._saver = InMemorySaver()
        self._threads = graph.compile(checkpointer=self._saver) if resume else None
        self._store, self._ids, self._on_end = store, ids, on_end
        self._concurrency = concurrency
        self._stopping = threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Begin no further problem, and leave those under way once their present step is stored."""
        self._stopping.set()

    def run(self, problems: Iterable[tuple[int, Problem]]) -> Iterator[Ran]:
        """Each problem as it ends, with those that had ended before.

        Raises:
            StoreError: what was made cannot be stored; nothing further is begun.
        """
        waiting: dict[Future[Output | None], tuple[int, Problem]] = {}
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="recov-graph")
        try:
            for order, problem, before in self._looked_up(problems):
                if self.stopped:
                    break
                if before is not None:
                    self._ids.forget(problem)
                    yield Ran(order, problem, before)
                    continue
                waiting[pool.submit(self._one, problem)] = (order, problem)
                while len(waiting) >= self._concurrency:
                    yield from self._ended(waiting)
            while waiting:
                yield from self._ended(waiting)
        except BaseException:
            self.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _looked_up(
        self, problems: Iterable[tuple[int, Problem]]
    ) -> Iterator[tuple[int, Problem, Output | None]]:
        """Problems under the ids they are stored by, and how those ended that had ended before."""
        every = iter(problems)
        while some := list(islice(every, LOOK_UP if self._threads else 1)):
            names = {problem.id: self._ids.register(problem, order) for order, problem in some}
            ended: dict[str, Output] = {}
            if self._threads:
                asked = {names[problem.id]: problem for _, problem in some}
                ended = stored_outputs(self._store, asked)
            for order, problem in some:
                yield order, problem, ended.get(names[problem.id])

    def _ended(self, waiting: dict[Future[Output | None], tuple[int, Problem]]) -> Iterator[Ran]:
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            order, problem = waiting.pop(future)
            self._ids.forget(problem)
            output = future.result()
            if output is not None:
                yield Ran(order, problem, output)

    def _one(self, problem: Problem) -> Output | None:
        """What the graph makes of a problem; None where it was stopped before its end."""
        if self.stopped:
            return None
        output: Output = {}
        for output in self._steps(problem):
            if self.stopped and output.get("stop_reason") is None:
                return None
        self._on_end(problem, output)
        return output

    def _steps(self, problem: Problem) -> Iterator[Output]:
        """The output so far after each node, from where the problem stands."""
        begun = self._threads and half_done(self._store, problem, self._ids(problem))
        if not self._threads or not begun:
            yield from self._graph.stream({"problem": problem.model_dump()}, stream_mode="values")
            return
        state, node = begun
        config: RunnableConfig = {"configurable": {"thread_id": state["recovery_id"]}}
        self._threads.update_state(config, state, as_node=node)
        try:
            yield from self._threads.stream(None, config, stream_mode="values")
        finally:
            self._saver.delete_thread(state["recovery_id"])
