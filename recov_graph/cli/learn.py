"""`evaluate`: policies compared at equal budgets on recorded outcomes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recov_graph.cli.options import StoreAddress, check_writable, json_option, seed_option
from recov_graph.words import count

if TYPE_CHECKING:
    from rich.console import Console

    from recov_graph.evaluate import Bench
    from recov_graph.store.location import Address

OF_ATTEMPTS = (1.0, 2.0, 3.0, 4.0)
OF_TOKENS = (4.0, 8.0, 16.0, 32.0)
SHARED = (0.5, 1.0, 2.0, 3.0, 4.0)
WIDTH = 100  # of tables, where no terminal says how wide it is
GROUPS = {"all": "all failed problems", "steerable_hard": "steerable-hard problems"}
COMPARED = ("posterior", "worth")  # the JSON has the differences of all others too


@click.command()
@click.option(
    "--profiles",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Failed problems with the measured rescue rate of every operator.",
)
@click.option(
    "--tape",
    type=StoreAddress(),
    metavar="DB",
    help="A trace store that `recov-graph record` wrote to, or a tape it wrote with --out; "
    "default: the tape that ships.",
)
@click.option(
    "--budget",
    metavar="LIST",
    help="Budgets for each problem, separated by commas: attempts with --profiles, else in units "
    "of what a retry costs on average. Default: 1,2,3,4 with --profiles, else 4,8,16,32; "
    "0.5,1,2,3,4 with --shared.",
)
@click.option(
    "--leave-cell-out",
    is_flag=True,
    help="Learn from the other cells of model and task instead of from four fifths of each.",
)
@click.option(
    "--shared",
    is_flag=True,
    help="One budget over all problems of a cell, instead of one for each problem.",
)
@seed_option
@json_option
def evaluate(
    profiles: Path | None,
    tape: Address | None,
    budget: str | None,
    leave_cell_out: bool,
    shared: bool,
    seed: int,
    json_out: str | None,
) -> None:
    """Compare policies at equal budgets on recorded outcomes.

    Every policy is scored on other problems than it learned from. Without an argument the tape
    that ships is used.
    """
    from recov_graph.errors import InvalidInputError
    from recov_graph.evaluate import evaluate as compare
    from recov_graph.evaluate.report import checked_budgets

    if profiles is not None and tape is not None:
        raise click.BadParameter("give either --profiles or --tape, not both", param_hint="--tape")
    if json_out not in (None, "-"):
        check_writable(Path(str(json_out)), "--json", profiles, tape)
    usual = SHARED if shared else OF_TOKENS if profiles is None else OF_ATTEMPTS
    budgets = usual if budget is None else _budgets(budget)
    try:
        checked_budgets(budgets, whole=profiles is not None and not shared)
    except InvalidInputError as error:
        raise click.BadParameter(str(error), param_hint="--budget") from None
    bench = _bench(profiles, tape)
    with _progress() as progress:
        figures = compare(
            bench,
            budgets=budgets,
            seed=seed,
            leave_cell_out=leave_cell_out,
            shared=shared,
            progress=progress,
        )
    text = json.dumps(figures, indent=2, allow_nan=False)
    if json_out == "-":
        click.echo(text)
        return
    _print(figures)
    if json_out is not None:
        Path(json_out).write_text(text + "\n", encoding="utf-8")


def _budgets(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a list of numbers separated by commas, such as 1,2,4",
            param_hint="--budget",
        ) from None


def _bench(profiles: Path | None, tape: Address | None) -> Bench:
    from recov_graph.evaluate import bench_of_profiles, bench_of_tape
    from recov_graph.store.location import shown
    from recov_graph.tape import read_tape, shipped_tape

    if profiles is not None:
        return bench_of_profiles(profiles)
    if tape is not None:
        return bench_of_tape(read_tape(tape), shown(tape))
    return bench_of_tape(shipped_tape(), "the tape that ships")


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is being done, on a terminal's standard error; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda what: None
        return
    from recov_graph.console import console

    with console(error=True).status("comparing policies") as status:
        yield lambda what: status.update(f"comparing policies: {what}")


def _print(figures: Mapping[str, Any]) -> None:
    from recov_graph.console.text import SafeConsole

    width = None if sys.stdout.isatty() else WIDTH
    out = SafeConsole(highlight=False, markup=False, emoji=False, width=width, soft_wrap=False)
    for line in _about(figures):
        out.print(line)
    if "shared" in figures:
        _table(out, "Rescued, % with 95% interval", figures["shared"], "all", "rescue")
        for name in COMPARED:
            _differences(out, figures["shared_differences"], name, "all")
        return
    for group, words in GROUPS.items():
        _table(out, f"Rescued of {words}, % with 95% interval", figures["policies"], group)
    for group in GROUPS:
        for name in COMPARED:
            _differences(out, figures["differences"], name, group)
    rows = {"features": figures["features"]}
    for group, words in GROUPS.items():
        title = f"What features add to the posterior on {words}, points with 95% interval"
        _table(out, title, rows, group, "difference")
    for group, words in GROUPS.items():
        title = f"With operator names shuffled inside each problem: rescued of {words}, %"
        _table(out, title, figures["null"]["policies"], group)
    for line in _stopping(figures):
        out.print(line)


def _about(figures: Mapping[str, Any]) -> Iterator[str]:
    from recov_graph.console import plain

    unit, shared = figures["unit"], "shared" in figures
    size = "one attempt"
    if unit["of"] == "tokens":
        size = (
            f"{unit['size']:.1f} tokens, what a retry costs here on average: every token is "
            "charged, prefill, both models and measuring included"
        )
    yield plain(figures["source"]) + f", {count(len(figures['cells']), 'cell')} of model and task."
    each = "the same for every problem"
    if shared:
        each = "one for all problems of a cell together, so many units for each of them"
    yield f"One unit of budget is {size}. A budget is {each}."
    learned = "the other four fifths of each cell"
    if figures["split"] == "leave_cell_out":
        learned = "the other cells alone"
    yield f"Every policy learned from {learned}; figures are the mean of the cells."
    if unit["of"] == "tokens" and not shared:
        half = figures["attempts"] // 2
        yield (
            "Steerable-hard problems are labelled on one half of the attempts and scored on the "
            f"other, {count(half, 'attempt')} of each operator: repeating one more often than "
            "that can gain nothing."
        )


def _table(
    out: Console, title: str, rows: Mapping[str, Any], group: str, figure: str = "rescue"
) -> None:
    """Rows by budget; as many tables as it takes for the budgets to fit the width."""
    from rich.table import Table
    from rich.text import Text

    budgets = list(next(iter(rows.values()))[group])
    cells = {
        name: {budget: _cell(row[group][budget], figure) for budget in budgets}
        for name, row in rows.items()
    }
    wide = 1 + max(len(text) for row in cells.values() for text in row.values())
    fit = max(1, (out.width - max(map(len, ("budget", *cells)))) // wide)
    out.print()
    out.print(Text(title, style="bold"))
    for part in _parts(budgets, fit):
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("budget", no_wrap=True)
        for budget in part:
            table.add_column(budget, justify="right", no_wrap=True)
        for name, row in cells.items():
            table.add_row(name, *(row[budget] for budget in part))
        out.print(table)


def _parts(items: Sequence[str], most: int) -> Iterable[Sequence[str]]:
    """In as few parts as it takes, of about the same length."""
    parts = -(-len(items) // most)
    length = -(-len(items) // parts)
    return (items[at : at + length] for at in range(0, len(items), length))


def _cell(figures: Mapping[str, float | None], figure: str) -> str:
    value, low, high = (_points(figures[name], figure) for name in (figure, "low", "high"))
    return f"{value} [{low} {high}]"


def _points(value: float | None, figure: str) -> str:
    if value is None:
        return "-"
    text = f"{100 * value:{'+' if figure == 'difference' else ''}.1f}"
    return text if float(text) else "0.0"


def _differences(out: Console, differences: Mapping[str, Any], name: str, group: str) -> None:
    if name in differences:
        rows = {other.replace(":", " "): row for other, row in differences[name].items()}
        title = f"{name} minus others on {GROUPS[group]}, points with 95% interval"
        _table(out, title, rows, group, "difference")


def _stopping(figures: Mapping[str, Any]) -> Iterator[str]:
    stop, unit = figures["stopping"], figures["unit"]["of"]
    yield ""
    yield (
        f"Stopping, walked {stop['horizon']} attempts ahead: the predicted chance of a rescue in "
        f"the attempts left ranks those that come true above those that do not with AUROC "
        f"{_number(stop['auroc'])}; it is off by {_number(stop['ece'])} on average (expected "
        "calibration error)."
    )
    yield _saved(stop, unit, "Stopping below a threshold of that chance")
    yield _saved(stop["per_attempt"], unit, "Of that chance for each attempt left")


def _saved(stop: Mapping[str, Any], unit: str, how: str) -> str:
    return (
        f"{how}, chosen on other problems to lose at most 1% of rescues there, saves "
        f"{_percent(stop['saved'])} of the {unit}, {_percent(stop['saved_out_of_reach'])} of those "
        f"spent on problems out of reach, and loses {_percent(stop['lost'])} of rescues."
    )


def _number(value: float | None) -> str:
    return "(unknown)" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "(unknown)" if value is None else f"{value:.1%}"
