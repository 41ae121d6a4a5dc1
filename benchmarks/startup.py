"""How long ``import recov_graph`` and ``recov-graph --help`` take, beyond a bare interpreter."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.rows import Row, in_turn, of_times

RUNS = 9


def running(*arguments: str) -> Callable[[], object]:
    """What runs a Python process."""
    return lambda: subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL
    )


def main() -> list[Row]:
    """Print the medians."""
    bare, imported, helped = in_turn(
        RUNS,
        running("-c", "pass"),
        running("-c", "import recov_graph"),
        running("-m", "recov_graph.cli", "--help"),
        clock=time.perf_counter,  # what other processes do is no work of this one
    )
    start = statistics.median(bare)
    print(f"bare interpreter:     {start * 1e3:.0f} ms")
    print(f"import recov_graph:   {(statistics.median(imported) - start) * 1e3:.0f} ms more")
    print(f"recov-graph --help:   {statistics.median(helped) * 1e3:.0f} ms in all")
    return [
        of_times("starting Python and importing recov_graph", imported, bare, "bare Python"),
        of_times("recov-graph --help", helped, bare, "bare Python"),
    ]


if __name__ == "__main__":
    main()
