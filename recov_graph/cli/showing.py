"""`show` and `features`: what is stored, and what token log-probabilities say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from recov_graph.cli.options import db_option, existing_store, plain_option

if TYPE_CHECKING:
    from recov_graph.store.location import Address


@click.command()
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--problem", help="A problem's id: show its decisions, attempts and tokens.")
@click.option("--runs", is_flag=True, help="List all runs.")
@db_option
@plain_option
def show(
    run_id: str | None, problem: str | None, runs: bool, db: Address | None, bare: bool
) -> None:
    """Show a stored run, by default the latest, or one problem of it, or all runs."""
    from recov_graph.console import print_problem, print_run, print_runs
    from recov_graph.store import TraceStore

    if runs and (run_id is not None or problem is not None):
        raise click.BadParameter("lists all runs; name no run or problem", param_hint="--runs")
    with TraceStore(existing_store(db)) as store:
        if runs:
            print_runs(store, bare=bare)
        elif problem is None:
            print_run(store, run_id, bare=bare)
        else:
            print_problem(store, run_id, problem, bare=bare)


@click.command()
@click.argument("traces", type=click.File("r", encoding="utf-8"), metavar="TRACES.jsonl|-")
@click.option("--signals", is_flag=True, help="Print every token's signals too.")
def features(traces: Any, signals: bool) -> None:
    """Measure rollouts: top-K log-probabilities in, junction and features out, as JSONL."""
    from recov_graph.topk_file import as_line, read_traces

    for trace in read_traces(traces, traces.name):
        click.echo(as_line(*trace, with_signals=signals))
