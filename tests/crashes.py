"""Killing a run at random moments, again and again, until it has ended all the same.

``python -m tests.crashes --kills 200``: a process that has imported everything forks children that
run ``recov-graph run ... --resume``; each is killed by SIGKILL at a random moment. After every kill
the file has to be whole and what had ended has to be as it was; once a run completes, all of it
has to equal a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported: no threads

from recov_graph.store.checkup import check_up

# Whatever a run imports, so that children begin to work at once and are killed at work.
LOADED = ("cli", "console", "models.embedded", "runner", "scheduler", "surveying", "verifiers")

# What a problem comes to, by the user's own id: without ids of rows, times and what time took.
CONTENT = {
    "outcome": "SELECT key, solved, stop_reason, regime, outcomes.attempts, prompt_tokens, "
    "completion_tokens, scored_tokens FROM problems JOIN outcomes USING (id)",
    "attempts": "SELECT key, position, rollouts.operator, seed, rollouts.tokens, text, value, "
    "verdicts.answer, outcome, interventions.tokens, interventions.details FROM problems "
    "JOIN rollouts ON problem_id = problems.id LEFT JOIN verdicts ON verdicts.id = rollouts.id "
    "LEFT JOIN interventions ON interventions.id = rollouts.id",
    "decisions": "SELECT key, step, regime, operator, expected_rescue, reason, candidates, "
    "measured FROM problems JOIN decisions ON problem_id = problems.id",
    "calls": "SELECT key, purpose, prompt_tokens, completion_tokens, scored_tokens "
    "FROM problems JOIN calls ON problem_id = problems.id",
    "features": "SELECT key, position, junction, spread, concentration, logit_dispersion "
    "FROM problems JOIN rollouts ON problem_id = problems.id JOIN features "
    "ON features.id = rollouts.id",
}


def ended(path: Path) -> dict[str, list[Any]]:
    """All that is stored of each problem that has ended, by the user's own id."""
    found: dict[str, list[Any]] = {}
    if not path.exists() or not path.stat().st_size:
        return found
    with closing(sqlite3.connect(path)) as file:
        if not file.execute("SELECT 1 FROM sqlite_master WHERE name = 'outcomes'").fetchall():
            return found
        known = {
            key for (key,) in file.execute("SELECT key FROM problems JOIN outcomes USING (id)")
        }
        for name, sql in CONTENT.items():
            for key, *row in file.execute(f"{sql} ORDER BY 1, 2, 3, 4, 5"):
                if key in known:
                    found.setdefault(key, []).append((name, *row))
    return found


class Undisturbed(NamedTuple):
    """What a run comes to that nobody kills: the problems, the figures, and how long it takes."""

    problems: dict[str, list[Any]]
    figures: dict[str, Any]
    seconds: float


def run(problems: Path, db: Path, options: Sequence[str], out: Path) -> None:
    """A run to its end, in this process; its figures go to `out`."""
    from recov_graph.cli import cli

    how = ("--verifier", "numeric", "--no-baseline", "--resume", "--json", str(out))
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        cli(["run", str(problems), "--db", str(db), *how, *options], standalone_mode=False)


def child(problems: Path, db: Path, options: Sequence[str], out: Path) -> int:
    """The number of a process that runs; its exit code is 0 where it came to the end."""
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        run(problems, db, options, out)
        code = 0
    except BaseException as error:  # told to the parent, which raises it
        out.with_suffix(".error").write_text(repr(error))
    finally:
        os._exit(code)


def figures_of(out: Path) -> dict[str, Any]:
    """The figures of a run, without what differs from one to the next."""
    figures: dict[str, Any] = json.loads(out.read_text())
    return {name: figures[name] for name in figures if name not in ("seconds", "db", "run")}


def undisturbed(folder: Path, problems: Path, options: Sequence[str]) -> Undisturbed:
    """A run that nobody kills."""
    db, out = folder / "undisturbed.db", folder / "undisturbed.json"
    db.unlink(missing_ok=True)
    started = time.monotonic()
    _, status = os.waitpid(child(problems, db, options, out), 0)
    assert status == 0, out.with_suffix(".error").read_text()
    return Undisturbed(ended(db), figures_of(out), time.monotonic() - started)


def check(db: Path, before: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """What has ended by now, once it is sure that the file is whole and what had ended is there."""
    if not db.exists():
        return before
    checkup = check_up(db)
    assert checkup.healthy, [one for one in checkup.findings if one.status == "wrong"]
    now = ended(db)
    assert {key: now[key] for key in before} == before, "what had ended is not what it was"
    return now


class Killed(NamedTuple):
    """What the kills came to."""

    kills: int
    completed: int
    seconds: float


def kill_at_random(
    folder: Path, problems: Path, kills: int, rng: random.Random, options: Sequence[str] = ()
) -> Killed:
    """Kill runs at random moments and let each come to its end.

    Raises:
        AssertionError: a file is not whole, or a run came to another end than an undisturbed one.
    """
    for module in LOADED:
        importlib.import_module(f"recov_graph.{module}")
    began = time.monotonic()
    expected = undisturbed(folder, problems, options)
    done = completed = 0
    while done < kills:
        db, out = folder / f"run{completed}.db", folder / f"run{completed}.json"
        before: dict[str, list[Any]] = {}
        while done < kills:
            number = child(problems, db, options, out)
            time.sleep(rng.uniform(0, expected.seconds / 3))
            os.kill(number, signal.SIGKILL)
            _, status = os.waitpid(number, 0)
            if os.WIFEXITED(status):  # it was quicker
                assert status == 0, out.with_suffix(".error").read_text()
                break
            done += 1
            before = check(db, before)
        else:
            _, status = os.waitpid(child(problems, db, options, out), 0)
            assert status == 0, out.with_suffix(".error").read_text()
        check(db, before)
        assert ended(db) == expected.problems
        assert figures_of(out) == expected.figures
        completed += 1
    return Killed(done, completed, time.monotonic() - began)


WAYS: dict[str, tuple[str, ...]] = {
    "one at a time": (),
    "four at a time": ("--concurrency", "4"),
    "one budget over all": ("--total-attempts", "150"),
}


def some_problems(folder: Path, number: int = 24) -> Path:
    """A file of bundled problems, those that fail among them."""
    from recov_graph.models.embedded import bundled_problems

    path = folder / "problems.jsonl"
    lines = [problem.model_dump_json() for problem in bundled_problems()[::6][:number]]
    path.write_text("\n".join(lines) + "\n")
    return path


def main() -> None:
    """Kill as often as the command line says, a share for each way of running."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    shares = [given.kills // len(WAYS) + (i < given.kills % len(WAYS)) for i in range(len(WAYS))]
    for (name, options), kills in zip(WAYS.items(), shares, strict=True):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            killed = kill_at_random(folder, some_problems(folder), kills, rng, options)
        print(
            f"{name}: {killed.kills} kills, {killed.completed} runs completed as if undisturbed, "
            f"{killed.seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
