"""What the command line prints: the progress bar, the closing table, stored runs and problems."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from recov_graph.batch import Batch
from recov_graph.errors import StoreError
from recov_graph.store import TraceStore
from recov_graph.words import count

Row = dict[str, Any]


@contextmanager
def progress(total: int) -> Iterator[Callable[[Batch], None]]:
    """A live bar with solved, rescued and stopped counts; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda batch: None
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("solved {task.fields[solved]}  rescued {task.fields[rescued]}"),
        TextColumn("stopped {task.fields[stopped]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, solved=0, rescued=0, stopped=0)
        counts: dict[str, Any] = {"solved": 0, "rescued": 0, "stopped": 0}

        def advance(batch: Batch) -> None:
            output = batch.results[-1][1]
            counts["solved"] += output["solved"]
            counts["rescued"] += output["solved"] and bool(output["route"])
            counts["stopped"] += output["stop_reason"] == "out_of_reach"
            bar.update(task, advance=1, **counts)

        yield advance


def print_summary(figures: Row) -> None:
    """The closing table of a batch."""
    out = console()
    table = Table(
        title="Failed problems by the regime predicted first, and by intervention",
        title_style="bold",
    )
    for heading in ("regime", "intervention"):
        table.add_column(heading)
    for heading in ("problems", "attempts", "rescued", "tokens"):
        table.add_column(heading, justify="right")
    for regime, row in figures["by_regime"].items():
        for operator, counts in row["by_intervention"].items():
            cells = (counts["attempts"], counts["rescues"], counts["tokens"])
            table.add_row(regime, operator, "", *map(number, cells))
        table.add_row(
            regime,
            Text("all, with scoring", style="bold"),
            number(row["problems"]),
            number(sum(c["attempts"] for c in row["by_intervention"].values())),
            Text(number(row["rescued"]), style="bold"),
            number(row["tokens"]),
        )
        if "retry_alone" in row:
            table.add_row(regime, Text("retry alone instead", style="italic"), *_retry(row))
        table.add_section()
    if figures["by_regime"]:
        out.print(table)
    out.print(_headline(figures))


def _headline(figures: Row) -> str:
    lines = [
        f"{count(figures['problems'], 'problem')}: {figures['solved_first']} solved by the "
        f"first samples, {figures['failed']} failed.",
    ]
    if figures["failed"]:
        lines.append(
            f"Of the failed: {figures['rescued']} rescued, {figures['stopped']} stopped because "
            f"the chance of a rescue was too small, {figures['budget_exhausted']} out of budget"
            + (f"; {figures['errors']} ended in an error." if figures["errors"] else ".")
        )
    if figures["not_reached"]:
        lines.append(f"{number(figures['not_reached'])} were not begun: the budget was spent.")
    if figures["unjudged"]:
        lines.append(f"{figures['unjudged']} could not be sampled and judged at all.")
    retry = figures.get("retry_alone")
    if retry is not None and retry["attempts"]:
        ours, theirs = (row["rescued"] / figures["failed"] for row in (figures, retry))
        lines.append(
            f"Retry alone, measured with {number(retry['tokens'])} tokens where the routed loop "
            f"spent {number(figures['recovery_tokens'])}: {retry['rescued']} rescued "
            f"({theirs:.0%}; the routed loop {ours:.0%})."
        )
    lines.append(
        f"{number(figures['tokens'])} tokens, {figures['seconds']:.1f} s, traces in {figures['db']}"
    )
    return "\n".join(lines)


def _retry(row: Row) -> tuple[str, str, str, str]:
    retry = row["retry_alone"]
    return (
        number(row["problems"]),
        number(retry["attempts"]),
        number(retry["rescued"]),
        number(retry["tokens"]),
    )


def print_run(store: TraceStore, run_id: str | None) -> None:
    """A stored run: how its problems ended."""
    run = _run(store, run_id)
    out = console()
    problems = store.run_problems(run["id"])
    out.print(
        f"run {run['id']} ({run['kind']}, {run['started_at']}): model {plain(run['model'])}, "
        f"verifier {plain(run['verifier'])}, "
        f"policy {plain(run['policy'])} {plain(run['policy_hash'])}"
    )
    table = Table()
    for heading in ("problem", "task", "ended", "regime"):
        table.add_column(heading)
    for heading in ("attempts", "tokens"):
        table.add_column(heading, justify="right")
    for row in problems:
        table.add_row(
            plain(row["key"]),
            plain(row["task"]),
            row["stop_reason"] or _unended(run),
            row["regime"] or "",
            number(row["attempts"] or 0),
            number(row["tokens"] or 0),
        )
    out.print(table)
    solved = sum(bool(row["solved"]) for row in problems)
    out.print(f"{count(len(problems), 'problem')}, {solved} solved")


def print_problem(store: TraceStore, run_id: str | None, key: str) -> None:
    """One stored problem: its attempts and decisions in order."""
    run = _run(store, run_id)
    problem = store.run_problem(run["id"], key)
    if problem is None:
        raise StoreError(
            f"run {run['id']} has no problem {key!r}; `recov-graph show {run['id']}` lists them"
        )
    out = console()
    out.print(Text(f"problem {plain(key)}: {plain(problem['prompt'])}"))
    out.print(Text(f"expected: {plain(problem['answer'])}"))
    decisions = store.problem_decisions(problem["id"])
    attempts = store.problem_attempts(problem["id"])
    table = Table(show_lines=False)
    for heading in ("attempt", "operator", "verdict", "tokens", "text"):
        table.add_column(heading)
    for attempt in attempts:
        for decision in decisions:
            if decision["id"] == attempt["decision_id"]:
                table.add_row("", "", "", "", Text(plain(decision["reason"]), style="dim"))
        table.add_row(
            str(attempt["position"]),
            plain(attempt["operator"]),
            attempt["value"] or "not judged",
            number(attempt["tokens"]),
            Text(plain(attempt["text"])),
        )
    out.print(table)
    for decision in decisions:
        if decision["operator"] is None:
            out.print(Text(plain(decision["reason"])))
    ended = problem["stop_reason"] or _unended(run)
    out.print(f"{ended}, {number(problem['tokens'] or 0)} tokens")


def _unended(run: Row) -> str:
    """What a problem without an outcome is: nothing was run for outcomes from elsewhere."""
    return "imported" if run["kind"] == "import" else "unfinished"


def _run(store: TraceStore, run_id: str | None) -> Row:
    run = store.run(run_id)
    if run is None:
        if run_id is None:
            raise StoreError(f"{store.path} has no run; run `recov-graph demo` first")
        latest = store.run()
        known = f"the latest is {latest['id']}" if latest else "it has none at all"
        raise StoreError(f"{store.path} has no run {run_id!r}; {known}")
    return run


def console() -> Console:
    """Where everything is printed; markup in texts of others means nothing."""
    # Into a pipe nothing is cut: a line is as long as it has to be.
    width = None if sys.stdout.isatty() else 10_000
    return Console(highlight=False, markup=False, emoji=False, width=width)


def number(value: int) -> str:
    """With a comma between thousands."""
    return f"{value:,}"


def plain(value: str | None) -> str:
    """Text of others as one printable line: model output may hold terminal escapes."""
    if value is None:
        return "(not stored)"
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in value)
