"""Refitting on many stored problems, and deciding by what was fitted: time and memory.

The stored problems are synthetic: each is of one of a few hidden types, fails its first samples,
and is tried by random operators until it is rescued or three attempts have failed.
"""

from __future__ import annotations

import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.rows import Row, clock, in_turn, sizes
from recov_graph.features import FEATURES, ProblemFeatures
from recov_graph.interventions import default_interventions
from recov_graph.models import Capability
from recov_graph.refit import refit
from recov_graph.routing import Evidence, as_router, default_policy
from recov_graph.signals import FEATURE_VERSION
from recov_graph.store import TraceStore

SIZES = (1_000, 10_000, 100_000, 1_000_000)
DECISIONS = 600
BATCH = 5_000
ATTEMPTS = 3
NOW = "2026-01-01T00:00:00.000+00:00"
TYPES = np.array(
    [
        [0.30, 0.30, 0.25, 0.30, 0.30],
        [0.05, 0.40, 0.10, 0.10, 0.20],
        [0.05, 0.10, 0.05, 0.10, 0.50],
        [0.01, 0.01, 0.01, 0.01, 0.01],
    ]
)


class Measured(NamedTuple):
    """Of one number of stored problems: seconds of a refit and of a decision, and megabytes."""

    size: int
    refit: float
    decision: float
    memory: float


def rows(count: int, rng: np.random.Generator) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """What a production store holds of so many failed problems, in batches."""
    names = list(default_interventions(frozenset(Capability)))
    for start in range(0, count, BATCH):
        tables: dict[str, list[dict[str, Any]]] = {
            name: []
            for name in (
                "problems",
                "rollouts",
                "verdicts",
                "features",
                "decisions",
                "interventions",
            )
        }
        for i in range(start, min(start + BATCH, count)):
            _add(tables, f"p{i}", i, TYPES[rng.integers(len(TYPES))], names, rng)
        yield tables


def _add(
    tables: dict[str, list[dict[str, Any]]],
    problem: str,
    number: int,
    rates: Any,
    names: list[str],
    rng: np.random.Generator,
) -> None:
    tables["problems"].append(
        {"id": problem, "run_id": "r", "key": problem, "task": f"t{number % 20}", "started_at": NOW}
    )
    for position in range(2):
        _rollout(tables, problem, position, "sample", "failed")
        tables["features"].append(
            {
                "id": f"{problem}/{position}",
                "junction": 1,
                **dict(zip(FEATURES, rng.normal(rates.mean(), 0.2, 3).tolist(), strict=True)),
                "feature_version": FEATURE_VERSION,
            }
        )
    for step in range(ATTEMPTS):
        operator = int(rng.integers(len(names)))
        passed = bool(rng.random() < rates[operator])
        rollout = f"{problem}/{2 + step}"
        _rollout(tables, problem, 2 + step, names[operator], "passed" if passed else "failed")
        candidates = [
            {"operator": name, "score": None, "expected_rescue": 0.2, "expected_cost": 50}
            for name in names
        ]
        tables["decisions"].append(
            {
                "id": f"{problem}/d{step}",
                "problem_id": problem,
                "step": step,
                "regime": "sampling",
                "operator": names[operator],
                "probability": 1 / len(names),
                "expected_rescue": 0.2,
                "candidates": json.dumps(candidates),
                "policy": "random",
                "policy_hash": "0",
                "created_at": NOW,
                "attempts_left": 8 - step,
                "measured": 1,
                "once": "{}",
            }
        )
        tables["interventions"].append(
            {
                "id": rollout,
                "decision_id": f"{problem}/d{step}",
                "operator": names[operator],
                "outcome": "rescued" if passed else "failed",
                "tokens": 50,
            }
        )
        if passed:
            return


def _rollout(
    tables: dict[str, list[dict[str, Any]]], problem: str, position: int, operator: str, value: str
) -> None:
    rollout = f"{problem}/{position}"
    tables["rollouts"].append(
        {
            "id": rollout,
            "problem_id": problem,
            "position": position,
            "operator": operator,
            "temperature": 0.6,
            "seed": 0,
            "finish_reason": "stop",
            "tokens": 30,
            "created_at": NOW,
        }
    )
    tables["verdicts"].append({"id": rollout, "value": value, "verifier": "numeric"})


