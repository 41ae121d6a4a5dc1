"""Record the tape that ships with the embedded pair.

Run after training::

    python -m training.record_tape

Writes ``recov_graph/models/pair/tape.jsonl``. All problems come from the reserved tenth that
training never sees, and none is among the bundled ones.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

from recov_graph.graph import MAX_NEW_TOKENS, SAMPLES, TEMPERATURE
from recov_graph.models.embedded import bundled_problems
from recov_graph.record import ATTEMPTS, Settings, record
from recov_graph.store import TraceStore
from recov_graph.tape import SHIPPED, read_tape, write_tape
from training.measure_pair import BUNDLED, problems

TIMES = 3  # as many problems as are bundled


def main() -> None:
    """Draw problems, record them into a store that is thrown away, and write the tape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--db", type=Path, help="keep the store here")
    options = parser.parse_args()
    exclude = frozenset(problem.prompt for problem in bundled_problems())
    levels = {kind: tuple(TIMES * n for n in counts) for kind, counts in BUNDLED.items()}
    drawn = problems(random.Random(300), exclude, levels)
    settings = Settings(
        samples=SAMPLES,
        attempts=ATTEMPTS,
        temperature=TEMPERATURE,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=9,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = options.db or Path(folder) / "tape.db"
        with TraceStore(path) as store:
            failed = record(
                "embedded", "numeric", drawn, store, settings=settings, processes=options.processes
            )
        source = (
            f"{failed} of {len(drawn)} problems of the embedded pair, {ATTEMPTS} attempts of each "
            "operator; python -m training.record_tape"
        )
        write_tape(read_tape(path), SHIPPED, source)
    print(f"{source}: {SHIPPED}")


if __name__ == "__main__":
    main()
