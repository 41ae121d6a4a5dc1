"""`policy`: what is on the shelf of policies, what it says, and which of it is active."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from recov_graph.errors import PolicyError
from recov_graph.words import count, cut

if TYPE_CHECKING:
    from rich.table import Table

    from recov_graph.routing import Policy

SHOWN = 8  # differing entries of one field that are told before the rest is only counted
# Fields whose entries are told in one line each, however much they hold.
ROWS = ("population", "cells", "rescue", "posterior.cells", "rollout.population", "rollout.cells")
# Fields of which every part is told.
PARTS = ("", "posterior", "posterior.covariates", "rollout")

policies_option = click.option(
    "--policies",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of policies; default: $RECOV_GRAPH_POLICIES, else policies/ beside the default "
    "trace store.",
)
why_option = click.option("--why", metavar="TEXT", default="", help="A reason for the history.")


@click.group()
def policy() -> None:
    """Look at policies, choose the active one, roll back.

    REF is "shipped", "active", a file, a hash or the first 4 or more characters of one, or a name.
    """


@policy.command("list")
@policies_option
def list_policies(folder: Path | None) -> None:
    """List the policies there are; a star marks the one in use."""
    from recov_graph.console import console, plain
    from recov_graph.policies import SHIPPED, Entry, PolicyShelf
    from recov_graph.routing.policy import DEFAULT, default_policy

    shelf = PolicyShelf(folder)
    entries = shelf.list()
    try:
        used = shelf.active_ref() or SHIPPED
        times = sum((a.policy, a.action) == (SHIPPED, "activate") for a in shelf.history())
    except PolicyError:  # told below with the damaged files: the history is among the entries
        used, times = "", 0
    shipped = Entry(default_policy(), DEFAULT, used == SHIPPED, times)
    table = _table("", "hash", "name", "created", failures="right", activated="right")
    for entry in (shipped, *entries):
        if entry.policy is not None:
            table.add_row(
                "*" if entry.active else "",
                entry.policy.content_hash,
                plain(entry.policy.name),
                plain(entry.policy.created),
                f"{_failures(entry.policy):,}",
                f"{entry.activations:,}",
            )
    out = console()
    out.print(table)
    for entry in entries:
        if entry.error is not None:
            out.print(plain(f"{'* ' if entry.active else ''}{entry.error}"))


@policy.command()
@click.argument("ref", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the policy file instead.")
@policies_option
def show(ref: str | None, as_json: bool, folder: Path | None) -> None:
    """Show a policy, by default the one in use."""
    from recov_graph.policies import PolicyShelf
    from recov_graph.routing.policy import default_policy

    shelf = PolicyShelf(folder)
    shown = shelf.find(ref) if ref is not None else shelf.active() or default_policy()
    if as_json:
        data = shown.model_dump(mode="json", exclude_none=True)
        click.echo(json.dumps({**data, "content_hash": shown.content_hash}, indent=2))
        return
    _print_policy(shown)


@policy.command("diff")
@click.argument("a")
@click.argument("b")
@policies_option
def compare(a: str, b: str, folder: Path | None) -> None:
    """Show what differs from policy A to policy B."""
    from recov_graph.console import console, plain
    from recov_graph.policies import PolicyShelf

    shelf = PolicyShelf(folder)
    old, new = shelf.find(a), shelf.find(b)
    out = console()
    if old == new:
        out.print(f"the same policy: {plain(_title(old))}")
        return
    table = _table("field", plain(_title(old)), plain(_title(new)))
    for difference in diff(old, new):
        table.add_row(*map(plain, (difference.field, difference.old, difference.new)))
    out.print(table)


@policy.command()
@click.argument("ref")
@why_option
@policies_option
def activate(ref: str, why: str, folder: Path | None) -> None:
    """Make a policy the active one, from a file or from the shelf."""
    from recov_graph.console import plain
    from recov_graph.policies import PolicyShelf

    shelf = PolicyShelf(folder)
    chosen = shelf.find(ref)
    shelf.activate(chosen, why=why)
    click.echo(f"active: {plain(_title(chosen))}")


@policy.command()
@why_option
@policies_option
def rollback(why: str, folder: Path | None) -> None:
    """Go back to the policy that was active before."""
    from recov_graph.console import plain
    from recov_graph.policies import PolicyShelf

    shelf = PolicyShelf(folder)
    back = shelf.rollback(why=why)
    none = "" if shelf.active_ref() else " (the shipped policy; none is active)"
    click.echo(f"back to: {plain(_title(back))}{none}")


@policy.command()
@click.argument("refs", nargs=-1, metavar="[REF]...")
@policies_option
def verify(refs: tuple[str, ...], folder: Path | None) -> None:
    """Check policies, by default all on the shelf and the shipped one; exit code 1 if any fails."""
    from recov_graph.console import plain
    from recov_graph.policies import SHIPPED, PolicyShelf

    shelf = PolicyShelf(folder)
    results: list[tuple[Policy | None, str | None]] = []
    if not refs:
        results += [(entry.policy, entry.error) for entry in shelf.list()]
    for ref in refs or (SHIPPED,):
        try:
            results.append((shelf.find(ref), None))
        except PolicyError as error:
            results.append((None, str(error)))
    for checked, why in results:
        says = f"ok      {_title(checked)}" if checked is not None else f"failed  {why}"
        click.echo(plain(says))
    if any(checked is None for checked, _ in results):
        sys.exit(1)


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which two policies differ, by its dotted path, with both values in words."""

    field: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.field}: {self.old} -> {self.new}"


