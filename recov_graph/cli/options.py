"""Options that several commands share, and what they check before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

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


def check_writable(path: Path, option: str = "--json") -> None:
    """Refuse an output file before any work is done for it."""
    target = path if path.exists() else path.parent
    if path.is_dir() or not path.parent.is_dir() or not os.access(target, os.W_OK):
        raise click.BadParameter(f"{path} cannot be written", param_hint=option)
