"""Stored runs: all of them, or how the problems of one ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recov_graph.console.tables import Column, coloured, failed_first, fitted, how_ended
from recov_graph.console.text import console, draws, number, plain, say
from recov_graph.store import TraceStore
from recov_graph.store.following import all_runs, find_run
from recov_graph.words import count

Row = dict[str, Any]
RUN_COLUMNS = (
    Column("run"),
    Column("kind", spare=3),
    Column("model", spare=2),
    Column("policy", spare=5),
    Column("started", spare=4),
    Column("problems", right=True),
    Column("failed", right=True),
    Column("rescued", right=True),
    Column("tokens", right=True, spare=1),
)
PROBLEM_COLUMNS = (
    Column("problem"),
    Column("task", spare=4),
    Column("ended"),
    Column("regime", spare=3),
    Column("attempts", right=True, spare=2),
    Column("tokens", right=True, spare=1),
)
ENDED = (
    ("rescued", "rescued"),
    ("out_of_reach", "stopped"),
    ("budget_exhausted", "out of budget"),
    ("model_error", "model errors"),
    ("verifier_error", "verifier errors"),
)
COUNTED = ("problems", "failed", "rescued", "tokens")


def print_runs(store: TraceStore, *, bare: bool = False) -> None:
    """All runs of a store, the oldest first.

    Raises:
        StoreError: there is none.
    """
    find_run(store, None)
    runs = all_runs(store)
    if not draws(bare):
        for run in runs:
            say_run(run, **{name: run[name] for name in COUNTED})
        return
    out = console()
    rows = [
        (
            plain(run["id"]),
            plain(run["kind"]),
            plain(run["model"]),
            plain(run["policy"]),
            run["started_at"][:16].replace("T", " "),
            *(number(run[name]) for name in COUNTED),
        )
        for run in runs
    ]
    out.print(fitted(RUN_COLUMNS, rows, out.width))
    out.print(count(len(runs), "run"))


def say_run(run: Row, **more: Any) -> None:
    """A run as a fact."""
    named = ("id", "kind", "model", "verifier", "policy", "policy_hash", "seed", "store_text")
    say("run", **{name: run[name] for name in named}, started=run["started_at"], **more)


def print_run(store: TraceStore, run_id: str | None, *, bare: bool = False) -> None:
    """A stored run: how its problems ended.

    Raises:
        StoreError: there is no such run.
    """
    run = find_run(store, run_id)
    problems = store.run_problems(run["id"])
    ended = [how_ended(problem, run) for problem in problems]
    if not draws(bare):
        _say_problems(run, problems, ended)
        return
    out = console()
    out.print(
        f"run {run['id']} ({plain(run['kind'])}, {run['started_at']}): "
        f"model {plain(run['model'])}, verifier {plain(run['verifier'])}, "
        f"policy {plain(run['policy'])} {plain(run['policy_hash'])}"
    )
    rows = [
        (
            plain(row["key"]),
            plain(row["task"]),
            coloured(how),
            plain(row["regime"] or ""),
            number(row["attempts"] or 0),
            number(row["tokens"] or 0),
        )
        for row, how in zip(problems, ended, strict=True)
    ]
    out.print(fitted(PROBLEM_COLUMNS, rows, out.width))
    out.print(_closing(problems, ended))


def _closing(problems: Sequence[Row], ended: Sequence[str]) -> str:
    solved = sum(bool(row["solved"]) for row in problems)
    line = f"{count(len(problems), 'problem')}, {number(solved)} solved"
    failed = [how for row, how in zip(problems, ended, strict=True) if failed_first(row)]
    if failed:
        told = [
            f"{number(failed.count(how))} {words}"
            for how, words in ENDED
            if how in failed or how in ("rescued", "out_of_reach")
        ]
        line += f"; {number(len(failed))} failed: {', '.join(told)}"
    unfinished = ended.count("unfinished")
    return f"{line}; {number(unfinished)} unfinished" if unfinished else line


def _say_problems(run: Row, problems: Sequence[Row], ended: Sequence[str]) -> None:
    say_run(run)
    for row, how in zip(problems, ended, strict=True):
        say(
            "problem",
            id=row["key"],
            task=row["task"],
            ended=how,
            regime=row["regime"],
            attempts=row["attempts"] or 0,
            tokens=row["tokens"] or 0,
        )
    say(
        "total",
        problems=len(problems),
        solved=sum(bool(row["solved"]) for row in problems),
        failed=sum(map(failed_first, problems)),
        rescued=ended.count("rescued"),
        stopped=ended.count("out_of_reach"),
        budget_exhausted=ended.count("budget_exhausted"),
        errors=ended.count("model_error") + ended.count("verifier_error"),
        unfinished=ended.count("unfinished"),
        tokens=sum(row["tokens"] or 0 for row in problems),
    )
