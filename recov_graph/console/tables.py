"""Tables that fit where they are printed, and the colours that outcomes have everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from recov_graph.console.text import plain

STYLES = {
    "solved": "green",
    "solved_first": "green",
    "passed": "green",
    "rescued": "bold green",
    "out_of_reach": "yellow",
    "stop": "yellow",
    "budget_exhausted": "red",
    "model_error": "red",
    "verifier_error": "red",
    "unjudged": "red",
    "unscored": "red",
}
PADDING = 3  # a border and a space on both sides


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        heading: its heading.
        right: whether it holds numbers.
        spare: where lines are too short, the columns with the highest are left out first; 0 for
            one that always stays.
    """

    heading: str
    right: bool = False
    spare: int = 0


def coloured(outcome: str) -> Text:
    """An outcome in its colour."""
    return Text(plain(outcome), style=STYLES.get(outcome, ""))


def fitted(columns: Sequence[Column], rows: Iterable[Sequence[str | Text]], width: int) -> Table:
    """A table, without the columns that can be spared where it would be wider than `width`."""
    cells = list(rows)
    kept = list(range(len(columns)))
    widths = [
        max([cell_len(column.heading), *(cell_len(str(row[i])) for row in cells)]) + PADDING
        for i, column in enumerate(columns)
    ]
    while sum(widths[i] for i in kept) >= width and any(columns[i].spare for i in kept):
        kept.remove(max(kept, key=lambda i: columns[i].spare))
    table = Table()
    for i in kept:
        table.add_column(
            columns[i].heading,
            justify="right" if columns[i].right else "left",
            no_wrap=columns[i].right,
            overflow="fold",
        )
    for row in cells:
        table.add_row(*(row[i] for i in kept))
    return table


def how_ended(problem: dict[str, Any], run: dict[str, Any]) -> str:
    """How a stored problem ended: its stop reason, but rescued where it failed first."""
    if problem["how"] == "rescued":
        return "rescued"
    # Nothing was run for outcomes from elsewhere.
    return problem["stop_reason"] or ("imported" if run["kind"] == "import" else "unfinished")


def failed_first(problem: dict[str, Any]) -> bool:
    """Whether a stored problem ended, and its first samples had failed."""
    return problem["how"] not in (None, "solved_first", "unjudged")
