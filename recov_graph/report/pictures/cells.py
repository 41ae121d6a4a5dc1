"""Where the tokens of a strip go on paper: rows of cells, and marks that do not touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recov_graph.report.pictures.text import ELLIPSIS, shown, width_of
from recov_graph.strips import Strip

SIZE = 7.5  # points of the tokens' text
LONGEST = 24  # characters of a token that are shown
MOST_ROWS = 8
PAD = 0.045  # inches on both sides of a token's text together
BARE = 0.12  # inches of a token whose text is not known
BLANK = "\N{OPEN BOX}"


@dataclass(frozen=True)
class Cell:
    """A token on paper; sizes in inches."""

    index: int
    row: int
    x: float
    width: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A word on a token; marks of one row whose lanes differ do not touch."""

    index: int
    text: str
    x: float
    lane: int


def window(strip: Strip, room: float) -> list[Cell]:
    """The tokens in rows, all of them or those around the junction; rows count from 0."""
    cells = _flow(strip, room)
    rows = cells[-1].row + 1
    first = max(0, min(cells[strip.junction].row - MOST_ROWS // 2, rows - MOST_ROWS))
    return [
        Cell(cell.index, cell.row - first, cell.x, cell.width, cell.text)
        for cell in cells
        if first <= cell.row < first + MOST_ROWS
    ]


def lanes(wanted: Sequence[tuple[Cell, str]], room: float, size: float) -> list[Mark]:
    """Marks of one row, each in the first lane where it has room."""
    ends: list[float] = []
    marks = []
    for cell, text in wanted:
        wide = width_of(text, size)
        x = max(0.0, min(cell.x, room - wide))
        lane = next((i for i, end in enumerate(ends) if end <= x), len(ends))
        ends[lane : lane + 1] = [x + wide + 0.05]
        marks.append(Mark(cell.index, text, x, lane))
    return marks


def mono_lines(text: str, room: float, most: int) -> list[str]:
    """Text in lines of equal letters, cut where it needs more than so many."""
    per_line = max(8, int(room / letter()))
    whole = shown(text[: per_line * (most + 1)], mono=True)
    if len(whole) > per_line * most:
        whole = whole[: per_line * most - 1] + ELLIPSIS
    return [whole[i : i + per_line] for i in range(0, len(whole), per_line)]


def letter() -> float:
    """How wide a letter of the tokens' text is."""
    return width_of("0" * 100, SIZE, mono=True) / 100


def _flow(strip: Strip, room: float) -> list[Cell]:
    each = letter()
    cells = []
    row, x = 0, 0.0
    for index in range(len(strip)):
        text = "" if strip.pieces is None else _piece(strip.pieces[index])
        width = BARE if strip.pieces is None else len(text) * each + PAD
        if x and x + width > room:
            row, x = row + 1, 0.0
        cells.append(Cell(index, row, x, width, text))
        x += width
    return cells


def _piece(piece: str) -> str:
    text = shown(piece[: LONGEST + 1], mono=True)
    if not text.strip():
        return BLANK * max(1, len(text))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + ELLIPSIS
