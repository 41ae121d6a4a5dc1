"""Changing valid files so that they stay files: values of JSON documents and cells of CSV.

Bytes that are changed at random rarely get past the first check of a reader. So documents are taken
apart, something in them is replaced, and they are written again, with what Python's own writer
would never write: numbers beyond any range, halves of characters, the same key twice.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

MOST_PLACES = 3000
LARGE = 2**70  # beyond it a whole number stays one
DEEP = 300  # of lists in one another; readers differ in where they give up
RAW = re.compile(r'"#raw ([^"]*)"')
# Written as they stand, without the quotes around them.
TOKENS = (
    *("1e999", "-1e999", "1e-999", "-0", "-0.0", "1E400", "NaN", "Infinity", "-Infinity", "1e16"),
    *(
        "9" * 400,
        "-" + "9" * 400,
        "9" * 5000,
        "9007199254740993",
        "1e308",
        "1.7976931348623157e308",
    ),
    *("5e-324", "0x10", "01", "1_000", "nul", "'a'", ""),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 0.5, -0.5, 1.0, 20, 1e-9, -1e-9, 1e9, 1e300, -1e300),
    *(2**31 - 1, 2**31, -(2**31), 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**20),
    *("", " ", "a", "0", "-1", "1.5", "nan", "\0", "\n", "\x1b[31m", "\x9b", "\u202e", "\ud800"),
    *("\udfff\ud800", "\ufeff", "\u2028", "|", "..", "../../x", "x" * 200, "9" * 30, "²", "٣"),
    *("sample", "retry", "stop", "length", "token_id:3", "=1+1", "%s{0}", "a,b", '"', "\r"),
)
CELLS = (
    *("", " ", "0", "1", "-1", "0.5", "1e999", "-0", "nan", "inf", "1_0", "٣", "1e-400", "9" * 400),
    *('"', '""', '"a,b"', '"a\nb"', "a|b", "|", "\x1b[0m", "\0", "x" * 200, "é", "\ufeff", "+.5"),
    *(
        ".5",
        "5.",
        "1e5",
        "9223372036854775807",
        "9223372036854775808",
        "20.0",
        "=1",
        "model",
        "task",
    ),
)


def mutated(data: bytes, seed: int) -> bytes:
    """One line of a file changed, or lines put in another order; the same for the same seed."""
    rng = random.Random(seed)
    lines = data.split(b"\n")
    if rng.random() < 0.1:
        return b"\n".join(_shuffled(lines, rng))
    place = rng.randrange(len(lines))
    lines[place] = _line(lines[place], rng)
    return b"\n".join(lines)


def _shuffled(lines: list[bytes], rng: random.Random) -> list[bytes]:
    """A line left out, said twice, or taken elsewhere."""
    line = lines.pop(rng.randrange(len(lines)))
    for _ in range(rng.randrange(3)):
        lines.insert(rng.randint(0, len(lines)), line)
    return lines or [b""]


def _line(line: bytes, rng: random.Random) -> bytes:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return _cells(line, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        document = _changed(document, rng)
    return _written(document, rng)


def _cells(line: bytes, rng: random.Random) -> bytes:
    """A line of CSV with a cell replaced, left out or said twice."""
    cells = line.split(b",")
    place = rng.randrange(len(cells))
    how = rng.randrange(4)
    if how == 0:
        cells.insert(place, cells[rng.randrange(len(cells))])
    elif how == 1 and len(cells) > 1:
        del cells[place]
    else:
        cells[place] = rng.choice(CELLS).encode("utf-8", "surrogatepass")
    return b",".join(cells)


def _written(document: Any, rng: random.Random) -> bytes:
    try:
        text = json.dumps(document, ensure_ascii=rng.random() < 0.7)
    except (ValueError, RecursionError):
        return b"[" * DEEP
    text = RAW.sub(lambda found: found[1], text)
    if rng.random() < 0.03 and text.startswith("{") and len(text) > 2:
        text = f"{{{text[1:-1]},{text[1:-1]}}}"  # every key twice
    return text.encode("utf-8", "surrogatepass" if rng.random() < 0.5 else "replace")


def _changed(document: Any, rng: random.Random) -> Any:
    """The document with one of its values changed."""
    places = _places(document)
    if len(places) == 1 or rng.random() < 0.02:  # the document itself
        return rng.choice(WAYS)(document, document, rng)
    holder, last = rng.choice(places[1:])
    if rng.random() < 0.15:
        _regrouped(holder, last, rng)
    else:
        holder[last] = rng.choice(WAYS)(holder[last], document, rng)
    return document


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every value of a document, by what holds it and its key or place there; itself first."""
    found: list[tuple[Any, Any]] = [([document], 0)]
    for holder, key in found:  # which grows meanwhile
        value = holder[key]
        if isinstance(value, dict):
            found += [(value, name) for name in value]
        elif isinstance(value, list):
            found += [(value, place) for place in range(len(value))]
        if len(found) > MOST_PLACES:
            break
    return found


def _regrouped(holder: Any, key: Any, rng: random.Random) -> None:
    """An entry left out, said again, or under another name."""
    how = rng.randrange(3)
    value = holder[key]
    if isinstance(holder, list):
        if how == 0:
            del holder[key]
        else:
            holder[key:key] = [copied(value) for _ in range(rng.choice((1, 2, 40)))]
    elif how == 0:
        del holder[key]
    else:
        name = rng.choice([*holder, *(text for text in VALUES if isinstance(text, str))])
        if how == 1:
            del holder[key]
        holder[name] = value


def _replaced(value: Any, whole: Any, rng: random.Random) -> Any:
    return rng.choice(VALUES)


def _token(value: Any, whole: Any, rng: random.Random) -> Any:
    return f"#raw {rng.choice(TOKENS)}"


def _near(value: Any, whole: Any, rng: random.Random) -> Any:
    """A value that is almost the same."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        size = 1.0 if abs(value) > LARGE else float(value)
        return rng.choice((value + 1, value - 1, -value, value * 2, size / 2, size, [value]))
    if isinstance(value, str):
        place = rng.randint(0, len(value))
        odd = rng.choice([text for text in VALUES if isinstance(text, str)])
        return value[:place] + odd + value[place + rng.randrange(2) :]
    return [value]


def _from_elsewhere(value: Any, whole: Any, rng: random.Random) -> Any:
    """Another part of the same document."""
    holder, key = rng.choice(_places(whole))
    return copied(holder[key])


def _nested(value: Any, whole: Any, rng: random.Random) -> Any:
    deep = value
    for _ in range(rng.choice((1, 2, DEEP))):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    return deep


def copied(value: Any) -> Any:
    """The same value, to be changed by itself."""
    try:
        return json.loads(json.dumps(value))
    except (ValueError, RecursionError):
        return None


WAYS: tuple[Callable[[Any, Any, random.Random], Any], ...] = (
    *(_replaced, _replaced, _token, _near, _near, _from_elsewhere, _nested),
)
