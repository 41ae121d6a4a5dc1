"""Processes that write to one store as fast as they can, as runs do, and what has to come of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from recov_graph.store import TraceStore

RUN: dict[str, Any] = {
    "id": "shared",
    "kind": "run",
    "model": "m",
    "verifier": "exact",
    "policy": "rule",
    "policy_hash": "0",
    "package_version": "0",
    "feature_version": 1,
    "router_version": 1,
    "store_text": "full",
    "seed": 0,
    "started_at": "2026-01-01T00:00:00.000+00:00",
}
SPENT = {"prompt_tokens": 9, "completion_tokens": 20, "scored_tokens": 0, "seconds": 0.1}


def write_problem(store: TraceStore, name: str, *, doubled: bool = False) -> None:
    """What a run writes of a problem, in as many transactions; `doubled`: each of them twice."""
    at = RUN["started_at"]
    attempts = [f"{name}/{position}" for position in range(4)]
    call = {"id": f"{name}/call0", "problem_id": name, "purpose": "sample", **SPENT}
    rollouts = [
        {"id": one, "problem_id": name, "position": position, "operator": "sample"}
        | {"temperature": 0.6, "seed": 1, "finish_reason": "stop", "tokens": 5}
        | {"text": f"answer {one} " * 20, "created_at": at}
        for position, one in enumerate(attempts)
    ]
    verdicts = [{"id": one, "value": "passed", "verifier": "exact"} for one in attempts]
    outcome = {"id": name, "solved": 1, "best_rollout": attempts[0], "regime": None}
    outcome |= {"stop_reason": "solved", "attempts": 4, **SPENT, "finished_at": at}
    for _ in range(1 + doubled):
        problem = {"id": name, "run_id": "shared", "key": name, "task": "t", "started_at": at}
        store.write(runs=[RUN], problems=[problem])
        store.write_paid(rollouts=rollouts, calls=[call])
        store.write(verdicts=verdicts)
        store.settle(outcome, rollouts=attempts, verdicts=attempts, calls=[call["id"]])


def main(address: str, me: str, seconds: float) -> None:
    """Write for a while; then say what was written, and how long the longest problem took."""
    print("ready", flush=True)
    sys.stdin.readline()
    deadline, problems, longest = time.monotonic() + seconds, 0, 0.0
    with TraceStore(address) as store:
        while time.monotonic() < deadline:
            began = time.monotonic()
            write_problem(store, f"{me}-{problems}", doubled=problems % 10 == 0)
            longest = max(longest, time.monotonic() - began)
            problems += 1
    print(json.dumps({"problems": problems, "longest": longest}), flush=True)


class Written(NamedTuple):
    """What all of them wrote."""

    problems: int
    transactions: int
    longest: float


def write_side_by_side(address: str, processes: int, seconds: float) -> Written:
    """So many processes on one store; raises where one of them failed."""
    command = [sys.executable, "-m", "tests.writers", address]
    started = [
        subprocess.Popen(
            [*command, f"w{number}", str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        for number in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = []
    for process in started:
        out, errors = process.communicate(timeout=seconds + 120)
        assert process.returncode == 0, errors
        told.append(json.loads(out))
    problems = sum(one["problems"] for one in told)
    transactions = sum(4 * (one["problems"] + -(-one["problems"] // 10)) for one in told)
    return Written(problems, transactions, max(one["longest"] for one in told))


def check_all_there(address: str, written: Written) -> None:
    """Not a row lost, not a row doubled."""
    with TraceStore(address) as store:
        counts = Counter(
            {
                table: store.rows(f"SELECT count(*) FROM {table}")[0][0]
                for table in ("problems", "outcomes", "calls", "rollouts", "verdicts", "runs")
            }
        )
    once = dict.fromkeys(("problems", "outcomes", "calls"), written.problems)
    each = dict.fromkeys(("rollouts", "verdicts"), 4 * written.problems)
    assert counts == {**once, **each, "runs": 1}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
