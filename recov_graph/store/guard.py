"""What is taken of a database file before its content is: it may be anybody's.

A file carries SQL of its own: views, triggers, generated columns, virtual tables. What of it stands
in the place of our tables and views is refused, and what is left may not reach out of the file.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from recov_graph.errors import StoreError
from recov_graph.store.belonging import BELONGING
from recov_graph.store.views import VIEWS
from recov_graph.words import short

TABLES = frozenset({"settings", "runs", *BELONGING})
MOST_BYTES = 1 << 29  # of a value; SQLite's own limit is twice that
OBJECTS = "SELECT type, name, tbl_name, sql FROM sqlite_master"
QUOTED = re.compile(r'"[^"]*"|\[[^\]]*\]|`[^`]*`')
COMPUTED = re.compile(r"\b(AS|GENERATED)\b", re.IGNORECASE)
ORDINARY = re.compile(r"\s*CREATE\s+TABLE\b.*\)\s*STRICT\s*", re.IGNORECASE | re.DOTALL)
T = TypeVar("T")
NAME = re.compile(r"[a-z_][a-z0-9_]*", re.IGNORECASE | re.ASCII)


def harden(connection: sqlite3.Connection) -> None:
    """Have SQLite trust nothing that a file says of itself.

    Its views, triggers and generated columns can call no function and read no virtual table that
    has an effect outside; what is on a page is checked before it is used; and the file is read, not
    mapped into memory, where somebody could change it meanwhile.
    """
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0"):
        connection.execute(f"PRAGMA {pragma}")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_BYTES)


def refuse_other_objects(
    read: Callable[[str], list[Any]], path: str, *, views: bool = True
) -> None:
    """Refuse a file in which something else has the name of a table or a view of ours.

    Tables, views, indexes and triggers that somebody added under other names are let be.

    Args:
        read: the rows of a SELECT.
        path: what messages call the file.
        views: whether views are looked at, which an older version may have made otherwise.

    Raises:
        StoreError: naming the first of them.
    """
    for kind, name, _, sql in read(OBJECTS):
        lower = str(name).lower()
        if lower in TABLES and not (kind == "table" and _ordinary(str(sql))):
            raise StoreError(
                f"{path} has {lower!r}, which is no table as recov-graph makes it: it is computed, "
                "or takes any type; whoever made the file changed it. Use one that was not changed"
            )
        if views and lower in VIEWS and not (kind == "view" and _same(str(sql), VIEWS[lower])):
            raise StoreError(
                f"{path} has {lower!r}, which is not the view that recov-graph makes; drop it and "
                f"make it anew from storage/schema.sql, or use a file that was not changed"
            )


def triggers(read: Callable[[str], list[Any]]) -> list[str]:
    """The triggers of a file, of which this package makes none."""
    return sorted(str(name) for kind, name, _, _ in read(OBJECTS) if kind == "trigger")


def checked_name(name: str) -> str:
    """The name of a table or a column, which becomes part of a statement.

    Raises:
        StoreError: it could be something else than a name.
    """
    if isinstance(name, str) and NAME.fullmatch(name):
        return name
    raise StoreError(f"{short(name)} is no name of a table or a column; legal is {NAME.pattern}")


def loaded(text: str, kind: type[T], what: str) -> T:
    """The value of a column of JSON.

    Raises:
        StoreError: it is no JSON, or of another kind; `what` says where it stands.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError, TypeError):
        value = None
    if isinstance(value, kind):
        return value
    raise StoreError(
        f"{what} is damaged: there should be a JSON {kind.__name__}; check the database file"
    )


def _ordinary(sql: str) -> bool:
    bare = QUOTED.sub("x", sql)
    return ORDINARY.fullmatch(bare) is not None and COMPUTED.search(bare) is None


def _same(sql: str, other: str) -> bool:
    return " ".join(sql.split()) == " ".join(other.split())
