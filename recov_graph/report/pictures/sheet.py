"""The sheet that figures are drawn on: theme, fonts, and files that are the same every time.

Nothing of pyplot is used, and none of a user's own matplotlib settings.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter

from recov_graph.report.palette import ACCENT, INK, LINE, PAPER, SOFT
from recov_graph.report.pictures.text import MONO, POINTS, SANS, shown, wrapped

SMALL, NORMAL, LARGE = 7.5, 8.0, 9.0  # points
FORMATS = ("png", "svg", "pdf")
MARKERS = {
    "circle": "o",
    "square": "s",
    "triangle": "^",
    "cross": "X",
    "diamond": "D",
    "pentagon": "p",
}
# How the texts of a picture become one that is stored with it, for those who cannot see it.
TITLE = "recov-graph"


@dataclass(frozen=True)
class Theme:
    """The colours of a picture."""

    name: str
    paper: str
    ink: str
    soft: str
    line: str
    accent: str


def theme_of(name: str) -> Theme:
    """The theme by name: one of `palette.THEMES`."""
    return Theme(
        name,
        PAPER[name],
        INK[name],
        SOFT[name],
        LINE[name],
        ACCENT[name],
    )


@contextmanager
def settings(theme: Theme) -> Iterator[None]:
    """Matplotlib's own defaults and what this sheet changes in them, for a while.

    Warnings about the layout are of no use to a reader of the terminal.
    """
    changed: dict[str, Any] = {
        "text.parse_math": False,  # texts are untrusted, and "$" is a dollar
        "text.color": theme.ink,
        "axes.edgecolor": theme.soft,
        "axes.facecolor": theme.paper,
        "axes.labelcolor": theme.ink,
        "axes.labelsize": NORMAL,
        "axes.linewidth": 0.6,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": theme.ink,
        "axes.titlelocation": "left",
        "axes.titlesize": LARGE,
        "axes.titleweight": "bold",
        "axes.unicode_minus": True,
        "figure.facecolor": theme.paper,
        "font.family": ["sans-serif"],
        "font.monospace": [MONO, "Menlo", "Consolas", "monospace"],
        "font.sans-serif": [SANS, "Verdana", "sans-serif"],
        "font.size": NORMAL,
        "grid.color": theme.line,
        "grid.linewidth": 0.5,
        "legend.fontsize": NORMAL,
        "legend.frameon": False,
        "lines.linewidth": 1.4,
        "patch.linewidth": 0.6,
        "pdf.fonttype": 42,
        "savefig.facecolor": theme.paper,
        "text.hinting": "none",  # as wide as measured, at any resolution
        "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
        "svg.hashsalt": "recov-graph",
        "xtick.color": theme.soft,
        "xtick.labelcolor": theme.ink,
        "xtick.labelsize": NORMAL,
        "ytick.color": theme.soft,
        "ytick.labelcolor": theme.ink,
        "ytick.labelsize": NORMAL,
    }
    with matplotlib.style.context(["default", changed]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def sheet(theme: Theme, width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.02, hspace=0.03)
    return Figure(figsize=(width, height), layout=layout, facecolor=theme.paper)


def quiet(axes: Axes, theme: Theme, *, grid: str = "both") -> None:
    """A light grid behind the marks and no ticks to speak of."""
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis=grid)  # type: ignore[arg-type]
    axes.tick_params(length=2.5, width=0.6)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(theme.line)


def note(figure: Figure, theme: Theme, text: str, room: float, *, lines: int = 4) -> None:
    """A note under all of a figure, which grows by it."""
    held = wrapped(text, room, SMALL, lines=lines)
    figure.set_figheight(figure.get_figheight() + (held.count("\n") + 1) * 1.35 * SMALL / POINTS)
    figure.supxlabel(
        held,
        fontsize=SMALL,
        color=theme.soft,
        x=0.01,
        ha="left",
        linespacing=1.3,
    )


def percents() -> FuncFormatter:
    """Shares as round percentages."""
    return FuncFormatter(lambda share, _: f"{100 * share:.3g}%")


def below(axes: Axes, theme: Theme, text: str, room: float, *, drop: float = 34.0) -> None:
    """A note under axes, so many points beneath them."""
    axes.annotate(
        wrapped(text, room, SMALL, lines=4),
        (0, 0),
        xycoords="axes fraction",
        xytext=(0, -drop),
        textcoords="offset points",
        va="top",
        ha="left",
        fontsize=SMALL,
        color=theme.soft,
        linespacing=1.3,
        annotation_clip=False,
    )


def mixed(one: str, other: str, share: float) -> str:
    """A colour between two; all of the other where the share is 1."""
    pairs = zip(_channels(one), _channels(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def brightness(colour: str) -> float:
    """Relative luminance, 0 to 1."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (channel / 255 for channel in _channels(colour))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(colour: str) -> Sequence[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def encoded(
    figure: Figure, kind: str, *, theme: str, dpi: int, title: str, description: str
) -> bytes:
    """The figure as a file's content; the same figure gives the same bytes.

    Args:
        figure: as `picture` makes it.
        kind: one of `FORMATS`.
        theme: the one it was made in.
        dpi: dots per inch; only for PNG and what a vector file holds as an image.
        title: of the file.
        description: what can be seen, for those who cannot see it.
    """
    title, description = shown(title), shown(description)
    described: dict[str, dict[str, Any]] = {
        "png": {"Title": title, "Description": description, "Software": None},
        "svg": {"Title": title, "Date": None, "Creator": TITLE},
        "pdf": {
            "Title": title,
            "Subject": description,
            "Creator": TITLE,
            "Producer": TITLE,
            "CreationDate": None,
        },
    }
    file = io.BytesIO()
    size = figure.get_size_inches()
    if kind == "png":  # whole dots: half a row of them would show what is behind the picture
        figure.set_size_inches(*(round(side * dpi) / dpi for side in size))
    with settings(theme_of(theme)):
        figure.savefig(file, format=kind, dpi=dpi, metadata=described[kind])
    figure.set_size_inches(*size)
    content = file.getvalue()
    return _with_description(content, description) if kind == "svg" else content


def _with_description(svg: bytes, description: str) -> bytes:
    """The SVG with what can be seen on it, which matplotlib has no place for."""
    text = svg.decode("utf-8")
    text = text.replace("<svg ", '<svg role="img" ', 1)
    told = f"</title>\n <desc>{escape(description)}</desc>"
    return re.sub("</title>", lambda _: told, text, count=1).encode("utf-8")
