"""`record`: a tape of what every operator does on problems whose first samples fail."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recov_graph.cli.options import (
    check_writable,
    chosen_interventions,
    chosen_model,
    db_option,
    decoding_options,
    interventions_option,
    model_options,
    problems_argument,
    seed_option,
    store_text_option,
    verifier_option,
)

if TYPE_CHECKING:
    from recov_graph.record import Recorded
    from recov_graph.store.location import Address


@click.command()
@problems_argument
@verifier_option
@model_options
@click.option(
    "--attempts",
    type=int,
    default=32,
    show_default=True,
    help="Of each intervention on each failed problem.",
)
@decoding_options
@click.option("--processes", type=int, default=1, show_default=True, help="Working side by side.")
@interventions_option
@click.option("--out", type=click.Path(path_type=Path), help="Also write the store's tape as text.")
@seed_option
@db_option
@store_text_option
def record(
    problems: Path,
    verifier: str,
    model: str,
    base_url: str | None,
    ancestor: str | None,
    ancestor_base_url: str | None,
    interventions: str | None,
    processes: int,
    out: Path | None,
    db: Address | None,
    store_text: Any,
    **settings: Any,
) -> None:
    """Try every intervention many times on each problem of a file whose first samples fail.

    Policies can be compared on such a tape, and learned from it, without calling a model again. A
    failed problem costs as much as dozens of others: record some hundred, not all.
    """
    from recov_graph.interventions import resolve
    from recov_graph.problem import read_problems
    from recov_graph.record import Settings
    from recov_graph.record import record as record_tape
    from recov_graph.store import TraceStore, default_path
    from recov_graph.verifiers import as_verifier

    sys.path.insert(0, str(Path.cwd()))  # where --verifier python:MODULE:FUNCTION is looked for
    asked = read_problems(problems)
    how = Settings(**settings)
    as_verifier(verifier)  # before a store is made, like all that follows
    chosen = chosen_model(model, base_url, ancestor, ancestor_base_url)
    names = chosen_interventions(interventions, chosen)
    resolve(names, chosen.capabilities)
    path = db or default_path()
    if out is not None:
        check_writable(out, "--out", problems, path)
    tally = _Tally(len(asked))
    with TraceStore(path, store_text=store_text) as store, _progress(tally) as on_result:
        try:
            record_tape(
                model if model == "embedded" else chosen,
                verifier,
                asked,
                store,
                settings=how,
                interventions=names,
                processes=processes,
                on_result=on_result,
            )
        except KeyboardInterrupt:
            tally.interrupted = True
    _finish(tally, path, out, f"{problems.name}, model {model}, {how.attempts} attempts")


@dataclass(slots=True)
class _Tally:
    """What was recorded so far."""

    total: int
    done: int = 0
    solved: int = 0
    unsolved: int = 0
    on_tape: int = 0
    tokens: int = 0
    errors: list[str] = field(default_factory=list)
    interrupted: bool = False

    def add(self, recorded: Recorded) -> None:
        """One more problem was recorded."""
        self.done += 1
        self.solved += recorded.solved
        self.unsolved += recorded.unsolved
        self.on_tape += bool(recorded.made)
        self.tokens += recorded.spent.tokens
        if recorded.error is not None:
            self.errors.append(recorded.error)


@contextmanager
def _progress(tally: _Tally) -> Iterator[Callable[[Recorded], None]]:
    """A live bar with the problems on the tape; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield tally.add
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("failed {task.fields[failed]}  tokens {task.fields[tokens]:,}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=tally.total, failed=0, tokens=0)

        def advance(recorded: Recorded) -> None:
            tally.add(recorded)
            bar.update(task, advance=1, failed=tally.unsolved, tokens=tally.tokens)

        yield advance


def _finish(tally: _Tally, db: Address, out: Path | None, source: str) -> None:
    """Say what became of it, write the text tape, and end with the right exit code."""
    from recov_graph.console import plain
    from recov_graph.words import count

    if tally.interrupted:
        click.echo(
            f"stopped after {tally.done:,} of {count(tally.total, 'problem')}; what was recorded "
            f"is kept: {_where(tally, db)}",
            err=True,
        )
        raise click.Abort
    click.echo(
        f"{tally.unsolved:,} of {count(tally.done, 'problem')} failed, {tally.on_tape:,} of them "
        f"on the tape; {count(tally.tokens, 'token')} spent"
        if tally.unsolved
        else f"nothing to record: {tally.solved:,} of {count(tally.done, 'problem')} solved by "
        f"their first samples, and none failed; {count(tally.tokens, 'token')} spent"
    )
    if tally.on_tape:
        if out is not None:
            _write_text(db, out, source)
        click.echo(_where(tally, db))
    if tally.errors:
        said = f"{len(tally.errors):,} of {tally.done:,} ended early: {plain(tally.errors[0])}"
        click.echo(said, err=True)
    if len(tally.errors) == tally.done:
        sys.exit(1)


def _where(tally: _Tally, db: Address) -> str:
    from recov_graph.store.location import shown

    where = shown(db)
    if not tally.on_tape:
        return f"nothing is on the tape in {where}"
    then = f"recov-graph evaluate --tape {shlex.quote(where)}"
    return f"the tape is in {where}; `{then}` compares policies on it"


def _write_text(db: Address, out: Path, source: str) -> None:
    from recov_graph.tape import read_tape, write_tape
    from recov_graph.words import count

    tape = read_tape(db)
    write_tape(tape, out, f"{count(len(tape), 'failed problem')} of {source}")
    click.echo(f"{count(len(tape), 'problem')} of that store written to {out}")
