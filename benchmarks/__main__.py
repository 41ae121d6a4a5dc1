"""Run every benchmark: ``python -m benchmarks`` or some: ``python -m benchmarks signals graph``."""

from __future__ import annotations

import os
import sys

# One core, and set before numpy is imported: figures are per core.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from collections.abc import Callable

from benchmarks import (
    blackbox,
    cluster,
    engine,
    graph,
    http,
    memory,
    refit,
    rescue,
    signals,
    startup,
    store,
)
from benchmarks.rows import Row, table

# What each gives back goes into the table at the end, where it gives anything.
ALL: dict[str, Callable[[], list[Row] | None]] = {
    "startup": startup.main,
    "signals": signals.main,
    "engine": engine.main,
    "store": store.main,
    "graph": graph.main,
    "http": http.main,
    "refit": refit.main,
    "memory": memory.main,
    "cluster": cluster.main,
    "rescue": rescue.main,
    "blackbox": blackbox.main,
}


def main() -> None:
    """Run the benchmarks named on the command line, or all; at the end one table of ratios."""
    names = sys.argv[1:] or list(ALL)
    unknown = [name for name in names if name not in ALL]
    if unknown:
        sys.exit(f"no benchmark is named {', '.join(unknown)}; known are {', '.join(ALL)}")
    rows: list[Row] = []
    for name in names:
        print(f"## {name}", flush=True)
        rows += ALL[name]() or []
    if rows:
        print(f"## ratios\n{table(rows)}")


if __name__ == "__main__":
    main()
