"""`watch`: a run as it goes on, from another terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from recov_graph.cli.options import db_option, number, plain_option

if TYPE_CHECKING:
    from recov_graph.store.location import Address


@click.command()
@click.option("--run", "run_id", metavar="RUN", help="A run's id; default: whichever began last.")
@db_option
@click.option(
    "--interval",
    type=number(0.01, 3600),
    default=0.5,
    show_default=True,
    help="Seconds between looks.",
)
@click.option("--once", is_flag=True, help="Look once and end.")
@plain_option
def watch(run_id: str | None, db: Address | None, interval: float, once: bool, bare: bool) -> None:
    """Follow a run while it goes on, until Ctrl-C; waits for one where there is none yet."""
    from recov_graph.console import watch as follow
    from recov_graph.store import default_path

    follow(db or default_path(), run_id, interval=interval, bare=bare, once=once)
