"""`doctor`: what a model's server offers and what that allows; whether a store is whole."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recov_graph.cli.options import StoreAddress, check_writable, json_option, model_options

if TYPE_CHECKING:
    from recov_graph.doctor import Allowed, Examination
    from recov_graph.store.checkup import Checkup
    from recov_graph.store.location import Address


@click.command()
@model_options
@click.option("--db", type=StoreAddress(), help="Examine this trace store; nothing is written.")
@json_option
@click.pass_context
def doctor(
    context: click.Context, /, db: Address | None, json_out: str | None, **named: Any
) -> None:
    """Show what a model's server offers, and which interventions and features that allows.

    Asks each server at most five small questions, and keeps the answers for `run`. With --db: is
    the store whole, can its runs be gone on with, and what to do where not; the exit code is 1
    where something is wrong.
    """
    if json_out not in (None, "-"):
        check_writable(Path(str(json_out)), "--json", db)
    given = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT)
    asked = any(context.get_parameter_source(name) in given for name in named)
    data: dict[str, Any] = {}
    healthy = True
    if db is not None:
        healthy = _examine_store(db, data, silent=json_out == "-")
    if db is None or asked:
        _examine_model(named, data, silent=json_out == "-")
    if json_out is not None:
        text = json.dumps(data, indent=2)
        if json_out == "-":
            click.echo(text)
        else:
            Path(json_out).write_text(text + "\n", encoding="utf-8")
    if not healthy:
        sys.exit(1)


def _examine_store(db: Address, data: dict[str, Any], *, silent: bool) -> bool:
    """Examine a store, print what was found, and say whether nothing is wrong."""
    from recov_graph.store.checkup import check_up

    checkup = check_up(db)
    data["store"] = {**asdict(checkup), "healthy": checkup.healthy}
    if not silent:
        _print_checkup(checkup)
    return checkup.healthy


def _examine_model(named: dict[str, Any], data: dict[str, Any], *, silent: bool) -> None:
    from recov_graph.cli.options import chosen_model
    from recov_graph.doctor import examine
    from recov_graph.models.openai import AccessCache, OpenAIModel

    asked_anew = AccessCache(seconds=0.0)  # what changed since is what a doctor is asked for
    model = chosen_model(**named, cache=asked_anew)
    examination = examine(model)
    data |= examination.as_data()
    if isinstance(model, OpenAIModel):
        data["calls"] = model.calls
    if not silent:
        _print(examination, data.get("calls"))


def _print_checkup(checkup: Checkup) -> None:
    from rich.table import Table

    from recov_graph.console import console, plain

    out = console()
    out.print(f"store {plain(checkup.address)}", soft_wrap=True)
    table = Table("looked at", "", "what was found", "what to do")
    for finding in checkup.findings:
        table.add_row(finding.name, finding.status, plain(finding.says), plain(finding.fix))
    out.print(table)
    if checkup.runs:
        runs = Table("run", "kind", "model", "begun", "problems", "ended", "half done", "--resume")
        for run in checkup.runs:
            half = run.begun - run.ended
            planned = "?" if run.planned is None else f"{run.planned:,}"
            cells = (run.id, run.kind, plain(run.model), run.started_at[:19], planned)
            can = "yes" if run.resumable else "no"
            runs.add_row(*cells, f"{run.ended:,}", f"{half:,}", can)
        out.print(runs)
    verdict = "nothing is wrong" if checkup.healthy else "something is wrong: see above"
    out.print(verdict)


def _print(examination: Examination, calls: int | None) -> None:
    from rich.table import Table

    from recov_graph.console import console, plain
    from recov_graph.words import count

    out = console()
    asked = "" if calls is None else f" ({count(calls, 'small call')} made)"
    out.print(f"model {plain(examination.model)}{asked}")
    if examination.facts:
        with_ancestor = examination.facts[0].ancestor is not None
        table = Table("offered", "specialist", *(["ancestor"] if with_ancestor else []))
        for fact in examination.facts:
            table.add_row(*(cell for cell in fact if cell is not None))
        out.print(table)
    table = Table("allowed", "", "what to do about it")
    for row in (*examination.features, *examination.interventions):
        table.add_row(row.name, _mark(row), plain(row.fix))
    out.print(table)


def _mark(row: Allowed) -> str:
    return "yes" if row.possible else "no"
