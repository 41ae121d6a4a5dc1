"""Memory of a batch by its length: `recov-graph run` on 1,000, 10,000 and 100,000 problems.

Only the model is quicker than a real one: it says again what the embedded pair said to a few
problems, and two attempts without steering follow those that fail, so that a batch of 100,000 takes
minutes and not hours. All else is as in any run: the file of problems, graph, verifier, router,
trace store and sums. Every batch is a process of its
own, since peak memory never falls.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.refit import exponent, peak_memory
from benchmarks.rows import Row, sizes
from recov_graph.models import Generation, embedded
from recov_graph.models.embedded import EmbeddedPair, bundled_problems
from recov_graph.rollout import FinishReason, TopK, Usage

SIZES = (1_000, 10_000, 100_000)
# Different problems, the shortest, of which few fail; others repeat them under ids of their own.
KINDS = 40
TAKES = 8  # different answers to a question
ALLOWED = 1.25  # times the memory of the shortest batch
CONCURRENCY = 1  # which changes nothing here but the time


class Measured(NamedTuple):
    """Of a batch: problems, most megabytes, seconds, and megabytes of its store."""

    size: int
    memory: float
    seconds: float
    store: float


class Repeating(EmbeddedPair):
    """The embedded pair with a few answers to each question, each computed once.

    A steered rollout sees what the pair sees along one path, whichever tokens are taken. So what
    is remembered is bounded by the number of different problems, not by that of the batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[Any, Any] = {}

    def sample(
        self, prompt: str, *, n: int = 1, seed: int = 0, prefix: Any = (), **how: Any
    ) -> Generation:
        """As the pair, by one of a few seeds."""
        if not len(prefix):
            key = (prompt, n, seed % TAKES)
            if key not in self._said:
                self._said[key] = super().sample(prompt, n=n, seed=seed % TAKES, **how)
            made: Generation = self._said[key]
            return made
        whole = self.sample(prompt, n=1, seed=seed, **how).rollouts[0]
        rest = whole.token_ids[len(prefix) :] if len(whole) > len(prefix) else whole.token_ids[-1:]
        assert whole.specialist is not None
        ids, logprobs = (array[-len(rest) :] for array in whole.specialist)
        lists = TopK(ids, logprobs)  # type: ignore[arg-type]
        return Generation([self._rollout(rest, lists)], Usage(len(prefix), len(rest)))

    def score(self, prompt: str, completions: Sequence[Any], *, role: Any) -> Any:
        """As the pair."""
        key = (prompt, role, *(tokens.tobytes() for tokens in completions))
        if key not in self._said:
            self._said[key] = super().score(prompt, completions, role=role)
        return self._said[key]

    def open(self, prompt: str, *, prefix: Any = (), **how: Any) -> Any:
        """As the pair sees it along one path."""
        if (prompt, "path") not in self._said:
            taken = self.sample(prompt, seed=0, temperature=0.6, max_tokens=160).rollouts[0]
            session = super().open(prompt)
            path = []
            for token in taken.token_ids.tolist():
                path.append(session.distributions())
                session.append(token)
            self._said[prompt, "path"] = path
        return _Path(self._said[prompt, "path"], self.prompt_length(prompt), len(prefix))


class _Path:
    """A steered rollout along a path; see `models.base.Session`."""

    draft, next_cost = None, 2

    def __init__(self, path: Sequence[tuple[TopK, TopK]], prompt: int, start: int) -> None:
        self._path, self._prompt, self._at = path, prompt + start, min(start, len(path) - 1)
        self._written = 0
        self.finished: FinishReason | None = None

    @property
    def usage(self) -> Usage:
        return Usage(self._prompt, self._written, self._prompt + self._written)

    def distributions(self) -> tuple[TopK, TopK]:
        return self._path[self._at]

    def append(self, token: int) -> None:
        self._at += 1
        self._written += 1
        if self._at == len(self._path):
            self.finished = "stop"


def write_problems(path: Path, size: int) -> None:
    """So many problems, a line each."""
    kinds = sorted(bundled_problems(), key=lambda problem: len(problem.prompt))[:KINDS]
    with path.open("w", encoding="utf-8") as file:
        for number in range(size):
            one = kinds[number % len(kinds)]
            line = {"id": f"p{number}", "task": one.task, "prompt": one.prompt}
            file.write(json.dumps({**line, "answer": one.answer}) + "\n")


def measured(size: int) -> Measured:
    """Run a batch in this process."""
    from recov_graph.cli import cli

    with tempfile.TemporaryDirectory() as folder:
        problems, store = Path(folder, "problems.jsonl"), Path(folder, "traces.db")
        write_problems(problems, size)
        command = ["run", str(problems), "--verifier", "numeric", "--db", str(store)]
        command += ["--interventions", "retry,local_temp", "--max-attempts", "6"]
        command += ["--no-baseline", "--plain", "--concurrency", str(CONCURRENCY)]
        embedded.EmbeddedPair = Repeating  # type: ignore[misc, assignment]
        started = time.perf_counter()
        with Path(folder, "said").open("w") as said, redirect_stdout(said):
            cli(command, standalone_mode=False)
        seconds = time.perf_counter() - started
        return Measured(size, peak_memory(), seconds, store.stat().st_size / 2**20)


def main() -> list[Row]:
    """Print the most memory, problems a second and the size of the store, by length of batch."""
    print("   problems   most memory   problems/s   store")
    found = []
    for size in sizes("RECOV_GRAPH_BATCH_SIZES", SIZES):
        command = [sys.executable, "-m", "benchmarks.memory", str(size)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        one = Measured(*json.loads(done.stdout))
        speed = size / one.seconds
        print(
            f"{size:11,} {one.memory:10.0f} MB {speed:12.0f} {one.store:7,.0f} MB",
            flush=True,
        )
        found.append(one)
    if len(found) < 2:
        return []
    first, last = found[0], found[-1]
    power = exponent([one.size for one in found], [one.memory for one in found])
    print(f"growth: memory as N^{power:.3f}")
    ratio = ALLOWED * first.memory / last.memory
    return [
        Row(
            f"memory, {last.size:,} problems for {first.size:,}",
            f"{last.memory:.0f} MB",
            f"{ALLOWED:g} times {first.memory:.0f} MB",
            ratio,
            ratio,
            ratio,
            1.0,
        )
    ]


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measured(int(sys.argv[1]))))
    else:
        main()
