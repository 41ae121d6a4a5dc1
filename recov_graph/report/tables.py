"""The numbers behind the charts of a report, as tables of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from recov_graph.report.content import (
    OUTCOMES,
    Bin,
    Drift,
    FailureMap,
    Grouping,
    GroupRow,
    Panel,
    RescueRow,
    RunRow,
)
from recov_graph.report.style import routes_of
from recov_graph.report.wording import moment, number, percent, share, words

Rows = Sequence[tuple[str, ...]]
MOST_GROUPS = 12  # rows of a table by task or model


@dataclass(frozen=True)
class Table:
    """A table; its first column names its rows.

    Attributes:
        caption: what it holds.
        head: of its columns.
        rows: as long as the head.
        words: how many of the first columns are no numbers.
    """

    caption: str
    head: tuple[str, ...]
    rows: Rows
    words: int = 1


def group_table(rows: Sequence[GroupRow], by: Grouping) -> Table | None:
    """What failed and what came of it, by task, model or regime; None where there are no rows."""
    found = [row for row in rows if row.by == by]
    shown = found[:MOST_GROUPS]
    if not shown:
        return None
    compared = any(row.retry_rescued is not None for row in shown)
    head = [by, "failed", "rescued", "stopped", "tokens"]
    head += ["retry alone rescued", "its tokens"] if compared else []
    made = [
        (
            words(row.name),
            f"{row.failed:,} of {row.problems:,}" if by != "regime" else f"{row.failed:,}",
            f"{row.rescued:,}",
            f"{row.stopped:,}",
            f"{row.tokens:,}",
            *((_known(row.retry_rescued), _known(row.retry_tokens)) if compared else ()),
        )
        for row in shown
    ]
    caption = {
        "task": "By task",
        "model": "By model",
        "regime": "Whole problems, by the regime predicted first",
    }[by]
    if len(found) > len(shown):
        caption += f", the {len(shown)} of {len(found)} with most failures"
    return Table(caption, tuple(head), made)


def _known(value: int | None) -> str:
    return "not measured" if value is None else f"{value:,}"


def map_table(found: FailureMap) -> Table:
    """Failures by route and outcome."""
    counts = Counter(zip(found.route, found.outcome, strict=True))
    outcomes = [name for name in OUTCOMES if name in set(found.outcome)]
    rows = [
        (
            words(route),
            *(f"{counts[route, outcome]:,}" for outcome in outcomes),
            f"{found.route.count(route):,}",
        )
        for route in routes_of(found)
    ]
    caption = f"Failed problems with {_listed(found.features)}, by route and outcome"
    return Table(caption, ("route", *outcomes, "all"), rows)


def rescue_table(rows: Sequence[RescueRow]) -> Table:
    """Rescue by regime and operator."""
    head = ("regime", "operator", "attempts", "rescued", "rate (95%)", "tokens", "per rescue")
    made = [
        (
            words(row.regime) or "none",
            words(row.operator),
            f"{row.attempts:,}",
            f"{row.rescued:,}",
            percent(row.rate),
            f"{row.tokens:,}",
            "nothing rescued" if row.per_rescue is None else f"{row.per_rescue:,.0f}",
        )
        for row in rows
    ]
    return Table("Attempts and rescues by regime and operator", head, made, 2)


def panel_table(panel: Panel) -> Table:
    """The points of a panel's curves."""
    head = ("curve", "source", "tokens per problem", "rescued (95%)")
    rows = [
        (words(curve.name), curve.source, f"{tokens:,.0f}", percent(rescued))
        for curve in panel.curves
        for tokens, rescued in zip(curve.tokens, curve.rescued, strict=True)
    ]
    return Table(panel.title, head, rows, 2)


def bin_table(caption: str, bins: Sequence[Bin]) -> Table:
    """The bins of a calibration."""
    rows = [(share(b.predicted), percent(b.observed), f"{b.count:,}") for b in bins]
    return Table(caption, ("predicted", "came true (95%)", "count"), rows, 0)


def drift_table(drift: Drift) -> Table:
    """Mean z-scores by span of time and feature."""
    rows = [
        (moment(start), f"{spanned:,}", *(number(row[i]) for row in drift.means))
        for i, (start, spanned) in enumerate(zip(drift.starts, drift.counts, strict=True))
    ]
    head = ("from", "failures", *(f"{words(name)} (95%)" for name in drift.features))
    return Table(f"Mean z-scores of {_listed(drift.features)} over time", head, rows)


def run_table(runs: Sequence[RunRow]) -> Table:
    """The runs that a report is of."""
    head = ("run", "kind", "model", "verifier", "policy", "started", "problems")
    rows = [
        (
            run.id,
            run.kind,
            run.model,
            run.verifier,
            f"{run.policy} {run.policy_hash[:8]}".strip(),
            moment(run.started_at),
            f"{run.problems:,}",
        )
        for run in runs
    ]
    return Table("Runs, the newest first", head, rows, 6)


def _listed(names: Sequence[str]) -> str:
    *most, last = map(words, names)
    return f"{', '.join(most)} and {last}" if most else last
