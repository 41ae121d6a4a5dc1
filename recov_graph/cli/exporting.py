"""`export`: traces as a table in a file, for spreadsheets, data frames and other tools."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recov_graph.cli.options import (
    check_writable,
    db_option,
    existing_store,
    unwritable,
    write_whole,
)

if TYPE_CHECKING:
    from recov_graph.store import TraceStore
    from recov_graph.store.location import Address


@click.command()
@click.argument(
    "view", type=click.Choice(["attempt", "decision", "problem"]), default="problem", required=False
)
@db_option
@click.option("--out", default="-", metavar="FILE|-", help="Where to write; default: stdout.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["parquet", "jsonl", "csv"]),
    help="Default: by the ending of FILE, else jsonl. Parquet needs the extra 'export'.",
)
@click.option("--run", help="A run's id: only what is of it.")
@click.option(
    "--raw",
    is_flag=True,
    help="CSV: leave cells alone that a spreadsheet takes for formulas (=, +, -, @); "
    "otherwise they get an apostrophe in front.",
)
@click.option(
    "--datasette",
    metavar="FILE|-",
    help="Write metadata and canned queries for Datasette instead, for the file of --db.",
)
def export(view: str, db: Address | None, datasette: str | None, **options: Any) -> None:
    """Write stored traces as a table: one row per problem, attempt or decision.

    The columns are those of the views of the same names: see docs/exploring.md.
    """
    from recov_graph.store import default_path

    path = db or default_path()
    if datasette is not None:
        _refuse_others(view, options)
        if isinstance(path, str):
            raise click.BadParameter("Datasette shows files only", param_hint="--datasette")
        _write_metadata(datasette, path)
        return
    _export(path, view, **options)


def _export(path: Address, view: str, out: str, kind: Any, run: str | None, raw: bool) -> None:
    from recov_graph.exporting import check_format, format_of
    from recov_graph.store import TraceStore

    kind = kind or format_of(out)
    if raw and kind != "csv":
        raise click.BadParameter(f"is for csv, and this is {kind}", param_hint="--raw")
    check_format(kind)
    if out != "-":
        check_writable(Path(out), "--out", path)
    elif kind == "parquet" and sys.stdout.isatty():
        raise click.BadParameter("a terminal cannot show Parquet; name a file", param_hint="--out")
    with TraceStore(existing_store(path)) as store:
        if out == "-":
            _to_stdout(store, view, kind, run=run, raw=raw)
        else:
            _to_file(Path(out), store, view, kind, run=run, raw=raw)


def _to_file(out: Path, store: TraceStore, view: str, kind: Any, **options: Any) -> None:
    from recov_graph.exporting import export, whole_file
    from recov_graph.words import count

    try:
        with whole_file(out) as file:
            rows = export(store, file, view, kind, **options)
    except OSError as error:
        raise unwritable(out, error, "--out") from None
    click.echo(f"wrote {count(rows, view)} to {out}")


def _to_stdout(store: TraceStore, view: str, kind: Any, **options: Any) -> None:
    from recov_graph.exporting import export

    stdout = sys.stdout.buffer
    if sys.stdout.isatty():  # bytes of a model's are for programs, not for a terminal
        _shown(store, view, kind, **options)
        return
    try:
        export(store, stdout, view, kind, **options)
        stdout.flush()
    except OSError as error:
        # What is still buffered goes nowhere, or Python complains of it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # who read has read enough
            raise unwritable("stdout", error, "--out") from None


def _shown(store: TraceStore, view: str, kind: Any, **options: Any) -> None:
    """The same on a terminal, with an escape in the place of what it would act on."""
    import tempfile

    from recov_graph.console import plain
    from recov_graph.exporting import export

    with tempfile.TemporaryFile() as file:
        export(store, file, view, kind, **options)
        file.seek(0)
        for line in file:
            click.echo(plain(line.decode().rstrip("\r\n")))


def _refuse_others(view: str, options: dict[str, Any]) -> None:
    given = [name for name, value in options.items() if value and (name, value) != ("out", "-")]
    if given or view != "problem":
        raise click.BadParameter(
            "writes metadata, no traces; give nothing but --db with it", param_hint="--datasette"
        )


def _write_metadata(out: str, path: Path) -> None:
    from recov_graph.exporting import metadata_json

    text = metadata_json(path.stem)
    if out == "-":
        click.echo(text, nl=False)
        return
    check_writable(Path(out), "--datasette", path)
    write_whole(Path(out), text.encode(), "--datasette")
    click.echo(f"wrote {out}; `datasette {path} --metadata {out}` shows the traces")
