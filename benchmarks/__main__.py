"""Run every benchmark: ``python -m benchmarks`` or some: ``python -m benchmarks signals graph``."""

from __future__ import annotations

import os
import sys

# One core, and set before numpy is imported: figures are per core.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmarks import blackbox, graph, http, refit, rescue, signals, startup

ALL = {
    "startup": startup,
    "signals": signals,
    "graph": graph,
    "http": http,
    "refit": refit,
    "rescue": rescue,
    "blackbox": blackbox,
}


def main() -> None:
    """Run the benchmarks named on the command line, or all."""
    names = sys.argv[1:] or list(ALL)
    unknown = [name for name in names if name not in ALL]
    if unknown:
        sys.exit(f"no benchmark is named {', '.join(unknown)}; known are {', '.join(ALL)}")
    for name in names:
        print(f"## {name}", flush=True)
        ALL[name].main()


if __name__ == "__main__":
    main()
