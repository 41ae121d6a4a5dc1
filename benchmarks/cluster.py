"""What a problem costs beside the model, on a worker, on the driver, in merging and on disk.

Completions are one token long, so that next to nothing of it is the model's. Each figure is the
slope between two lengths of a run: starting and ending cost the same for both and drop out. Two
kinds of problems bound what a batch is made of: solved by the first samples, and failed to the end.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from benchmarks.rows import Row
from recov_graph.models.embedded import bundled_problems

RUNS = 3
LENGTHS = {"solved": (200, 1_000), "failed": (40, 160)}
VERIFIERS = {"solved": "regex:(?s).*", "failed": "regex:never"}
WORKERS = 2
MILLION = 1_000_000


@dataclass(frozen=True)
class Run:
    """One run: seconds of the clock, of this process's own work, of merging, and bytes stored."""

    wall: float
    own: float
    merging: float
    stored: float


class Slope(NamedTuple):
    """What one more problem costs: as `Run`, for one problem."""

    wall: float
    own: float
    merging: float
    stored: float


def run(kind: str, engine: str, count: int) -> Run:
    """A run in this process."""
    from recov_graph.cli import cli

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problems, store = folder / "problems.jsonl", folder / "traces.db"
        _write_problems(problems, count)
        command = ["run", str(problems), "--verifier", VERIFIERS[kind], "--db", str(store)]
        command += ["--max-new-tokens", "1", "--no-baseline", "--plain", "--engine", engine]
        if engine == "ray":
            command += ["--workers", str(WORKERS), "--keep-shards"]
        began, own = time.perf_counter(), _own_seconds()
        with (folder / "said").open("w") as said, redirect_stdout(said):
            cli(command, standalone_mode=False)
        wall, own = time.perf_counter() - began, _own_seconds() - own
        shards = sorted(folder.glob("*.shards/*/worker-*.db"))
        return Run(wall, own, _merging(shards, folder / "merged.db"), store.stat().st_size)


def _write_problems(path: Path, count: int) -> None:
    kinds = bundled_problems()
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            one = kinds[number % len(kinds)]
            line = {"id": f"p{number}", "task": one.task, "prompt": one.prompt}
            file.write(json.dumps({**line, "answer": one.answer}) + "\n")


def _own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _merging(shards: list[Path], into: Path) -> float:
    from recov_graph.merging import merge

    if not shards:
        return 0.0
    began = time.perf_counter()
    merge(shards, into)
    return time.perf_counter() - began


def slope(kind: str, engine: str) -> Slope:
    """The medians over rounds, each round of both lengths."""
    few, many = LENGTHS[kind]
    found = []
    for _ in range(RUNS):
        short, long = (_in_a_process(kind, engine, count) for count in (few, many))
        found.append(
            [(getattr(long, name) - getattr(short, name)) / (many - few) for name in Slope._fields]
        )
    return Slope(*map(statistics.median, zip(*found, strict=True)))


def _in_a_process(kind: str, engine: str, count: int) -> Run:
    command = [sys.executable, "-m", "benchmarks.cluster", kind, engine, str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Run(*json.loads(done.stdout.splitlines()[-1]))


def main() -> list[Row]:
    """Print what a problem costs, and what a million of them come to."""
    if find_spec("ray") is None:
        print("Ray is not installed, so nothing is measured; pip install 'recov-graph[ray]'")
        return []
    print("for each problem      worker, CPU   driver, CPU       merging    stored")
    local, ray = {}, {}
    for kind in LENGTHS:
        local[kind], ray[kind] = slope(kind, "local"), slope(kind, "ray")
        print(
            f"{kind:20} {local[kind].own * 1e3:9.2f} ms {ray[kind].own * 1e3:10.2f} ms "
            f"{ray[kind].merging * 1e3:10.2f} ms {ray[kind].stored / 1e3:6.1f} kB",
            flush=True,
        )
    print(f"{MILLION:,} problems   worker, CPU   driver, CPU       merging    stored")
    for share in (0.0, 0.1, 0.4, 1.0):
        own, driver, merging, stored = (
            MILLION * ((1 - share) * solved + share * failed)
            for solved, failed in (
                *((costs["solved"].own, costs["failed"].own) for costs in (local, ray)),
                (ray["solved"].merging, ray["failed"].merging),
                (ray["solved"].stored, ray["failed"].stored),
            )
        )
        print(
            f"{share:4.0%} fail at first {own / 3600:11.1f} h {driver / 3600:11.2f} h "
            f"{merging / 3600:11.2f} h {stored / 1e9:6.1f} GB"
        )
    return [
        Row(
            f"workers that one driver can feed, problems {kind}",
            f"{ray[kind].own * 1e3:.2f} ms",
            f"a worker: {local[kind].own * 1e3:.2f} ms",
            *[local[kind].own / ray[kind].own] * 3,
        )
        for kind in LENGTHS
    ]


if __name__ == "__main__":
    if sys.argv[1:]:
        done = run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
        print(json.dumps([done.wall, done.own, done.merging, done.stored]))
    else:
        main()
