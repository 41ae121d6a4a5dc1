"""Drawing a failed rollout token by token: the more the ancestor objects, the darker.

Demotion pressure J is in nats. Shades stand for the same J in every strip, so that strips can be
compared; a bar, which has no colours, is as high as J is beside the highest of its own strip.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

from recov_graph.console.text import number, plain
from recov_graph.strips import Strip

STEPS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)  # nats, from which on each shade stands
# Letters and ground are both set, so that a shade reads the same on light and dark terminals.
SHADES = (
    "black on #feedde",
    "black on #fdd0a2",
    "black on #fdae6b",
    "black on #fd8d3c",
    "black on #e6550d",
    "white on #8c2d04",
)
# Sixteen colours have no six shades of one; there the letters get louder first.
SHADES_OF_16 = (
    "red",
    "red",
    "bold red",
    "black on bright_red",
    "white on red",
    "bold white on red",
)
BLOCKS = "▁▂▃▄▅▆▇█"
WHOLE = 160  # tokens up to which all of a strip is shown
AROUND = 60  # tokens of a longer one that are shown on each side of the junction
LONGEST_PIECE = 60  # characters of one token
WIDEST_BAR = 120
RETURN = "\u21b5"


class Cell(NamedTuple):
    """A piece of a line: what is printed, how, and whether the junction starts with it."""

    text: str
    style: str = ""
    junction: bool = False


def legend(out: Console) -> Text:
    """What the shades stand for."""
    text = Text("J from  ", style="dim")
    for step, shade in zip(STEPS, shades(out), strict=True):
        text.append(f" {step:g} ", style=shade)
        text.append(" ")
    return text.append("nats; tokens are counted from 0", style="dim")


def drawn(strip: Strip, out: Console, indent: int) -> Iterator[Text]:
    """The lines that show a strip, each with its indent; in colours where there are any."""
    width = max(8, out.width - indent)
    shaded = strip.pieces is not None and bool(shades(out))
    lines = _wrapped(_cells(strip, out), width) if shaded else [_bar(strip, width)]
    for line in lines:
        yield _line(line, indent)
        before = 0
        for cell in line:
            if cell.junction:
                for said in _pointer(strip, before, width):
                    yield Text(" " * indent + said, style="bold", no_wrap=True)
                break
            before += cell_len(cell.text)


def _line(cells: Sequence[Cell], indent: int) -> Text:
    line = Text(" " * indent, no_wrap=True)
    for cell in cells:
        line.append(cell.text, style=cell.style)
    return line


def _pointer(strip: Strip, column: int, width: int) -> tuple[str, ...]:
    """What stands beneath the junction, in a second line where there is no room beside the mark."""
    said = f"junction, token {strip.junction}: J {strip.pressure[strip.junction]:.2f}"
    if column + 2 + len(said) <= width:
        return (f"{' ' * column}^ {said}",)
    if len(said) < column:
        return (f"{' ' * (column - len(said) - 1)}{said} ^",)
    return f"{' ' * column}^", said


def shades(out: Console) -> tuple[str, ...]:
    """The shades that can be seen there, from the least J on; none where there are no colours."""
    if out.color_system is None or out.no_color:
        return ()
    return SHADES_OF_16 if out.color_system in ("standard", "windows") else SHADES


def _style(pressure: float, known: Sequence[str]) -> str:
    step = bisect_right(STEPS, pressure)
    return known[step - 1] if step else ""


def _cells(strip: Strip, out: Console) -> Iterator[Cell]:
    """The tokens around the junction, with how many there are before and after them."""
    assert strip.pieces is not None
    known = shades(out)
    start, end = 0, len(strip)
    if len(strip) > WHOLE:
        start, end = max(0, strip.junction - AROUND), min(end, strip.junction + AROUND + 1)
    if start:
        yield Cell(f"… {number(start)} tokens … ", "dim")
    for index in range(start, end):
        style = _style(strip.pressure[index], known)
        junction = index == strip.junction
        if junction:
            style = f"{style} bold underline".strip()
        yield Cell(visible(strip.pieces[index]), style, junction)
    if end < len(strip):
        yield Cell(f" … {number(len(strip) - end)} tokens …", "dim")


def visible(piece: str) -> str:
    """The text of a token, its special characters made visible; one without any is a middle dot."""
    shown = piece if len(piece) <= LONGEST_PIECE else f"{piece[:LONGEST_PIECE]}…"
    lines = (plain(line) for line in shown.split("\n"))
    return RETURN.join(lines) or "·"


def _wrapped(cells: Iterator[Cell], width: int) -> Iterator[list[Cell]]:
    """Cells as lines of at most `width` columns; a cell that is longer goes on in the next line."""
    line: list[Cell] = []
    used = 0
    for text, style, junction in cells:
        if used and used + cell_len(text) > width:
            yield line
            line, used = [], 0
        for number_of_part, part in enumerate(chop_cells(text, width)):
            if number_of_part:
                yield line
                line, used = [], 0
            line.append(Cell(part, style, junction and not number_of_part))
            used += cell_len(part)
    if line:
        yield line


def _bar(strip: Strip, width: int) -> list[Cell]:
    """J of all tokens as one line of blocks, each as high as the highest token in it."""
    columns = min(width, WIDEST_BAR, len(strip))
    edges = [i * len(strip) // columns for i in range(columns + 1)]
    highest = max(strip.pressure) or 1.0
    return [
        Cell(
            BLOCKS[min(7, int(8 * max(0.0, max(strip.pressure[start:end])) / highest))],
            junction=start <= strip.junction < end,
        )
        for start, end in pairwise(edges)
    ]
