"""Numbers and values in words, for messages to people."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def count(number: int, noun: str) -> str:
    """A number with its noun, in the plural where it is one: "1 problem", "2,000 problems"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(names: Collection[str], most: int) -> str:
    """The first of the names, and how many more there are: "a, b and 3 more"."""
    shown = ", ".join([*names][:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def cut(text: str, limit: int = 80) -> str:
    """The text, cut to `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def storable(text: str) -> str:
    """The text with characters that were cut in half replaced: no file can hold them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def short(value: Any, limit: int = 80) -> str:
    """A value as it would be typed, cut to `limit` characters."""
    return cut(repr(value), limit)
