"""SQL as SQLite takes it, in PostgreSQL's words; only what this package's statements use."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

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
    """A value as PostgreSQL holds it: its texts hold no NUL characters."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) and "\0" in value else value