def expected_rescue(policy: Policy) -> dict[str, float]:
    """The probability that an attempt of each operator rescues a failure nothing was tried on."""
    rates = {name: rescue.after(0) for name, rescue in policy.rescue.items()}
    learned = policy.posterior
    if learned is not None:
        for column, name in enumerate(learned.operators):
            pairs = zip(learned.weights, learned.rescue, strict=True)
            rescued = sum(weight * row[column] for weight, row in pairs)
            rates[name] = rescued / sum(learned.weights)
    return rates


def diff(a: Policy, b: Policy) -> list[Difference]:
    """What differs from one policy to another: first what they expect, then field by field.

    Lists of numbers are summed up, and of many differing entries of a field the rest is counted.
    """
    old, new = (policy.model_dump(mode="json", exclude_none=True) for policy in (a, b))
    for data in (old, new):
        if "posterior" in data:
            learned = data["posterior"]
            columns = zip(*learned["rescue"], strict=True)
            learned["rescue"] = dict(zip(learned["operators"], map(list, columns), strict=True))
    rates = _compared("expected_rescue", expected_rescue(a), expected_rescue(b))
    return [*rates, *_compared("", old, new)]


def _compared(path: str, old: Any, new: Any) -> Iterator[Difference]:
    if old == new:
        return
    if path == "posterior.rescue" and old and new:
        yield Difference(path, *_types(old, new))
    elif isinstance(old, dict) and isinstance(new, dict):
        found: list[Difference] = []
        for key in dict.fromkeys([*old, *new]):
            below = f"{path}.{key}" if path else key
            before, after = old.get(key), new.get(key)
            if path not in ROWS:
                found += _compared(below, before, after)
            elif before != after:
                found.append(Difference(below, *_told(before, after)))
        shown = len(found) if path in PARTS else SHOWN
        yield from found[:shown]
        if found[shown:]:
            more = f"{path}, {len(found) - shown} more"
            yield Difference(more, f"{len(old):,} in all", f"{len(new):,} in all")
    else:
        yield Difference(path, *_told(old, new))


def _types(old: Mapping[str, list[float]], new: Mapping[str, list[float]]) -> tuple[str, str]:
    """How many types there are, and the mean rescue of the operators for which it changed."""
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    means = [
        {name: fmean(columns[name]) if name in columns else None for name in changed}
        for columns in (old, new)
    ]
    types = (count(len(next(iter(columns.values()))), "type") for columns in (old, new))
    before, after = (
        f"{number}, mean rescue of {mean}"
        for number, mean in zip(types, _told(*means), strict=True)
    )
    return before, after


def _told(old: Any, new: Any) -> tuple[str, str]:
    """Two different values, in as few digits as tell them apart."""
    if _are_numbers(old) and _are_numbers(new) and len(old) == len(new):
        steps = [abs(a - b) for a, b in zip(old, new, strict=True) if a != b]
        return _brief(old, 3), f"{len(steps):,} of them changed, by at most {max(steps):.3g}"
    for digits in (3, 6, 17):
        texts = _brief(old, digits), _brief(new, digits)
        if texts[0] != texts[1]:
            return texts
    return texts[0], "the same in short, but not in full"


