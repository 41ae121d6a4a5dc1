"""`doctor`: what a model's server offers, what that allows, and what to do about the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recov_graph.cli.options import check_writable, json_option, model_options

if TYPE_CHECKING:
    from recov_graph.doctor import Allowed, Examination


@click.command()
@model_options
@json_option
def doctor(json_out: str | None, **named: Any) -> None:
    """Show what a model's server offers, and which interventions and features that allows.

    Asks each server at most five small questions, and keeps the answers for `run`.
    """
    from recov_graph.cli.options import chosen_model
    from recov_graph.doctor import examine
    from recov_graph.models.openai import AccessCache, OpenAIModel

    if json_out not in (None, "-"):
        check_writable(Path(str(json_out)))
    asked_anew = AccessCache(seconds=0.0)  # what changed since is what a doctor is asked for
    model = chosen_model(**named, cache=asked_anew)
    examination = examine(model)
    data = examination.as_data()
    if isinstance(model, OpenAIModel):
        data["calls"] = model.calls
    if json_out == "-":
        click.echo(json.dumps(data, indent=2))
        return
    _print(examination, data.get("calls"))
    if json_out is not None:
        Path(json_out).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


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
