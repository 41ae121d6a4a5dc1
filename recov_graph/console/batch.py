"""A batch under way and its end: the progress bar, the closing table, what to look at next."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from recov_graph.console.text import console, draws, number, plain, say, watched
from recov_graph.words import count

if TYPE_CHECKING:  # the graph behind it takes long to import, and `show` needs none
    from recov_graph.figures import Figures

Row = dict[str, Any]


@contextmanager
def progress(total: int, *, bare: bool = False) -> Iterator[Callable[[Figures], None]]:
    """A live bar with solved, rescued and stopped counts; nothing where stderr is no terminal."""
    if bare or not sys.stderr.isatty():
        yield lambda figures: None
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

        def advance(figures: Figures) -> None:
            bar.update(
                task,
                completed=figures.problems,
                solved=figures.solved,
                rescued=figures.rescued,
                stopped=figures.stopped,
            )

        yield advance


def print_summary(figures: Row, *, bare: bool = False) -> None:
    """The closing table of a batch, or its figures as facts."""
    if not draws(bare):
        _say_summary(figures)
        return
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


def print_next(example: str | None, db: Path | str | None, *, bare: bool = False) -> None:
    """What to look at next, for whoever sits at a terminal.

    Args:
        example: the problem to look at, where there is one.
        db: the store where it is not the default one.
        bare: as ``--plain`` says.
    """
    if example is None or not watched(bare):
        return
    from recov_graph.store.location import shown

    named = "" if db is None else f" --db {shlex.quote(plain(shown(db)))}"
    show = f"recov-graph show --problem {shlex.quote(plain(example))}{named}"
    said = f"look closer: `{show}` or `recov-graph report{named}`"
    console().print(said, style="dim", soft_wrap=True)


def _say_summary(figures: Row) -> None:
    for regime, row in figures["by_regime"].items():
        for operator, counts in row["by_intervention"].items():
            say("intervention", regime=regime, operator=operator, **counts)
        counts = {name: row[name] for name in ("problems", "rescued", "tokens")}
        say("regime", regime=regime, **counts)
        if "retry_alone" in row:
            say("retry_alone", regime=regime, problems=row["problems"], **row["retry_alone"])
    if "retry_alone" in figures:
        say("retry_alone", regime="all", problems=figures["failed"], **figures["retry_alone"])
    simple = (str, int, float)
    say("batch", **{name: one for name, one in figures.items() if isinstance(one, simple)})


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
