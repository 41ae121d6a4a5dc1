"""Ending runs at random moments, again and again, until they have ended all the same.

``python -m tests.crashes --kills 200``: a process that has imported everything forks children that
run ``recov-graph run ... --resume``; each is killed by SIGKILL at a random moment, half of them
within a few milliseconds of a write. After every kill the file has to be whole, the doctor has to
tell the truth, and what had been paid for has to be as it was; once a run completes, all of it has
to equal a run that nobody disturbed. Losses of power follow: copies of a file that is being written
to, with the log beside it cut or garbled behind what was told to be safe.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import pickle
import random
import shutil
import signal
import sqlite3
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported: no threads

import pytest

from recov_graph.models import embedded
from recov_graph.store.checkup import Checkup, check_up
from recov_graph.store.sqlite import SqliteFile, open_to_read

# Whatever a run imports, so that children begin to work at once and are killed at work.
LOADED = (
    "cli",
    "cli.running",
    "cli.working",
    "console",
    "runner",
    "runs",
    "scheduler",
    "verifiers",
)
CALL_SECONDS = 0.002  # of a remembered answer

# What a problem comes to, by the user's own id: without ids of rows, times and what time took.
_ROLLOUTS = "FROM problems JOIN rollouts ON problem_id = problems.id"
CONTENT = {
    "problem": "SELECT key, task, prompt, problems.answer FROM problems",
    "outcome": "SELECT key, solved, stop_reason, regime, outcomes.attempts, prompt_tokens, "
    "completion_tokens, scored_tokens, substr(best_rollout, 1 + length(problems.id)) "
    "FROM problems JOIN outcomes USING (id)",
    "attempts": "SELECT key, position, rollouts.operator, temperature, seed, finish_reason, "
    f"rollouts.tokens, text {_ROLLOUTS}",
    "verdicts": "SELECT key, position, value, score, verdicts.answer, explanation, verifier "
    f"{_ROLLOUTS} JOIN verdicts ON verdicts.id = rollouts.id",
    "interventions": "SELECT key, position, outcome, interventions.tokens, details, "
    f"substr(decision_id, 1 + length(problems.id)) {_ROLLOUTS} "
    "JOIN interventions ON interventions.id = rollouts.id",
    "decisions": "SELECT key, step, regime, operator, probability, expected_rescue, reason, "
    "candidates, measured, once, attempts_left, tokens_left, policy_hash "
    "FROM problems JOIN decisions ON problem_id = problems.id",
    "calls": "SELECT key, substr(calls.id, 1 + length(problems.id)), purpose, prompt_tokens, "
    "completion_tokens, scored_tokens FROM problems JOIN calls ON problem_id = problems.id",
    "features": "SELECT key, position, junction, spread, concentration, logit_dispersion "
    f"{_ROLLOUTS} JOIN features ON features.id = rollouts.id",
    "arrays": f"SELECT key, position, signals, taken, pieces, specialist, ancestor {_ROLLOUTS} "
    "JOIN token_arrays ON token_arrays.id = rollouts.id",
    "told": "SELECT key, failed_share, agreement, truncated, length "
    "FROM problems JOIN rollout_features USING (id)",
    "underway": f"SELECT key, position {_ROLLOUTS} JOIN underway ON underway.id = rollouts.id",
}
# What is never taken back of a problem under way: all that was paid for, and how it was judged.
PAID = ("attempts", "verdicts", "interventions", "calls", "features", "arrays", "told")
Rows = dict[str, list[Any]]


def stored(path: Path) -> tuple[Rows, set[str]]:
    """All that is stored of each problem by the user's own id, and which have ended."""
    found: Rows = {}
    ended: set[str] = set()
    if not path.exists() or not path.stat().st_size:
        return found, ended
    with closing(open_to_read(path, isolation_level=None)) as file:
        file.execute("BEGIN")
        if not file.execute("SELECT 1 FROM sqlite_master WHERE name = 'underway'").fetchall():
            return found, ended  # not even the tables are made
        for name, sql in CONTENT.items():
            for key, *row in file.execute(f"{sql} ORDER BY 1, 2"):
                found.setdefault(key, []).append((name, *row))
        sql = "SELECT key FROM problems JOIN outcomes USING (id)"
        ended = {key for (key,) in file.execute(sql)}
    return found, ended


