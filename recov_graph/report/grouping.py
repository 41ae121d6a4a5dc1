"""Failures, rescues and cost by task, by model and by predicted regime, beside retry alone."""

from __future__ import annotations

from collections.abc import Iterator

from recov_graph.report.content import NOT_ROUTED, Grouping, GroupRow
from recov_graph.report.reading import Flags, Problems, Texts


def group_rows(problems: Problems, regime: Texts) -> tuple[GroupRow, ...]:
    """Rows by task and by model where there are several, then by regime; most failures first.

    Args:
        problems: of the report.
        regime: object [P], the regime predicted first; "" where none was.
    """
    columns: dict[Grouping, Texts] = {
        "task": problems.task,
        "model": problems.model,
        "regime": regime,
    }
    rows: list[GroupRow] = []
    for by, column in columns.items():
        # Only a problem that failed has a regime.
        inside = problems.lost if by == "regime" else problems.routed
        made = sorted(_rows(problems, by, column, inside), key=lambda row: -row.failed)
        rows += made if len(made) > 1 or by == "regime" else []
    return tuple(rows)


def _rows(problems: Problems, by: Grouping, column: Texts, inside: Flags) -> Iterator[GroupRow]:
    for name in dict.fromkeys(column[inside]):
        own = inside & (column == name)
        lost = own & problems.lost
        # A comparison takes retry alone on all of the failures.
        tried = bool(lost.any()) and bool(problems.retried[lost].all())
        yield GroupRow(
            by=by,
            name=str(name) or NOT_ROUTED,
            problems=int(own.sum()),
            failed=int(lost.sum()),
            rescued=int(problems.rescued[lost].sum()),
            stopped=int((problems.outcome[lost] == "stopped").sum()),
            tokens=int(problems.spent[lost].sum()),
            retry_rescued=int(problems.retry_rescued[lost].sum()) if tried else None,
            retry_tokens=int(problems.retry_tokens[lost].sum()) if tried else None,
        )
