"""Writing a view of the trace store to a file: Parquet, JSON lines or CSV, in bounded memory."""

from __future__ import annotations

import csv
import io
import json
import math
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, get_args

from recov_graph.errors import InvalidInputError, MissingExtraError
from recov_graph.store import TraceStore
from recov_graph.store.canned import datasette_metadata
from recov_graph.store.following import find_run
from recov_graph.store.views import COLUMNS, Column
from recov_graph.words import short

Format = Literal["parquet", "jsonl", "csv"]
ENDINGS: Mapping[str, Format] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
}
# In an order of their own, so that two exports of the same traces are the same.
ORDER = {
    "problem": "started_at, problem_id",
    "attempt": "problem_id, position",
    "decision": "problem_id, step",
}
# Rows that are in memory at a time.
BATCH = 1000
# A spreadsheet takes a cell that begins so for a formula, and may carry it out.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
Rows = Iterator[tuple[Any, ...]]


def format_of(path: str | Path) -> Format:
    """The format that a file's ending stands for; JSON lines where it stands for none."""
    return ENDINGS.get(Path(path).suffix.lower(), "jsonl")


def export(
    store: TraceStore,
    target: IO[bytes],
    view: str = "problem",
    kind: Format = "jsonl",
    *,
    run: str | None = None,
    raw: bool = False,
) -> int:
    """Write the rows of a view, those of a problem together, and return how many there were.

    Args:
        store: a store in a file; what others write to it meanwhile is not among the rows.
        target: a binary file, which is left open.
        view: "problem", "attempt" or "decision"; see docs/exploring.md.
        kind: "parquet", "jsonl" or "csv".
        run: the id of a run, for its rows only.
        raw: whether cells of a CSV that a spreadsheet takes for a formula are left as they are;
            otherwise they get an apostrophe in front.

    Raises:
        InvalidInputError: an unknown view or format, or a store in memory.
        StoreError: the store has no such run, or cannot be read.
        MissingExtraError: Parquet without pyarrow.
        OSError: the file cannot be written.
    """
    check_format(kind)
    if view not in COLUMNS:
        raise InvalidInputError(f"view is {short(view)}; it must be one of {', '.join(COLUMNS)}")
    columns = COLUMNS[view]
    with _read(store, view, run) as rows:
        if kind == "parquet":
            return _write_parquet(target, columns, rows)
        if kind == "csv":
            return _write_csv(target, columns, rows, raw=raw)
        return _write_jsonl(target, columns, rows)


def check_format(kind: str) -> None:
    """Refuse what cannot be written, before any work is done.

    Raises:
        InvalidInputError: an unknown format.
        MissingExtraError: Parquet without pyarrow.
    """
    if kind not in get_args(Format):
        known = ", ".join(get_args(Format))
        raise InvalidInputError(f"format is {short(kind)}; it must be one of {known}")
    if kind == "parquet":
        _pyarrow()


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name once all is written: interrupted, it leaves the old one, or none.

    What is no ordinary file, such as a pipe, is written to directly.
    """
    path = path.resolve()  # what a link leads to is replaced, not the link
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    spare = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with spare.open("xb") as file:
            if path.exists():
                shutil.copymode(path, spare)  # a file that only its owner reads stays one
            yield file
        spare.replace(path)
    finally:
        spare.unlink(missing_ok=True)


def metadata_json(database: str) -> str:
    """Metadata for Datasette: the views explained, and canned queries.

    Args:
        database: the trace store's file name without its ending.
    """
    return json.dumps(datasette_metadata(database), indent=2) + "\n"


@contextmanager
def _read(store: TraceStore, view: str, run: str | None) -> Iterator[Rows]:
    """The rows of a view through a connection of its own, so that nobody waits for the reader."""
    if store.path == ":memory:":
        raise InvalidInputError("a store in memory cannot be exported; give it a file")
    if run is not None:
        find_run(store, run)
    names = ", ".join(COLUMNS[view])
    where = "" if run is None else "WHERE run_id = ?"
    sql = f"SELECT {names} FROM {view} {where} ORDER BY {ORDER[view]}"
    with store.stream(sql, [] if run is None else [run]) as rows:
        yield rows


def _write_jsonl(target: IO[bytes], columns: Mapping[str, Column], rows: Rows) -> int:
    count = 0
    for row in rows:
        values = dict(zip(columns, map(_finite, row), strict=True))
        line = json.dumps(values, ensure_ascii=False, allow_nan=False)
        target.write(f"{line}\n".encode())
        count += 1
    return count


def _finite(value: Any) -> Any:
    """JSON knows no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_csv(target: IO[bytes], columns: Mapping[str, Column], rows: Rows, *, raw: bool) -> int:
    texts = [place for place, one in enumerate(columns.values()) if one.kind == "text" and not raw]
    lines = io.TextIOWrapper(target, encoding="utf-8", newline="")
    count = 0
    try:
        writer = csv.writer(lines)
        writer.writerow(columns)
        for row in rows:
            writer.writerow(_disarmed(row, texts))
            count += 1
        lines.flush()
    finally:
        lines.detach()
    return count


def _disarmed(row: Sequence[Any], texts: Sequence[int]) -> Sequence[Any]:
    cells = list(row)
    for place in texts:
        if cells[place] is not None and cells[place].startswith(FORMULA):
            cells[place] = f"'{cells[place]}"
    return cells


def _write_parquet(target: IO[bytes], columns: Mapping[str, Column], rows: Rows) -> int:
    arrow, parquet = _pyarrow()
    # Named here, for a column of nothing but NULL tells no type.
    types = {"text": arrow.string(), "integer": arrow.int64(), "real": arrow.float64()}
    schema = arrow.schema(
        [
            arrow.field(name, types[one.kind], metadata={"description": one.description})
            for name, one in columns.items()
        ]
    )
    count = 0
    with parquet.ParquetWriter(target, schema) as writer:
        for batch in _batches(rows):
            cells = zip(*batch, strict=True)
            arrays = [
                arrow.array(list(values), field.type)
                for values, field in zip(cells, schema, strict=True)
            ]
            writer.write_batch(arrow.record_batch(arrays, schema=schema))
            count += len(batch)
    return count


def _batches(rows: Rows) -> Iterator[list[tuple[Any, ...]]]:
    batch: list[tuple[Any, ...]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            f'Parquet needs pyarrow ({error}); install it with `pip install "recov-graph[export]"`'
            ", or export jsonl or csv"
        ) from error
    return pyarrow, pyarrow.parquet