def ended(path: Path) -> Rows:
    """All that is stored of each problem that has ended, by the user's own id."""
    found, known = stored(path)
    return {key: rows for key, rows in found.items() if key in known}


# A model that answers at once ---------------------------------------------------------------------


class Remembered(embedded.EmbeddedPair):
    """The embedded pair, which says the same whenever asked the same: it is computed once."""

    memory: ClassVar[dict[Any, Any]] = {}
    seconds: ClassVar[float] = 0.0

    def asked(self, *call: Any) -> None:
        """The model is asked for this."""
        if self.seconds:
            time.sleep(self.seconds)

    def sample(self, prompt: str, **how: Any) -> Any:
        return self._remembered("sample", prompt, how, super().sample)

    def score(self, prompt: str, completions: Any, *, role: Any) -> Any:
        how = {"completions": [list(map(int, one)) for one in completions], "role": role}
        return self._remembered("score", prompt, how, super().score)

    def open(self, prompt: str, **how: Any) -> Any:
        self.asked("open", prompt, how)
        return _Session(("open", prompt), lambda: super(Remembered, self).open(prompt, **how))

    def _remembered(
        self, method: str, prompt: str, how: dict[str, Any], real: Callable[..., Any]
    ) -> Any:
        self.asked(method, prompt, how)
        key = (method, prompt, repr(sorted(how.items())))
        if key not in self.memory:
            if method == "score":
                how = {**how, "completions": [_ids(one) for one in how["completions"]]}
            self.memory[key] = real(prompt, **how)
        return self.memory[key]


def _ids(tokens: Sequence[int]) -> Any:
    import numpy as np

    return np.array(tokens, np.int32)


class _Session:
    """A steered rollout whose every step is looked up by the tokens that led there."""

    draft = None
    next_cost = 2

    def __init__(self, key: tuple[Any, ...], make: Callable[[], Any]) -> None:
        self._key, self._make, self._real = key, make, None
        self._taken: tuple[int, ...] = ()
        self._look()

    def _look(self) -> None:
        key = (*self._key, self._taken)
        if key not in Remembered.memory:
            if self._real is None:
                self._real = self._make()
                for token in self._taken:
                    self._real.append(token)
            elif self._taken:
                self._real.append(self._taken[-1])
            told = None if self._real.finished else self._real.distributions()
            Remembered.memory[key] = (self._real.finished, self._real.usage, told)
        else:
            self._real = None
        self.finished, self.usage, self._told = Remembered.memory[key]

    def distributions(self) -> Any:
        return self._told

    def append(self, token: int) -> None:
        self._taken += (int(token),)
        self._look()


# Runs in processes of their own -------------------------------------------------------------------


class Safe(NamedTuple):
    """What a store said was safe from a loss of power: until where in which log, and how much."""

    salt: int
    frames: int
    rollouts: int
    calls: int


SAFE = struct.Struct("<4Q")


def _log_state(db: Path) -> tuple[int, int, int]:
    """The salt of the log, the frames in it, and those that are in the file already."""
    with Path(f"{db}-wal").open("rb") as log:
        header = log.read(32)
    index = Path(f"{db}-shm").read_bytes()[:136]
    if len(header) < 32 or len(index) < 136:
        return 0, 0, 0
    (frames,) = struct.unpack_from("=I", index, 16)
    (copied,) = struct.unpack_from("=I", index, 96)
    return struct.unpack_from(">Q", header, 16)[0], frames, copied


