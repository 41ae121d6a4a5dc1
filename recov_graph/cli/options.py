"""Options that several commands share, and what they check before any work is done."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click

DB_HELP = "Trace store; default: $RECOV_GRAPH_DB, storage/traces.db in a checkout, else user data."

db_option = click.option("--db", type=click.Path(path_type=Path), help=DB_HELP)
json_option = click.option(
    "--json", "json_out", metavar="OUT|-", help="Write the figures as JSON to a file or stdout."
)
seed_option = click.option(
    "--seed", type=click.IntRange(-(2**63), 2**63 - 1), default=0, show_default=True
)
store_text_option = click.option(
    "--store-text",
    type=click.Choice(["full", "hash", "none"]),
    default="full",
    show_default=True,
    help="Whether prompts, answers and outputs reach the trace store.",
)


problems_argument = click.argument(
    "problems", type=click.Path(path_type=Path), metavar="PROBLEMS.jsonl"
)
verifier_option = click.option(
    "--verifier",
    required=True,
    help="exact, numeric[:TOLERANCE], regex, json_schema[:FILE], python_test[:SECONDS] "
    "or python:MODULE:FUNCTION.",
)
model_option = click.option(
    "--model", default="embedded", show_default=True, help="The model to run."
)


def check_writable(path: Path, option: str = "--json", *inputs: Path | None) -> None:
    """Refuse an output file before any work is done for it, and one that is an input or a store."""
    target = path if path.exists() else path.parent
    if path.is_dir() or not path.parent.is_dir() or not os.access(target, os.W_OK):
        raise click.BadParameter(f"{path} cannot be written", param_hint=option)
    if any(other is not None and path.resolve() == other.resolve() for other in inputs):
        raise click.BadParameter(
            f"{path} is the problem file or the store, which it would replace; name another",
            param_hint=option,
        )
    if path.is_file():
        from recov_graph.tape import DATABASE

        with path.open("rb") as file:
            if file.read(len(DATABASE)) == DATABASE:
                raise click.BadParameter(f"{path} is a database; name another", param_hint=option)


def number(low: float, high: float, *, strict: bool = False) -> click.FloatRange:
    """A number within bounds; unlike click's own it refuses NaN."""
    return _Number(low, high, min_open=strict, max_open=strict)


class _Number(click.FloatRange):
    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        converted = float(super().convert(value, param, ctx))
        if math.isnan(converted):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return converted
