"""SQL as SQLite takes it, in PostgreSQL's words; only what this package's statements use."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from recov_graph.errors import StoreError

PARTS = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|--[^\n]*|[^'\"-]+|-")
MARK = re.compile(r"\?(\d*)")
# SQLite keeps such a list in its order by CROSS JOIN, which takes no condition elsewhere.
JOIN = re.compile(r"\bCROSS JOIN\b")
NULL = re.compile(r"(\$\d+) IS NULL")
LIMIT = re.compile(r"\bLIMIT (\$\d+)")


@lru_cache(maxsize=512)
def translated(sql: str) -> str:
    """The statement with ``$1`` for ``?`` and ``?1``, in PostgreSQL's words."""
    marks = 0

    def mark(match: re.Match[str]) -> str:
        nonlocal marks
        marks += 1
        return f"${match.group(1) or marks}"

    parts = []
    for part in PARTS.findall(sql):
        if part[0] not in "'\"" and not part.startswith("--"):
            part = MARK.sub(mark, part)
            part = JOIN.sub("JOIN", part)
            part = NULL.sub(r"\1::text IS NULL", part)  # of which nothing else tells the type
            part = LIMIT.sub(r"LIMIT NULLIF(\1::bigint, -1)", part)  # of which -1 means none
        parts.append(part)
    return "".join(parts)


def storable_value(value: Any) -> Any:
    """A value as SQLite would hold it, in a text without NUL characters, which PostgreSQL refuses.

    Raises:
        StoreError: SQLite would not hold it either.
    """
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.replace("\0", "\ufffd") if "\0" in value else value
    if isinstance(value, int):
        return int(value)  # also a truth
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise StoreError(f"a value of type {type(value).__name__} cannot be stored: {value!r:.80}")


def fitting(
    table: str, columns: Sequence[str], kinds: Mapping[str, str], row: Sequence[Any]
) -> list[Any]:
    """A row as its table holds it.

    Raises:
        StoreError: a column is given what SQLite does not take, and PostgreSQL would make something
            else of.
    """
    values = [storable_value(value) for value in row]
    for place, value in enumerate(values):
        kind = kinds.get(columns[place])
        if value is None or kind is None:
            continue
        if kind == "TEXT" and isinstance(value, int | float):
            values[place] = str(value)
        elif kind == "INTEGER" and isinstance(value, float) and value.is_integer():
            values[place] = int(value)
        elif isinstance(value, bytes) != (kind == "BLOB") or (
            kind == "INTEGER" and isinstance(value, float)
        ):
            raise StoreError(
                f"cannot store a value of type {type(value).__name__} in the {kind} column "
                f"{table}.{columns[place]}"
            )
    return values