@contextmanager
def telling(db: Path, moments: int | None, notes: Path | None) -> Iterator[None]:
    """Tell through a pipe when a transaction begins, and in a file what is safe after it."""
    real = SqliteFile.transaction

    @contextmanager
    def told(self: SqliteFile, *, durable: bool = False) -> Iterator[None]:
        if moments is not None:
            os.write(moments, b".")
        with real(self, durable=durable):
            yield
        if durable and notes is not None:
            counts = [
                self.read(f"SELECT count(*) FROM {t}")[1][0][0] for t in ("rollouts", "calls")
            ]
            salt, frames, _ = _log_state(db)
            with notes.open("r+b") as file:
                file.write(SAFE.pack(salt, frames, *counts))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SqliteFile, "transaction", told)
        yield


def run(problems: Path, db: Path, options: Sequence[str], out: Path) -> None:
    """A run to its end, in this process; its figures go to `out`."""
    from recov_graph.cli import cli

    how = ("--verifier", "numeric", "--no-baseline", "--resume", "--json", str(out))
    with out.with_suffix(".said").open("w") as said:
        sys.stdout = sys.stderr = said
        cli(["run", str(problems), "--db", str(db), *how, *options], standalone_mode=False)


def child(
    problems: Path,
    db: Path,
    options: Sequence[str],
    out: Path,
    *,
    moments: int | None = None,
    notes: Path | None = None,
    learn: Path | None = None,
) -> int:
    """The number of a process that runs; its exit code is 0 where it came to the end."""
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        embedded.EmbeddedPair = Remembered  # type: ignore[misc]
        Remembered.seconds = 0.0 if learn else CALL_SECONDS
        with telling(db, moments, notes):
            run(problems, db, options, out)
        if learn is not None:
            learn.write_bytes(pickle.dumps(Remembered.memory))
        code = 0
    except BaseException as error:  # told to the parent, which raises it
        out.with_suffix(".error").write_text(repr(error))
    finally:
        os._exit(code)


def finished(number: int, out: Path) -> bool:
    """Wait for a child; whether it came to its end by itself."""
    _, status = os.waitpid(number, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    told = [out.with_suffix(suffix) for suffix in (".error", ".said")]
    assert status == 0, [path.read_text() for path in told if path.exists()]
    return True


def figures_of(out: Path) -> dict[str, Any]:
    """The figures of a run, without what differs from one to the next."""
    figures: dict[str, Any] = json.loads(out.read_text())
    return {name: figures[name] for name in figures if name not in ("seconds", "db", "run")}


_learned: set[Any] = set()


class Undisturbed(NamedTuple):
    """What a run comes to that nobody kills: the problems, the figures, how long it takes."""

    problems: Rows
    figures: dict[str, Any]
    seconds: float
    transactions: int


def undisturbed(folder: Path, problems: Path, options: Sequence[str]) -> Undisturbed:
    """A run that nobody kills, first to learn what the model says, then at the usual speed."""
    for module in LOADED:
        importlib.import_module(f"recov_graph.{module}")
    db, out = folder / "undisturbed.db", folder / "undisturbed.json"
    asked = (problems.read_text(), tuple(option for option in options if "total" in option))
    if asked not in _learned:
        memory = folder / "memory.pickle"
        assert finished(child(problems, db, options, out, learn=memory), out)
        Remembered.memory |= pickle.loads(memory.read_bytes())
        _learned.add(asked)
    for suffix in ("", "-wal", "-shm"):
        Path(f"{db}{suffix}").unlink(missing_ok=True)
    reader, writer = os.pipe()
    started = time.monotonic()
    assert finished(child(problems, db, options, out, moments=writer), out)
    seconds = time.monotonic() - started
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        transactions = len(told.read())
    gc.freeze()  # or every child copies all pages
    return Undisturbed(ended(db), figures_of(out), seconds, transactions)


# Commands in processes of their own ---------------------------------------------------------------

DIED = 99


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str
    calls: int

    @property
    def complaint(self) -> str:
        """The one line with which it ended early."""
        assert self.code == 2, self
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1, self.err
        assert self.err.rstrip().endswith(lines[0])
        return lines[0]


class Command:
    """A command of recov-graph in a process that is forked, so that nothing is imported anew.

    Args:
        arguments: of the command.
        folder: where it leaves what it says.
        first: done there before anything else.
        seconds: how long each call of the model takes.
    """

    def __init__(
        self,
        arguments: Sequence[Any],
        folder: Path,
        first: Callable[[], None] = lambda: None,
        seconds: float = 0.0,
    ) -> None:
        self._told = [folder / name for name in ("out", "err", "calls")]
        self.number = os.fork()
        if not self.number:
            code = 1
            try:
                out, err, calls = (os.open(at, os.O_CREAT | os.O_WRONLY) for at in self._told)
                os.dup2(out, 1)
                os.dup2(err, 2)
                sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115

                def asked(*_: Any) -> None:
                    os.write(calls, b".")
                    time.sleep(seconds)

                Remembered.asked = asked  # type: ignore[method-assign]
                embedded.EmbeddedPair = Remembered  # type: ignore[misc]
                sys.argv = ["recov-graph", *map(str, arguments)]
                first()
                importlib.import_module("recov_graph.cli").main()
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                with suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)

    @property
    def calls(self) -> int:
        """How often the model was asked so far."""
        return self._told[2].stat().st_size if self._told[2].exists() else 0

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return os.waitid(os.P_PID, self.number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self) -> Done:
        """How it ended."""
        _, status = os.waitpid(self.number, 0)
        out, err = (path.read_text() if path.exists() else "" for path in self._told[:2])
        return Done(os.waitstatus_to_exitcode(status), out, err, self.calls)


