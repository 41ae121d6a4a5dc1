"""`report`: what failed, what was rescued and what it cost, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from recov_graph.cli.options import (
    check_writable,
    db_option,
    existing_store,
    policy_option,
    write_whole,
)

if TYPE_CHECKING:
    from recov_graph.store.location import Address


@click.command()
@db_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="The page, which replaces an older one; - for stdout.",
)
@click.option("--run", "run_id", metavar="RUN", help="Only this run; default: all in the store.")
@click.option("--problem", metavar="ID", help="Also show this problem closely, by its id.")
@click.option(
    "--texts/--no-texts",
    default=True,
    show_default=True,
    help="Whether prompts, answers and outputs are in it, as far as they are stored.",
)
@policy_option
def report(
    db: Address | None,
    out: Path,
    run_id: str | None,
    problem: str | None,
    texts: bool,
    policy: str | None,
) -> None:
    """Write one page of what failed, what rescued it and what it cost; it needs no network."""
    from recov_graph.policies import PolicyShelf
    from recov_graph.report import build_report, render_page
    from recov_graph.store import TraceStore

    path = existing_store(db)
    to_stdout = str(out) == "-"
    if not to_stdout:
        check_writable(out, "--out", path)
    chosen = None if policy is None else PolicyShelf().find(policy)
    with TraceStore(path) as store:
        made = build_report(store, policy=chosen, run=run_id, case=problem, texts=texts)
    text = render_page(made)
    if to_stdout:
        click.echo(text, nl=False)
        return
    write_whole(out, text.encode(), "--out")
    click.echo(f"{out}: {made.failed} of {made.problems} problems failed, {_size(text)}")


def _size(text: str) -> str:
    return f"{len(text.encode()) / 1e6:.1f} MB"