def run_row() -> dict[str, Any]:
    """The run that synthetic problems are of."""
    return {
        "id": "r",
        "kind": "run",
        "model": "m",
        "verifier": "numeric",
        "policy": "random",
        "policy_hash": "0",
        "package_version": "0",
        "feature_version": FEATURE_VERSION,
        "router_version": 1,
        "store_text": "none",
        "started_at": NOW,
    }


def filled(path: Path, count: int) -> TraceStore:
    """A store of so many failed problems."""
    store = TraceStore(path)
    store.write(runs=[run_row()])
    for tables in rows(count, np.random.default_rng(0)):
        store.write(**tables)
    return store


def measured(size: int) -> Measured:
    """Fill a store, refit on it and decide, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traces.db"
        # Filled by another process: its memory is no part of a refit's.
        _run("fill", str(path), str(size))
        with TraceStore(path) as store:
            started = clock()
            made = refit(store, default_policy())
            seconds = clock() - started
    router = as_router(made.policy)
    evidence = Evidence(
        model="m",
        task="t3",
        features=ProblemFeatures(0.1, 0.2, 0.3),
        failed_samples=2,
        tried=["retry", "dense_steer"],
        costs=dict.fromkeys(default_interventions(frozenset(Capability)), 50),
        attempts_left=6,
        draw=0.5,
    )
    times = in_turn(DECISIONS, lambda: router.decide(evidence))[0]
    return Measured(size, seconds, statistics.median(times[100:]), peak_memory())


def peak_memory() -> float:
    """The most megabytes that this process ever held."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux the other figure is at least that of the process before
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text("utf-8"))
        if found:
            return int(found[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def exponent(sizes: Sequence[int], figures: Sequence[float]) -> float:
    """The power of the size with which a figure grows: least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(figures), 1)[0])


def main() -> list[Row]:
    """Print seconds and memory of a refit, and milliseconds of a decision, by stored problems."""
    print("stored problems   refit    peak memory   decision (median of 500)")
    found = []
    # Each in a process of its own, since peak memory never falls.
    for size in sizes("RECOV_GRAPH_REFIT_SIZES", SIZES):
        one = Measured(*json.loads(_run("measure", str(size))))
        print(
            f"{size:15,}  {one.refit:5.1f} s  {one.memory:8.0f} MB  {one.decision * 1e3:14.2f} ms",
            flush=True,
        )
        found.append(one)
    if len(found) < 2:
        return []
    first, last = found[0], found[-1]
    grown = {
        name: exponent([m.size for m in found], [getattr(m, name) for m in found])
        for name in ("refit", "decision", "memory")
    }
    print("growth: " + ", ".join(f"{name} as N^{power:.2f}" for name, power in grown.items()))
    return [
        _growth("refit", first, last, "s", 1.0, first.refit, last.refit, last.size / first.size),
        _growth("decision", first, last, "ms", 1e3, first.decision, last.decision, 1.25),
    ]


def _growth(
    name: str,
    first: Measured,
    last: Measured,
    unit: str,
    scale: float,
    before: float,
    after: float,
    allowed: float,
) -> Row:
    """By how much less a figure grew than is allowed."""
    ratio = allowed * before / after
    return Row(
        f"{name}, {last.size:,} stored problems for {first.size:,}",
        f"{after * scale:.3g} {unit}",
        f"{allowed:,g} times {before * scale:.3g} {unit}",
        ratio,
        ratio,
        ratio,
        1.0,
    )


def _run(*arguments: str) -> str:
    """What a process of this module's prints."""
    command = [sys.executable, "-m", "benchmarks.refit", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["fill", path, size]:
            filled(Path(path), int(size)).close()
        case ["measure", size]:
            print(json.dumps(measured(int(size))))
        case _:
            main()