def command(*arguments: Any, first: Callable[[], None] = lambda: None) -> Done:
    """A command in a process of its own, after something was done there first."""
    with tempfile.TemporaryDirectory() as made:
        return Command(arguments, Path(made), first).wait()


def dying(after: int) -> Callable[[], None]:
    """The process ends right after so many transactions."""

    def patched() -> None:
        real, left = SqliteFile.transaction, after

        @contextmanager
        def counted(self: SqliteFile, *, durable: bool = False) -> Iterator[None]:
            nonlocal left
            with real(self, durable=durable):
                yield
            left -= 1
            if not left:
                os._exit(DIED)

        SqliteFile.transaction = counted  # type: ignore[method-assign,assignment]

    return patched


# Looking at what is left --------------------------------------------------------------------------


def healthy(db: Path) -> Checkup:
    """What the doctor says of a file that is whole, once that is the truth."""
    checkup = check_up(db)
    assert checkup.healthy, [one for one in checkup.findings if one.status == "wrong"]
    with closing(open_to_read(db)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert file.execute("PRAGMA foreign_key_check").fetchall() == []
        if not file.execute("SELECT 1 FROM sqlite_master WHERE name = 'underway'").fetchall():
            return checkup
        (begun,) = file.execute("SELECT count(*) FROM problems").fetchone()
        (done,) = file.execute("SELECT count(*) FROM outcomes").fetchone()
    # At the end of the making of the tables there is not a run yet.
    assert sum(run.begun for run in checkup.runs) == begun
    assert sum(run.ended for run in checkup.runs) == done
    half = [one.says for one in checkup.findings if one.name == "under way"]
    assert bool(half) == (begun > done)
    assert all(says.startswith(f"{begun - done} problem") for says in half)
    return checkup


def check(db: Path, before: tuple[Rows, set[str]]) -> tuple[Rows, set[str]]:
    """What is stored by now, once it is sure that the file is whole and all that was is there."""
    if not db.exists():
        return before
    healthy(db)
    now, done = stored(db)
    had, had_ended = before
    assert had_ended <= done
    for key, rows in had.items():
        if key in had_ended:
            assert now[key] == rows, "what had ended is not what it was"
        kept = [row for row in rows if row[0] in PAID]
        assert set(kept) <= set(now[key]), "what was paid for is gone"
    return now, done


def same_as(expected: Undisturbed, db: Path, out: Path) -> None:
    """The run came to what an undisturbed one comes to."""
    assert ended(db) == expected.problems
    assert figures_of(out) == expected.figures
    with closing(sqlite3.connect(db)) as file:
        assert file.execute("SELECT count(*) FROM runs").fetchone() == (1,)
        assert file.execute("SELECT count(*) FROM underway").fetchone() == (0,)


# Kills --------------------------------------------------------------------------------------------


@dataclass
class Killed:
    """What the kills came to: how many, when, of how many runs, and how long it took."""

    kills: int = 0
    completed: int = 0
    seconds: float = 0.0
    at_writes: int = 0
    moments: list[float] = field(default_factory=list)
    stages: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        at = sorted(self.moments)
        spread = ", ".join(f"{at[len(at) * i // 4] * 1000:.0f}" for i in range(4)) if at else ""
        stages = ", ".join(f"{stage}: {n}" for stage, n in sorted(self.stages.items()))
        return (
            f"{self.kills} kills ({self.at_writes} of them close to a write), "
            f"{self.completed} runs completed as if undisturbed, {self.seconds:.0f} s; "
            f"ms after the start, quartiles: {spread}, {at[-1] * 1000 if at else 0:.0f}; "
            f"problems ended when killed: {stages}"
        )


def _stage(done: int, whole: int) -> str:
    return "none" if not done else "all" if done == whole else f"{25 * (4 * done // whole)}% on"


def kill_at_random(
    folder: Path, problems: Path, kills: int, rng: random.Random, options: Sequence[str] = ()
) -> Killed:
    """Kill runs at random moments and let each come to its end.

    Raises:
        AssertionError: a file is not whole, or a run came to another end than an undisturbed one.
    """
    result, began = Killed(), time.monotonic()
    expected = undisturbed(folder, problems, options)
    whole = len(expected.problems)
    while result.kills < kills:
        db, out = folder / f"run{result.completed}.db", folder / f"run{result.completed}.json"
        before: tuple[Rows, set[str]] = ({}, set())
        done = False
        while not done and result.kills < kills:
            left = max(0.2, 1 - len(before[1]) / max(1, whole))
            reader, writer = os.pipe()
            started = time.monotonic()
            number = child(problems, db, options, out, moments=writer)
            os.close(writer)
            at_write = rng.random() < 0.5
            with os.fdopen(reader, "rb", buffering=0) as told:
                if at_write:
                    nth = rng.randint(1, max(1, int(0.8 * expected.transactions * left)))
                    while nth > 0 and (read := told.read(nth)):
                        nth -= len(read)
                    time.sleep(rng.choice((0, 0, rng.uniform(0, 0.003))))
                else:
                    time.sleep(rng.uniform(0, 0.8 * expected.seconds * left))
                os.kill(number, signal.SIGKILL)
            at = time.monotonic() - started
            done = finished(number, out)
            if not done:
                before = check(db, before)
                result.kills += 1
                result.at_writes += at_write
                result.moments.append(at)
                result.stages[_stage(len(before[1]), whole)] += 1
        assert done or finished(child(problems, db, options, out), out)
        check(db, before)
        same_as(expected, db, out)
        result.completed += 1
        for suffix in ("", "-wal", "-shm"):
            Path(f"{db}{suffix}").unlink(missing_ok=True)
    result.seconds = time.monotonic() - began
    return result


# Losses of power ----------------------------------------------------------------------------------


def lose_power(
    folder: Path, problems: Path, losses: int, rng: random.Random, options: Sequence[str] = ()
) -> Counter[str]:
    """Cut or garble the log beside a file that is written to, behind what was told to be safe.

    What a disk may have lost is what was written since it was last told to keep all: the end of
    the log, from the last durable transaction on, in any state.

    Raises:
        AssertionError: what was safe is gone, or the run does not come to the same end.
    """
    expected = undisturbed(folder, problems, options)
    made: Counter[str] = Counter()
    for place in range(losses):
        db, out = folder / f"power{place}.db", folder / f"power{place}.json"
        notes = folder / f"power{place}.safe"
        notes.write_bytes(SAFE.pack(0, 0, 0, 0))
        number = child(problems, db, options, out, notes=notes)
        time.sleep(rng.uniform(0.05, expected.seconds))
        os.kill(number, signal.SIGSTOP)
        safe = Safe(*SAFE.unpack(notes.read_bytes()))
        copy = folder / f"after{place}.db"
        state = _copied(db, copy)
        os.kill(number, signal.SIGKILL)
        finished(number, out)
        made[_spoilt(copy, safe, state, rng)] += 1
        if copy.exists():
            healthy(copy)
            with closing(sqlite3.connect(copy)) as file:
                for table, least in (("rollouts", safe.rollouts), ("calls", safe.calls)):
                    if least:
                        (count,) = file.execute(f"SELECT count(*) FROM {table}").fetchone()
                        assert count >= least, f"{least - count} {table} of {least} are gone"
        assert finished(child(problems, copy, options, out), out)
        healthy(copy)
        same_as(expected, copy, out)
    return made


def _copied(db: Path, copy: Path) -> tuple[int, int, int]:
    """Copy a store and the log beside it; the state of the log."""
    for suffix in ("", "-wal"):
        if Path(f"{db}{suffix}").exists():
            shutil.copyfile(f"{db}{suffix}", f"{copy}{suffix}")
    try:
        return _log_state(db)
    except FileNotFoundError:
        return 0, 0, 0


def _spoilt(copy: Path, safe: Safe, state: tuple[int, int, int], rng: random.Random) -> str:
    """Spoil the end of the log that need not have reached the disk; how."""
    log = Path(f"{copy}-wal")
    if not log.exists() or log.stat().st_size <= 32:
        return "no log"
    with closing(sqlite3.connect(f"file:{copy}?mode=ro&immutable=1", uri=True)) as file:
        (page,) = file.execute("PRAGMA page_size").fetchone()
    salt, frames, copied = state
    told = safe.frames if salt == safe.salt else 0
    low = 32 + max(told, copied) * (24 + page)
    high = 32 + frames * (24 + page)
    content = bytearray(log.read_bytes())
    if low >= high:
        return "nothing unsafe"
    at = rng.randint(low, high)
    how = rng.choice(("cut", "garbled", "zeroed", "a page lost"))
    if how == "cut":
        del content[at:]
    elif how == "garbled":
        content[at:high] = rng.randbytes(high - at)
    elif how == "zeroed":
        content[at:high] = bytes(high - at)
    else:
        content[at : at + 512] = bytes(len(content[at : at + 512]))
    log.write_bytes(content)
    return how


WAYS: dict[str, tuple[str, ...]] = {
    "one at a time": (),
    "four at a time": ("--concurrency", "4"),
    "so many attempts over all": ("--total-attempts", "150"),
    "so many tokens over all": ("--total-tokens", "6000"),
}


def some_problems(folder: Path, number: int = 24) -> Path:
    """A file of bundled problems, those that fail among them."""
    path = folder / "problems.jsonl"
    lines = [problem.model_dump_json() for problem in embedded.bundled_problems()[::6][:number]]
    path.write_text("\n".join(lines) + "\n")
    return path


def main() -> None:
    """Kill as often as the command line says, a share for each way of running."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--losses", type=int, default=40, help="of power")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    began = time.monotonic()

    def share(number: int, place: int) -> int:
        return number // len(WAYS) + (place < number % len(WAYS))

    kills = completed = 0
    for place, (name, options) in enumerate(WAYS.items()):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            problems = some_problems(folder)
            killed = kill_at_random(folder, problems, share(given.kills, place), rng, options)
            kills, completed = kills + killed.kills, completed + killed.completed
            print(f"{name}: {killed}", flush=True)
            if losses := share(given.losses, place):
                spoilt = lose_power(folder, problems, losses, rng, options)
                print(f"  losses of power: {dict(spoilt)}, each gone on with", flush=True)
    seconds = time.monotonic() - began
    print(f"{kills} kills, {completed} runs completed as if undisturbed, {seconds:.0f} s in all")


if __name__ == "__main__":
    main()