def _brief(value: Any, digits: int) -> str:
    """A value in a few words; longer ones where more digits are asked for."""
    if isinstance(value, dict):
        if "operators" in value:  # a posterior
            types, operators = len(value["weights"]), len(value["operators"])
            return f"{count(types, 'type')} of failure, {count(operators, 'operator')}"
        if value and all(isinstance(key, str) and key.isdecimal() for key in value):
            return count(len(value), "type")
        if value and all(isinstance(part, dict) and "count" in part for part in value.values()):
            failures = count(max(part["count"] for part in value.values()), "failure")
            means = (f"{key} {_brief(part['mean'], digits)}" for key, part in value.items())
            return f"{failures}, {', '.join(means)}"
        parts = (f"{key} {_brief(part, digits)}" for key, part in value.items())
        return cut(", ".join(parts), 60 * digits)
    if _are_numbers(value):
        return f"{count(len(value), 'number')}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return "absent" if value is None else cut(str(value), 30 * digits)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, int | float) for item in value)


def _print_policy(policy: Policy) -> None:
    from rich.table import Table

    from recov_graph.console import console, plain

    out = console()
    facts = Table.grid(padding=(0, 2))
    for name, text in _facts(policy):
        facts.add_row(name, plain(text))
    out.print(facts)
    rates = _table("operator", **{"expected rescue of a fresh failure": "right"})
    for name, rate in sorted(expected_rescue(policy).items(), key=lambda item: -item[1]):
        rates.add_row(plain(name), f"{rate:.1%}")
    out.print(rates)
    cells = _table("cell", failures="right")
    for name, failures in _failures_by_cell(policy).items():
        cells.add_row(plain(name), f"{failures:,}")
    out.print(cells)


def _facts(policy: Policy) -> Iterator[tuple[str, str]]:
    """What `show` says above the tables."""
    window, counts, learned = policy.window, policy.counts, policy.posterior
    yield "name", policy.name
    yield "hash", policy.content_hash
    yield "created", policy.created
    yield "source", policy.source
    yield "code version", policy.code_version or "not recorded"
    yield "feature version", str(policy.feature_version)
    yield "router version", str(policy.router_version)
    if policy.rollout is not None:
        part = policy.rollout.model_dump()
        told = _brief(part["population"], 3)
        yield "rollout features", f"version {policy.rollout.feature_version}, {told}"
        yield "rollout rule", _brief(part["rule"], 3) or "none"
    yield "window", f"{window.first} to {window.last}" if window else "not recorded"
    yield (
        "fitted on",
        f"{count(counts.problems, 'failed problem')}, {counts.attempts:,.0f} attempts, "
        f"{counts.rescues:,.0f} rescues"
        if counts
        else f"{count(_failures(policy), 'failed problem')}",
    )
    yield "stops below", f"{policy.stop_below:.1%} chance of a rescue"
    if learned is None:
        yield "routes by", "the cold-start rule"
        yield "explores", "never"
        yield "measures features", "always: the rule goes by them"
    else:
        yield "routes by", f"{count(len(learned.weights), 'type')} of failure learned from outcomes"
        yield "explores", f"{learned.explore:.1%} of choices"
        first = "before the first choice" if learned.measure else "not before the first choice"
        yield "measures features", first


def _failures(policy: Policy) -> int:
    """How many failures a policy was made from."""
    if policy.counts is not None:
        return policy.counts.problems
    return max(moments.count for moments in policy.population.values())


def _failures_by_cell(policy: Policy) -> dict[str, int]:
    by_cell = {
        name: max(moments.count for moments in cell.values()) for name, cell in policy.cells.items()
    }
    return by_cell if policy.posterior is None else {**by_cell, **policy.posterior.failures}


def _title(policy: Policy) -> str:
    return f"{policy.content_hash} {policy.name}"


def _table(*headings: str, **justified: Any) -> Table:
    from rich.table import Table

    table = Table()
    for heading in headings:
        table.add_column(heading)
    for heading, justify in justified.items():
        table.add_column(heading, justify=justify)
    return table
