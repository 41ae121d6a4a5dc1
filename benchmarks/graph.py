"""What the graph adds to model time: nodes, checks, verifier, router and trace store."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from recov_graph import TraceStore, create_recovery_graph
from recov_graph.models.embedded import bundled_problems

PROBLEMS = 60


def overheads(store: TraceStore | None) -> tuple[list[float], list[float]]:
    """Milliseconds beyond model time: of the problems solved at once, and of those that failed."""
    graph = create_recovery_graph("embedded", "numeric", seed=0, store=store)
    solved: list[float] = []
    failed: list[float] = []
    for problem in bundled_problems()[:PROBLEMS]:
        started = time.perf_counter()
        result = graph.invoke({"problem": problem.model_dump()})
        passed = time.perf_counter() - started
        beyond = (passed - result["usage"]["seconds"]) * 1e3
        (failed if result["route"] else solved).append(beyond)
    return solved, failed


def main() -> None:
    """Print medians without and with a trace store on disk."""
    overheads(None)  # warm up
    with tempfile.TemporaryDirectory() as folder:
        for name, store in (
            ("no store", None),
            ("with a store", TraceStore(Path(folder) / "traces.db")),
        ):
            solved, failed = overheads(store)
            everything = solved + failed
            print(
                f"{name}: {statistics.median(everything):.1f} ms a problem "
                f"(median; solved at once {statistics.median(solved):.1f}, "
                f"failed and routed {statistics.median(failed):.1f}, "
                f"mean {statistics.mean(everything):.1f})"
            )


if __name__ == "__main__":
    main()
