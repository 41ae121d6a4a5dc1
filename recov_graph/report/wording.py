"""How a report writes names, numbers, times and texts that nothing is known about."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

from recov_graph.report.content import Estimate
from recov_graph.words import storable

# What steers a terminal or turns the direction of what follows, and what cannot be seen.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """The text with control characters and those that cannot be seen made visible."""
    return _UNSEEN.sub(_symbol, storable(text))


def _symbol(found: re.Match[str]) -> str:
    return f"\u27e8U+{ord(found.group()):04X}\u27e9"


def shortened(text: str, limit: int) -> tuple[str, int]:
    """How the text starts, and how many characters are left out."""
    return text[:limit], max(0, len(text) - limit)


def words(name: str) -> str:
    """A name as people write it: "sparse_steer" is "sparse steer"."""
    return name.replace("_", " ")


def moment(iso: str) -> str:
    """A time without seconds."""
    return f"{iso[:16].replace('T', ' ')} UTC" if len(iso) > 16 else iso


def share(value: float) -> str:
    """A share as a percentage, with a decimal where it is small."""
    return f"{value:.1%}" if 0 < value < 0.095 else f"{value:.0%}"


def percent(estimate: Estimate) -> str:
    """A share with its interval."""
    return _with_interval(estimate, share)


def number(estimate: Estimate) -> str:
    """A number with its interval."""
    return _with_interval(estimate, lambda value: f"{value:,.2f}")


def _with_interval(estimate: Estimate, form: Callable[[float], str]) -> str:
    if estimate.value is None:
        return "not known"
    if estimate.low is None or estimate.high is None:
        return form(estimate.value)
    return f"{form(estimate.value)} ({form(estimate.low)} to {form(estimate.high)})"


def finite(values: Iterable[float]) -> list[float | None]:
    """Numbers to write as JSON: short, and None for what is none."""
    return [short(value) for value in values]


def short(value: float | None) -> float | int | None:
    """A number to three decimals, or three digits where it is small."""
    if value is None or not math.isfinite(value):
        return None
    if value == int(value):
        return int(value)
    return round(value, 3) if abs(value) >= 1 else float(f"{value:.3g}")
