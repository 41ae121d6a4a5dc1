"""Bad input at volume: every reader of `tests.fuzz_targets` is given what coverage leads to.

``python -m tests.fuzz --runs 1000000`` shares so many inputs among all targets, one process a
target; ``python -m tests.fuzz replies --runs 20000`` gives all of them to one. Inputs begin with
valid files and are changed by libFuzzer (atheris), three times in four as documents and not as
bytes (`tests.mutations`). An input that breaks a promise, or lets anything but an error of ours
escape, ends its target: it is printed as a Python literal, to become a regression test.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LONGEST = 8192  # bytes of an input
SLOWEST = 120  # seconds that one input may take
MEMORY = 4096  # MB that a target may take
# The share of inputs that are changed as documents, and of these, of those made from a valid one:
# what coverage keeps is soon far from valid.
DOCUMENTS, VALID = 0.75, 0.4
# Every input becomes a file: where memory can hold them, a disk is spared a million of them.
IN_MEMORY = Path("/dev/shm")
STATE = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/")
ACCEPTED = re.compile(r"^accepted (\d+) of (\d+)$")


# One target, in a process of its own --------------------------------------------------------------


def fuzz(name: str, runs: int, seed: int, corpus: Path) -> None:
    """Give a target that many inputs; never returns."""
    import atheris

    # Compiled by numba, which does not know the instructions that count.
    with atheris.instrument_imports(include=["recov_graph"], exclude=["recov_graph.compiled"]):
        from tests.fuzz_targets import TARGETS
        from tests.mutations import mutated

    target = TARGETS[name]
    seeds = target.seeds()
    for place, valid in enumerate(seeds):
        (corpus / f"seed{place}").write_bytes(valid)
    counted = {"inputs": 0, "accepted": 0}
    every = max(1, runs // 50)

    def one(data: bytes) -> None:
        counted["inputs"] += 1
        counted["accepted"] += target.check(data)
        if counted["inputs"] % every == 0:
            print(f"accepted {counted['accepted']} of {counted['inputs']}", file=sys.stderr)

    def changed(data: bytes, longest: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < DOCUMENTS:
            return mutated(rng.choice(seeds) if rng.random() < VALID else data, number)[:longest]
        changed: bytes = atheris.Mutate(data, longest)
        return changed

    options = {
        "runs": runs,
        "seed": seed,
        "max_len": LONGEST,
        "reduce_inputs": 0,
        "timeout": SLOWEST,
        "rss_limit_mb": MEMORY,
        "artifact_prefix": f"{corpus.parent}/found-",
    }
    arguments = [sys.argv[0], *(f"-{option}={value}" for option, value in options.items())]
    atheris.Setup([*arguments, str(corpus)], one, custom_mutator=changed)
    atheris.Fuzz()


# All of them --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Fuzzed:
    """What came of a target, as libFuzzer counts it.

    Attributes:
        name: the target.
        inputs: how many it was given.
        accepted: the share of inputs that were valid, or valid in part.
        edges: branches of the package that were taken.
        features: of edges, how often they were taken, and values compared.
        corpus: inputs kept, as they took an edge that none before did.
        seconds: with starting the process.
        found: what broke a promise, and the last lines that were printed then.
    """

    name: str
    inputs: int = 0
    accepted: float = 0.0
    edges: int = 0
    features: int = 0
    corpus: int = 0
    seconds: float = 0.0
    found: list[bytes] = field(default_factory=list)
    said: str = ""
    failed: bool = False

    def __str__(self) -> str:
        speed = self.inputs / self.seconds if self.seconds else 0.0
        return (
            f"{self.name:10} {self.inputs:>9,} {self.seconds:>7.0f} {speed:>8,.0f} "
            f"{self.accepted:>8.0%} {self.edges:>6,} {self.features:>8,} {self.corpus:>6,}"
        )


HEADER = (
    f"{'target':10} {'inputs':>9} {'seconds':>7} {'a second':>8} {'accepted':>8} {'edges':>6} "
    f"{'features':>8} {'corpus':>6}"
)


def fuzzed(name: str, runs: int, seed: int) -> Fuzzed:
    """Fuzz a target in a process of its own."""
    result, last = Fuzzed(name), deque[str](maxlen=80)
    began = time.monotonic()
    memory = IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory) as made:
        corpus = Path(made, "corpus")
        corpus.mkdir()
        command = [sys.executable, "-m", "tests.fuzz", "--one", name, "--corpus", str(corpus)]
        command += ["--runs", str(runs), "--seed", str(seed)]
        with subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": made, "OPENBLAS_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[1],
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if not _noted(line, result):
                    last.append(line)
        result.failed = process.returncode != 0
        result.found = [path.read_bytes() for path in sorted(Path(made).glob("found-*"))]
    result.seconds = time.monotonic() - began
    result.said = "".join(last)
    return result


def _noted(line: str, result: Fuzzed) -> bool:
    """Whether a line tells how far the target has come, which is noted."""
    if state := STATE.search(line):
        result.edges, result.features, result.corpus = map(int, state.groups())
        result.inputs = int(re.match(r"#(\d+)", line)[1]) if line[0] == "#" else result.inputs  # type: ignore[index]
        return True
    if accepted := ACCEPTED.match(line):
        result.accepted = int(accepted[1]) / int(accepted[2])
        return True
    return False


def shared(runs: int, names: list[str]) -> dict[str, int]:
    """So many inputs shared among targets, by what each is to have."""
    from tests.fuzz_targets import TARGETS

    whole = sum(TARGETS[name].share for name in names)
    return {name: max(1, round(runs * TARGETS[name].share / whole)) for name in names}


def main() -> int:
    """Fuzz the targets that the command line names; 1 where anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="by default all of them")
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    given: Any = parser.parse_args()
    if given.one:
        fuzz(given.one, given.runs, given.seed, given.corpus)
    if importlib.util.find_spec("atheris") is None:
        parser.error(
            "atheris is not installed; it is there for Linux on x86_64, Python 3.11 to 3.13"
        )
    from tests.fuzz_targets import TARGETS

    unknown = [name for name in given.targets if name not in TARGETS]
    if unknown:
        parser.error(f"{', '.join(unknown)}: not among {', '.join(TARGETS)}")
    results = []
    print(HEADER, flush=True)
    for name, runs in shared(given.runs, given.targets or list(TARGETS)).items():
        results.append(fuzzed(name, runs, given.seed))
        print(results[-1], flush=True)
        if results[-1].failed:
            print(results[-1].said, *map(repr, results[-1].found), sep="\n", flush=True)
    total = sum(result.inputs for result in results)
    seconds = sum(result.seconds for result in results)
    failed = [result.name for result in results if result.failed]
    print(f"{total:,} inputs in {seconds:.0f} s; {', '.join(failed) or 'no target'} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
