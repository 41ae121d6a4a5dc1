"""How texts and numbers are printed: nothing of a model's reaches a terminal as it is."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

PIPED = 10_000  # into a pipe nothing is cut: a line is as long as it has to be
SAFE = re.compile(r"[!-~]+", re.ASCII)
NOT_STORED = "(not stored)"


class SafeConsole(Console):
    """A console that draws what it is told to, and of texts nothing that a terminal acts on.

    Texts of others are made one printable line by `plain`, where it is known that they are theirs.
    Whatever else is printed may be theirs as well: who made a store chose every word in it.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich does, with escapes in the place of what cannot be printed."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            if control is None and not text.isprintable():
                text = "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)
                yield Segment(text, style)
            else:
                yield segment


def console(*, error: bool = False) -> Console:
    """Where everything is printed; markup in texts of others means nothing."""
    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() else PIPED
    return SafeConsole(highlight=False, markup=False, emoji=False, width=width, stderr=error)


def draws(bare: bool) -> bool:
    """Whether lines and colours may be drawn: not where bare facts are asked for, or letters fail.

    Args:
        bare: as ``--plain`` says.
    """
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    return not bare and encoding.startswith("utf")


def watched(bare: bool) -> bool:
    """Whether someone looks at a terminal on which a picture can be drawn again and again."""
    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return draws(bare) and sys.stdout.isatty() and not dumb


def number(value: int) -> str:
    """With a comma between thousands."""
    return f"{value:,}"


def plain(value: str | None) -> str:
    """Text of others as one printable line: model output may hold terminal escapes."""
    if value is None:
        return NOT_STORED
    return "".join(c if c.isprintable() else _escaped(c) for c in value)


def _escaped(character: str) -> str:
    # JSON leaves DEL as it is, which a terminal acts on.
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]


def fact(kind: str, /, **values: Any) -> str:
    """One line of ASCII that stays the same from version to version: ``kind name=value ...``.

    A value with spaces, quotes or other letters is a JSON string; "-" stands for none.
    """
    return " ".join((kind, *(f"{name}={_value(value)}" for name, value in values.items())))


def say(kind: str, /, **values: Any) -> None:
    """Print a fact; it is seen at once by whoever reads a pipe."""
    print(fact(kind, **values), flush=True)


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    if text != "-" and SAFE.fullmatch(text) and not set(text) & set('"='):
        return text
    return json.dumps(text).replace("\x7f", "\\u007f")
