"""Text in pictures: made harmless, measured, and cut or wrapped to the room there is.

Only the fonts that come with matplotlib are used, so that a picture is the same everywhere.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import FT2Font

SANS, MONO = "DejaVu Sans", "DejaVu Sans Mono"
UNKNOWN = "\N{WHITE SQUARE}"  # in the place of a character that cannot be shown
VISIBLE = {"\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\t": "\N{RIGHTWARDS ARROW TO BAR}"}
INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Mn", "Me"}
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
POINTS = 72.0  # in an inch


def shown(text: str, *, mono: bool = False) -> str:
    """The text, with a visible sign for each character that a font lacks or that acts on others."""
    known = _characters(mono)
    signs = (VISIBLE.get(character, character) for character in text)
    return "".join(
        sign if ord(sign) in known and unicodedata.category(sign) not in INVISIBLE else UNKNOWN
        for sign in signs
    )


def width_of(text: str, size: float, *, mono: bool = False, bold: bool = False) -> float:
    """How wide a line of text is, in inches, at a size in points."""
    font = _font(mono, bold)
    font.set_size(100, POINTS)  # large, so that hinting does not matter
    font.set_text(text, 0.0)
    return float(font.get_width_height()[0]) / 64 * size / 100 / POINTS


def fitted(text: str, room: float, size: float, *, mono: bool = False) -> str:
    """The text, cut to what fits into `room` inches."""
    text = shown(text[:1000], mono=mono)
    if width_of(text, size, mono=mono) <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if width_of(text[:middle] + ELLIPSIS, size, mono=mono) <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + ELLIPSIS


def wrapped(text: str, room: float, size: float, *, lines: int = 3) -> str:
    """The text in lines that fit into `room` inches, at most so many."""
    made: list[str] = []
    words = " ".join(text.split()).split(" ")
    while words:
        taken = [words.pop(0)]
        while words and width_of(shown(" ".join([*taken, words[0]])), size) <= room:
            taken.append(words.pop(0))
        if len(made) == lines - 1 and words:
            taken, words = [*taken, *words], []
        made.append(fitted(" ".join(taken), room, size))
    return "\n".join(made)


@lru_cache(maxsize=4)
def _font(mono: bool, bold: bool) -> FT2Font:
    family = MONO if mono else SANS
    return get_font(findfont(FontProperties(family=family, weight="bold" if bold else "normal")))


@lru_cache(maxsize=2)
def _characters(mono: bool) -> frozenset[int]:
    """The characters that both the upright and the bold font have."""
    return frozenset(_font(mono, False).get_charmap()) & frozenset(_font(mono, True).get_charmap())
