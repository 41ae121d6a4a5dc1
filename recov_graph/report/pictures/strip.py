"""A problem token by token: its measured failures as strips of cells, and repairs beneath.

Everything is placed by hand, in inches from the upper left corner: rows of text have no axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from recov_graph.report.content import Case
from recov_graph.report.palette import colours
from recov_graph.report.pictures.cells import SIZE, Cell, lanes, mono_lines, window
from recov_graph.report.pictures.sheet import LARGE, NORMAL, SMALL, Theme, brightness, mixed
from recov_graph.report.pictures.text import POINTS, fitted, shown, width_of, wrapped
from recov_graph.strips import Repair, Strip
from recov_graph.words import count

EDGE = 0.12  # inches around everything
MARGIN = 0.42  # for the numbers of tokens at the left
CELL, PITCH, LANE = 0.175, 0.205, 0.145  # heights in inches
LINE = 1.4 / POINTS  # inches from line to line, for each point of size
OVERVIEW = 0.3
BINS = 400  # of the overview
MOST_STRIPS = 4
MOST_REPAIRS = 6  # listed beneath a strip
SHADES = 24  # of the key
POINTER = "\N{BLACK UP-POINTING TRIANGLE}"


def draw(case: Case, theme: Theme, width: float) -> Figure:
    """The figure; the case must have strips."""
    sheet = _Sheet(theme, width)
    most = max(max(strip.pressure) for strip in case.strips)
    _head(sheet, case)
    _key(sheet, most)
    strips = _chosen(case)
    for strip in strips:
        repairs = [repair for repair in case.repairs if repair.base == strip.rollout]
        _strip(sheet, strip, repairs, most)
    if len(strips) < len(case.strips):
        missing = len(case.strips) - len(strips)
        sheet.line(f"{count(missing, 'more measured failure')} not drawn", colour=theme.soft)
    drawn = {strip.rollout for strip in case.strips}
    afresh = [repair for repair in case.repairs if repair.base not in drawn]
    if afresh:
        sheet.gap(0.1)
        sheet.line("Started afresh, or from what was not measured", bold=True)
        _repairs(sheet, afresh, [], [])
    return sheet.finished()


class _Sheet:
    """Paper that is written on from the top down, and cut where the writing ends."""

    def __init__(self, theme: Theme, width: float) -> None:
        self.theme, self.width, self.y = theme, width, EDGE
        self.room = width - 2 * EDGE
        self.figure = Figure(figsize=(width, 1), facecolor=theme.paper)
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()

    def gap(self, height: float) -> None:
        """Leave some paper empty."""
        self.y += height

    def line(
        self,
        text: str,
        *,
        size: float = NORMAL,
        colour: str | None = None,
        bold: bool = False,
        x: float = 0.0,
    ) -> None:
        """A line of text, cut to the width there is."""
        held = fitted(text, (self.room - x) / (1.08 if bold else 1), size)
        for one in held.split("\n"):
            self.text(x, size * LINE / 2, one, size=size, colour=colour, bold=bold)
            self.y += size * LINE

    def text(
        self,
        x: float,
        down: float,
        text: str,
        *,
        size: float = NORMAL,
        colour: str | None = None,
        bold: bool = False,
        mono: bool = False,
        align: str = "left",
    ) -> None:
        """Text whose middle is so far down; the writing goes on where it was."""
        self.axes.text(
            EDGE + x,
            self.y + down,
            text,
            fontsize=size,
            color=colour or self.theme.ink,
            fontweight="bold" if bold else "normal",
            family="monospace" if mono else "sans-serif",
            ha=align,
            va="center_baseline",
        )

    def box(self, x: float, down: float, width: float, height: float, **options: Any) -> None:
        """A rectangle."""
        corner = (EDGE + x, self.y + down)
        self.axes.add_patch(Rectangle(corner, width, height, **options))

    def finished(self) -> Figure:
        """The figure, as high as what is on it."""
        height = self.y + EDGE
        self.figure.set_size_inches(self.width, height)
        self.axes.set(xlim=(0, self.width), ylim=(height, 0))
        return self.figure


def _head(sheet: _Sheet, case: Case) -> None:
    sheet.line(case.key, size=LARGE + 1, bold=True)
    facts = (case.model, case.task, case.outcome, case.regime, f"{case.tokens:,} tokens in all")
    sheet.line(" · ".join(fact for fact in facts if fact), colour=sheet.theme.soft)
    for name, text in (("prompt", case.prompt), ("expected", case.expected)):
        if text:
            for line in wrapped(f"{name}: {text}", sheet.room, NORMAL, lines=2).split("\n"):
                sheet.line(line)
    sheet.gap(0.06)


def _key(sheet: _Sheet, most: float) -> None:
    """What the shades mean."""
    label = "demotion pressure J (nats, shades by its square root)"
    sheet.text(0, CELL / 2, label, size=SMALL, colour=sheet.theme.soft)
    x = width_of(label, SMALL) + 0.12
    sheet.text(x, CELL / 2, "0", size=SMALL, colour=sheet.theme.soft)
    x += 0.1
    for i in range(SHADES):
        colour = mixed(sheet.theme.paper, sheet.theme.accent, i / (SHADES - 1))
        sheet.box(x + i * 0.04, 0.03, 0.04, CELL - 0.06, facecolor=colour, edgecolor="none")
    frame = {"facecolor": "none", "edgecolor": sheet.theme.line, "linewidth": 0.5}
    sheet.box(x, 0.03, SHADES * 0.04, CELL - 0.06, **frame)
    top = SHADES * 0.04 + 0.06
    sheet.text(x + top, CELL / 2, f"{most:.2g}", size=SMALL, colour=sheet.theme.soft)
    sheet.gap(CELL + 0.06)


def _chosen(case: Case) -> list[Strip]:
    """As many strips as there is room for: those that something went on from come first."""
    bases = {repair.base for repair in case.repairs}
    ranked = sorted(case.strips, key=lambda strip: (strip.rollout not in bases, strip.position))
    return sorted(ranked[:MOST_STRIPS], key=lambda strip: strip.position)


def _strip(sheet: _Sheet, strip: Strip, repairs: Sequence[Repair], most: float) -> None:
    sheet.gap(0.1)
    peak = strip.pressure[strip.junction]
    sheet.line(
        f"Attempt {strip.position}: {count(len(strip), 'token')}, "
        f"junction at token {strip.junction:,} with J = {peak:.3g}",
        bold=True,
    )
    room = sheet.room - MARGIN
    cells = window(strip, room)
    if len(cells) < len(strip):
        _overview(sheet, strip, cells, repairs)
    listed = _listed(repairs)
    numbers = _numbers(listed)
    rows: dict[int, list[Cell]] = {}
    for cell in cells:
        rows.setdefault(cell.row, []).append(cell)
    for row in rows.values():
        _row(sheet, strip, row, numbers, most)
    sheet.gap(0.04)
    _repairs(sheet, repairs, listed, cells)


def _listed(repairs: Sequence[Repair]) -> list[Repair]:
    """As many repairs as there is room for, in order: the rescues are always among them."""
    ranked = sorted(repairs, key=lambda repair: (repair.outcome != "rescued", repair.position))
    return sorted(ranked[:MOST_REPAIRS], key=lambda repair: repair.position)


def _numbers(listed: Sequence[Repair]) -> dict[int, str]:
    """The numbers of the repairs that act from a token on, by that token."""
    found: dict[int, list[str]] = {}
    for number, repair in enumerate(listed, start=1):
        if repair.at is not None:
            found.setdefault(repair.at, []).append(str(number))
    return {at: ",".join(numbers) for at, numbers in found.items()}


def _row(
    sheet: _Sheet, strip: Strip, row: Sequence[Cell], numbers: dict[int, str], most: float
) -> None:
    theme, room = sheet.theme, sheet.room - MARGIN
    junction = [(cell, "junction") for cell in row if cell.index == strip.junction]
    for mark in lanes(junction, room, SMALL):
        sheet.text(MARGIN + mark.x, LANE / 2, mark.text, size=SMALL, bold=True)
        sheet.gap(LANE)
    sheet.text(
        MARGIN - 0.07,
        CELL / 2,
        f"{row[0].index:,}",
        size=SMALL - 1,
        colour=theme.soft,
        align="right",
    )
    for cell in row:
        share = (max(0.0, strip.pressure[cell.index]) / most) ** 0.5 if most > 0 else 0.0
        colour = mixed(theme.paper, theme.accent, share)
        edge = {"edgecolor": theme.line, "linewidth": 0.4}
        sheet.box(MARGIN + cell.x, 0, cell.width, CELL, facecolor=colour, **edge)
        if cell.text:
            left = MARGIN + cell.x + 0.022
            ink = _legible(colour, theme)
            sheet.text(left, CELL / 2, cell.text, size=SIZE, mono=True, colour=ink)
    for cell, _ in junction:
        frame = {"facecolor": "none", "edgecolor": theme.ink, "linewidth": 1.5, "zorder": 5}
        sheet.box(MARGIN + cell.x, 0, cell.width, CELL, **frame)
    wanted = [(cell, f"{POINTER}{numbers[cell.index]}") for cell in row if cell.index in numbers]
    marks = lanes(wanted, room, SMALL)
    for mark in marks:
        down = CELL + LANE * (mark.lane + 0.5) + 0.01
        sheet.text(MARGIN + mark.x, down, mark.text, size=SMALL, bold=True)
    sheet.gap(PITCH + LANE * max((mark.lane + 1 for mark in marks), default=0))


def _legible(colour: str, theme: Theme) -> str:
    """Ink or paper, whichever stands out more."""
    behind = brightness(colour) + 0.05

    def contrast(name: str) -> float:
        ink = brightness(name) + 0.05
        return max(ink, behind) / min(ink, behind)

    return max((theme.ink, theme.paper), key=contrast)


def _overview(
    sheet: _Sheet, strip: Strip, cells: Sequence[Cell], repairs: Sequence[Repair]
) -> None:
    """All of the trace, and which part of it is shown beneath."""
    theme, room = sheet.theme, sheet.room - MARGIN
    each = room / len(strip)
    first, last = cells[0].index, cells[-1].index
    sheet.gap(0.04)
    shade = {"facecolor": theme.line, "alpha": 0.6, "edgecolor": "none", "zorder": 0}
    sheet.box(MARGIN + first * each, 0, (last + 1 - first) * each, OVERVIEW, **shade)
    parts = np.array_split(np.maximum(0, np.asarray(strip.pressure)), min(BINS, len(strip)))
    tops = np.asarray([part.max() for part in parts])
    heights = OVERVIEW * np.sqrt(tops / max(float(tops.max()), 1e-12))
    floor = sheet.y + OVERVIEW
    x = EDGE + MARGIN + (np.arange(len(tops)) + 0.5) * room / len(tops)
    sheet.axes.vlines(x, floor - heights, floor, color=theme.accent, linewidth=0.8, zorder=2)
    sheet.axes.plot(
        [EDGE + MARGIN, EDGE + MARGIN + room], [floor] * 2, color=theme.soft, linewidth=0.6
    )
    for at in sorted({repair.at for repair in repairs if repair.at is not None}):
        place = EDGE + MARGIN + (at + 0.5) * each
        sheet.axes.plot([place], [floor + 0.05], "^", color=theme.ink, markersize=3)
    sheet.text(MARGIN - 0.07, OVERVIEW / 2, "all", size=SMALL - 1, colour=theme.soft, align="right")
    sheet.gap(OVERVIEW + 0.08)
    said = f"beneath: tokens {first:,} to {last:,} (shaded above)"
    sheet.line(said, size=SMALL, colour=theme.soft, x=MARGIN)
    sheet.gap(0.03)


def _repairs(
    sheet: _Sheet, repairs: Sequence[Repair], listed: Sequence[Repair], cells: Sequence[Cell]
) -> None:
    """What was tried, numbered where a mark on the strip shows where it set in."""
    theme = sheet.theme
    paints = colours((repair.operator for repair in repairs), theme.name)
    shown_cells = {cell.index for cell in cells}
    for number, repair in enumerate(listed or _listed(repairs), start=1):
        facts = [f"attempt {repair.position}", repair.outcome, count(repair.tokens, "token")]
        if repair.at is not None and listed:
            seen = "" if repair.at in shown_cells else ", not shown"
            facts.insert(0, f"from token {repair.at:,}{seen}")
        sheet.gap(0.03)
        if listed and repair.at is not None:
            label = f"{POINTER}{number}"
            sheet.text(
                MARGIN - 0.07, NORMAL * LINE / 2, label, size=SMALL, bold=True, align="right"
            )
        name = fitted(repair.operator, 2.2, NORMAL)
        paint = paints[repair.operator]
        sheet.text(MARGIN, NORMAL * LINE / 2, name, colour=paint, bold=True)
        after = MARGIN + width_of(name, NORMAL, bold=True) + 0.08
        rescued = repair.outcome == "rescued"
        sheet.line(" · ".join(facts), x=after, colour=theme.ink if rescued else theme.soft)
        _continuations(sheet, repair)
    left = len(repairs) - min(len(repairs), MOST_REPAIRS)
    if left:
        sheet.line(f"and {left} more", colour=theme.soft, x=MARGIN)


def _continuations(sheet: _Sheet, repair: Repair) -> None:
    """How the failure went on, and how the repair did."""
    indent = MARGIN + 0.62
    for name, text in (("failed", repair.failed), ("repaired", repair.repaired)):
        if text is None or (name == "failed" and repair.base is None):
            continue
        sheet.text(MARGIN, SIZE * LINE / 2, name, size=SMALL, colour=sheet.theme.soft)
        for line in mono_lines(text, sheet.room - indent, 2) or [shown("")]:
            sheet.text(indent, SIZE * LINE / 2, line, size=SIZE, mono=True)
            sheet.gap(SIZE * LINE)
