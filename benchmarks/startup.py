"""How long ``import recov_graph`` and ``recov-graph --help`` take, beyond a bare interpreter."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 9


def median_seconds(*arguments: str) -> float:
    """The median wall-clock time of a Python process over several runs, after one warm-up."""
    times = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def main() -> None:
    """Print the medians."""
    bare = median_seconds("-c", "pass")
    imported = median_seconds("-c", "import recov_graph")
    help_page = median_seconds("-m", "recov_graph.cli", "--help")
    print(f"bare interpreter:     {bare * 1e3:.0f} ms")
    print(f"import recov_graph:   {(imported - bare) * 1e3:.0f} ms more")
    print(f"recov-graph --help:   {help_page * 1e3:.0f} ms in all")


if __name__ == "__main__":
    main()
