"""`import`: outcomes that were measured elsewhere, into the trace store."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recov_graph.cli.options import db_option

ATTEMPTS = 20.0  # profiles.RATE_ATTEMPTS, which cannot be had without importing numpy

if TYPE_CHECKING:
    from recov_graph.store.location import Address


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@db_option
@click.option("--model", help="Model of rollouts that name none; default: unknown.")
@click.option("--task", help="Task of rollouts that name none; default: default.")
@click.option(
    "--attempts",
    type=float,
    default=ATTEMPTS,
    show_default=True,
    help="How many attempts a rate of a profile CSV stands for.",
)
@click.option(
    "--kind",
    type=click.Choice(["profiles", "rollouts"]),
    help="What the file is; default: by its ending, .csv or .jsonl.",
)
def import_(file: Path, db: Address | None, **options: Any) -> None:
    """Store outcomes that were measured elsewhere, for `recov-graph refit` to learn from.

    FILE is a profile CSV, one failed problem a row with the rescue rate of each operator, or
    rollouts as JSONL, one object a line with problem, operator, passed and tokens. A file with a
    bad line is not stored at all; one that was imported before changes nothing.
    """
    from recov_graph.importing import import_file
    from recov_graph.store import TraceStore, default_path
    from recov_graph.words import count

    with TraceStore(db or default_path()) as store:
        done = import_file(file, store, **options)
        path = store.path
    runs = f"run {done.run_id}" if len(done.runs) == 1 else f"{len(done.runs)} runs, one a model"
    what = f"{count(done.problems, 'problem')} with {_attempts(done.attempts)}"
    then = "recov-graph refit" if db is None else f"recov-graph refit --db {shlex.quote(path)}"
    if done.new:
        said = f"stored {what} in {path} ({runs})"
    else:
        said = f"{path} already has these {what} ({runs}), nothing was changed"
    click.echo(f"{said}; `{then}` learns from them")


def _attempts(number: float) -> str:
    return "1 attempt" if number == 1 else f"{number:,.10g} attempts"
