"""Names of any length, cut to what a page can hold; nothing that cannot be seen is left in them."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

from recov_graph.report.wording import visible

T = TypeVar("T")
# Fields that hold what users and models call things.
NAMES = frozenset(
    ("database", "kind", "key", "model", "name", "operator", "outcome", "policy", "regime")
) | {"route", "task", "verifier"}


def named_shortly(thing: T, most: int) -> T:
    """A report, or a part of one, whose names have at most so many bytes of UTF-8 and a mark."""
    assert is_dataclass(thing)
    changes = {}
    for field in fields(thing):
        value = getattr(thing, field.name)
        if field.name in NAMES:
            changes[field.name] = _named(value, most)
        elif is_dataclass(value):
            changes[field.name] = named_shortly(value, most)
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            changes[field.name] = tuple(named_shortly(one, most) for one in value)
    return replace(thing, **changes)  # type: ignore[type-var]


def _named(value: Any, most: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_cut(one, most) for one in value)
    return _cut(value, most) if isinstance(value, str) else value


@lru_cache(maxsize=65536)
def _cut(text: str, most: int) -> str:
    shown = visible(text[: most + 1])
    kept = shown.encode()[:most].decode(errors="ignore")
    return shown if kept == shown and len(text) <= most else f"{kept}\u2026"
