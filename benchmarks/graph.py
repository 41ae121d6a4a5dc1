"""What the graph adds to model time, and against a loop written by hand without LangGraph.

The model answers from memory, so that nothing but overhead is seen: nodes, checks, verifier,
router, ledger, events and trace store; the interventions' own arithmetic is in both.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.by_hand import Notes, Replayed, recovered
from benchmarks.rows import Row, in_turn, of_times
from recov_graph import TraceStore, create_recovery_graph
from recov_graph.interventions import default_interventions
from recov_graph.models.embedded import bundled_problems
from recov_graph.problem import Problem
from recov_graph.routing import as_router
from recov_graph.verifiers import as_verifier

PROBLEMS, RUNS, SEED = 60, 9, 0
# Whether a problem was solved, and the operators that were tried.
Ended = tuple[bool, list[str]]


def through_graph(model: Replayed, store: TraceStore | None) -> Callable[[Problem], Ended]:
    """What takes a problem through the graph."""
    graph = create_recovery_graph(model, "numeric", seed=SEED, store=store, router=as_router(None))

    def ended(problem: Problem) -> Ended:
        result = graph.invoke({"problem": problem.model_dump()})
        tried = [a["operator"] for a in result["attempts"] if a["operator"] != "sample"]
        return result["solved"], tried

    return ended


def by_hand(model: Replayed, notes: Notes | None) -> Callable[[Problem], Ended]:
    """What takes a problem through the loop."""
    verifier, router = as_verifier("numeric"), as_router(None)
    able = {
        name: one
        for name, one in default_interventions(model.capabilities).items()
        if one.needs <= model.capabilities
    }
    return lambda problem: recovered(problem, model, verifier, router, able, SEED, notes)


def main() -> list[Row]:
    """Print the ratio of the loop's time to the graph's, without and with a store."""
    model = Replayed()
    problems = bundled_problems()[:PROBLEMS]
    routed = [bool(tried) for _, tried in map(by_hand(model, None), problems)]
    at_once = [problem for problem, late in zip(problems, routed, strict=True) if not late]
    failed = [problem for problem, late in zip(problems, routed, strict=True) if late]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        pairs = {
            "no store": (through_graph(model, None), by_hand(model, None)),
            "with a store": (
                through_graph(model, TraceStore(Path(folder) / "traces.db")),
                by_hand(model, Notes(str(Path(folder) / "notes.db"))),
            ),
        }
        for stored, (graph, hand) in pairs.items():
            assert list(map(graph, problems)) == list(map(hand, problems))
            quick, by_loop, late, late_by_loop = in_turn(
                RUNS,
                partial(_all, graph, at_once),
                partial(_all, hand, at_once),
                partial(_all, graph, failed),
                partial(_all, hand, failed),
            )
            name = f"graph, {stored}, {{}} problems"
            rows += [
                _compared(
                    name.format(len(problems)),
                    [a + b for a, b in zip(quick, late, strict=True)],
                    [a + b for a, b in zip(by_loop, late_by_loop, strict=True)],
                    len(problems),
                ),
                _compared(
                    f"{name.format(len(at_once))} solved at once", quick, by_loop, len(at_once)
                ),
                _compared(
                    f"{name.format(len(failed))} that failed", late, late_by_loop, len(failed)
                ),
            ]
    return rows


def _all(one: Callable[[Problem], Ended], problems: list[Problem]) -> list[Ended]:
    return [one(problem) for problem in problems]


def _compared(name: str, graph: list[float], hand: list[float], count: int) -> Row:
    ours, other = ([seconds / count for seconds in times] for times in (graph, hand))
    row = of_times(name, ours, other, "by hand", unit="ms a problem")
    more = statistics.median(a - b for a, b in zip(ours, other, strict=True))
    print(f"{row.line()}; {more * 1e3:.2f} ms a problem more")
    return row


if __name__ == "__main__":
    main()
