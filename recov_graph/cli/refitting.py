"""`refit`: a new policy from stored traces, through the gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from recov_graph.cli.options import check_writable, db_option, existing_store, number

if TYPE_CHECKING:
    from recov_graph.refit import Refit
    from recov_graph.store.location import Address


@click.command()
@db_option
@click.option("--model", help="Learn from this model's failures only.")
@click.option("--task", help="Learn from this task's failures only.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the policy here; it is put on the policy shelf in any case.",
)
@click.option("--activate", is_flag=True, help="Use it from now on, if the gate lets it pass.")
@click.option("--force", is_flag=True, help="Activate it whatever the gate says.")
@click.option("--name", default="fitted", show_default=True, help="What to call it.")
@click.option(
    "--explore",
    type=number(0, 1),
    default=0.05,
    show_default=True,
    help="Share of choices made at random, so that policies can be compared from logs.",
)
@click.option(
    "--measure",
    is_flag=True,
    help="Measure the features of every failure before the first choice, whatever they cost.",
)
@click.option(
    "--stop-below",
    type=number(0, 1),
    help="Stop when the chance of any rescue is below; default: as the active policy.",
)
@click.option(
    "--confidence",
    type=number(0, 1, strict=True),
    default=0.9,
    show_default=True,
    help="Of the gate's intervals.",
)
@click.option(
    "--policies", type=click.Path(path_type=Path, file_okay=False), help="Folder of policies."
)
def refit(
    db: Address | None,
    model: str | None,
    task: str | None,
    out: Path | None,
    activate: bool,
    force: bool,
    name: str,
    explore: float,
    measure: bool,
    stop_below: float | None,
    confidence: float,
    policies: Path | None,
) -> None:
    """Fit a policy to stored traces and compare it with the active one on the newest of them."""
    from recov_graph.console import plain
    from recov_graph.errors import PolicyError
    from recov_graph.policies import PolicyShelf
    from recov_graph.refit import refit as fit
    from recov_graph.routing import default_policy
    from recov_graph.store import TraceStore

    if force and not activate:
        raise click.BadParameter("only overrides the gate of --activate", param_hint="--force")
    path = existing_store(db)
    if out is not None:
        check_writable(out, "--out", path)
    if not name:
        raise click.BadParameter("it must not be empty", param_hint="--name")
    shelf = PolicyShelf(policies)
    if out is not None and out.resolve().parent == shelf.folder.resolve():
        raise click.BadParameter(f"{out} is on the policy shelf", param_hint="--out")
    active = shelf.active() or default_policy()
    with TraceStore(path) as store:
        made = fit(
            store,
            active,
            name=name,
            model=model,
            task=task,
            explore=explore,
            measure=measure,
            stop_below=stop_below,
            confidence=confidence,
        )
    _print_learned(made)
    _print_verdict(made, active.name, confidence)
    saved = shelf.save(made.policy)
    if out is not None:
        made.policy.save(out)
    click.echo(f"policy {made.policy.content_hash}: {plain(str(out or saved))}")
    if not activate:
        click.echo(f"not activated; `recov-graph policy activate {made.policy.content_hash}` does")
        return
    if not made.verdict.passed and not force:
        raise PolicyError(f"not activated: {made.verdict.why}")
    why = made.verdict.why
    if not made.verdict.passed:
        click.echo(f"--force overrides the gate, which said: {why}")
        why = f"forced against: {why}"
    shelf.activate(made.policy, why=why)
    click.echo("activated; `recov-graph policy rollback` goes back")


def _print_learned(made: Refit) -> None:
    """What the policy was fitted on and what it expects of each operator."""
    from rich.table import Table

    from recov_graph.console import console, number, plain

    posterior = made.policy.posterior
    assert posterior is not None
    table = Table(title="What was learned: how often an attempt is expected to rescue a failure")
    table.add_column("cell")
    for heading in ("failures", "attempts", "rescued", *posterior.operators):
        table.add_column(heading, justify="right")
    rates = _expected(made)
    for cell, (problems, attempts, rescues) in made.cells.items():
        counts = map(number, (problems, round(attempts), round(rescues)))
        table.add_row(plain(cell), *counts, *(f"{rate:.0%}" for rate in rates[cell]))
    out = console()
    out.print(table)
    window = made.policy.window
    assert window is not None
    out.print(
        f"{number(sum(row[0] for row in made.cells.values()))} failed problems, stored "
        f"{window.first[:10]} to {window.last[:10]}, {len(posterior.weights)} types of failure"
    )
    rollout = made.policy.rollout
    if rollout is not None and rollout.cells.keys() & made.cells:  # not those of before
        known = next(iter(rollout.population.values())).count
        means = (f"{name} {one.mean:.3g}" for name, one in rollout.population.items())
        out.print(f"rollout features of {number(known)} of them: {', '.join(means)}")


def _expected(made: Refit) -> dict[str, list[float]]:
    """Each operator's expected rescue rate on a fresh failure of each cell."""
    import numpy as np

    posterior = made.policy.posterior
    assert posterior is not None
    rescue = np.array(posterior.rescue)
    table = {}
    for cell in made.cells:
        weights = np.zeros(len(rescue))
        for index, share in posterior.cells[cell].items():
            weights[index] = share
        table[cell] = (weights @ rescue / weights.sum()).tolist()
    return table


def _print_verdict(made: Refit, active: str, confidence: float) -> None:
    """How it compares with the active policy on the newest problems, by logged decisions."""
    from rich.table import Table

    from recov_graph.console import console, number, plain

    verdict, out = made.verdict, console()
    if verdict.figures:
        table = Table(
            title=f"On the newest {number(verdict.problems)} failures, which the new policy was "
            f"not fitted on ({confidence:.0%} intervals)"
        )
        table.add_column("policy")
        table.add_column("estimate")
        for heading in ("rescued", "tokens each", "rescues per 1,000 tokens", "effective problems"):
            table.add_column(heading, justify="right")
        for figure in verdict.figures:
            ratio = figure.rescues_per_1000
            table.add_row(
                plain(active) if figure.policy == "active" else "new",
                figure.estimate,
                f"{figure.rescue_rate:.1%}",
                f"{figure.mean_cost:,.0f}",
                f"{ratio.point:.2f} ({ratio.low:.2f} to {ratio.high:.2f})",
                f"{figure.problems:.0f}",
            )
        out.print(table)
    out.print(f"gate {'passed' if verdict.passed else 'not passed'}: {verdict.why}")
