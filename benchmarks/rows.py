"""What each benchmark hands back: a row of the table of ratios printed at the end."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

# Seconds of this process's own work, where others keep the machine busy: BENCHMARK_CLOCK=cpu.
clock = time.process_time if os.environ.get("BENCHMARK_CLOCK") == "cpu" else time.perf_counter
HEAD = ("what", "ours", "compared with", "ratio", "lowest to highest", "target", "met")


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: what was measured.
        ours: our figure, with its unit.
        other: what it is compared with, with its figure.
        ratio: the median over all runs; above 1 where ours is the better.
        low: the lowest of them, or the lower end of an interval.
        high: the highest, or the upper end.
        target: the ratio to reach; None where there is none.
    """

    name: str
    ours: str
    other: str
    ratio: float
    low: float
    high: float
    target: float | None = None

    @property
    def met(self) -> str:
        """Whether the median reaches the target."""
        if self.target is None:
            return ""
        return "yes" if self.ratio >= self.target else "NO"

    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        return (
            self.name,
            self.ours,
            self.other,
            f"{self.ratio:.2f}",
            f"{self.low:.2f} to {self.high:.2f}",
            "" if self.target is None else f"at least {self.target:.3g}",
            self.met,
        )

    def line(self) -> str:
        """As the benchmark itself prints it."""
        return (
            f"{self.name}: {self.ours}, {self.other}; "
            f"ratio {self.ratio:.2f} ({self.low:.2f} to {self.high:.2f})"
        )


def of_times(
    name: str,
    ours: Sequence[float],
    other: Sequence[float],
    against: str,
    *,
    target: float | None = None,
    unit: str = "ms",
    scale: float = 1e3,
) -> Row:
    """A row from the seconds of runs taken in turn: how many times as long the other takes."""
    ratios = [b / a for a, b in zip(ours, other, strict=True)]
    figures = [f"{statistics.median(times) * scale:.3g} {unit}" for times in (ours, other)]
    return Row(
        name,
        figures[0],
        f"{against}: {figures[1]}",
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        target,
    )


def in_turn(
    runs: int, *calls: Callable[[], object], clock: Callable[[], float] = clock
) -> list[list[float]]:
    """Seconds of each call in so many rounds; in each they take turns, and the first warms up."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(runs + 1):
        for call, times in zip(calls, taken, strict=True):
            started = clock()
            call()
            times.append(clock() - started)
    return [times[1:] for times in taken]


def sizes(variable: str, usual: Sequence[int]) -> Sequence[int]:
    """The sizes to measure at: those of a variable of the environment, separated by commas."""
    given = os.environ.get(variable)
    return [int(float(size)) for size in given.split(",")] if given else usual


def table(rows: Iterable[Row]) -> str:
    """All rows as one table in Markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
