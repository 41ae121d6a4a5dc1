"""`plot`: the figures of a report as pictures, for papers and READMEs."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recov_graph.cli.options import (
    check_writable,
    db_option,
    existing_store,
    number,
    policy_option,
    write_whole,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from recov_graph.report.content import Case, Report
    from recov_graph.store.location import Address

TRACE = "trace"
KINDS = ("png", "svg", "pdf")
STARTS = {"png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-"}
HEAD = 4096  # bytes in which an SVG says that it is one
DESCRIBED = {
    "map": "Failed problems by their features, coloured by the first route, shaped by how they "
    "ended.",
    "rescue": "Share of attempts that rescued, by regime and operator, with 95% intervals.",
    "budget": "Share of failed problems rescued against tokens spent, a line for each policy.",
    "calibration": "Predicted chances of a rescue against the shares that came true.",
    "drift": "Mean z-scores of the features of failures over time.",
    TRACE: "A failed problem token by token, shaded by demotion pressure, with its repairs.",
}


@click.command()
@click.argument("figures", nargs=-1, metavar="[FIGURE]...")
@db_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(),
    help="A folder, made where missing, by default this one; for a single FIGURE also a file.",
)
@click.option("--run", "run_id", metavar="RUN", help="Only this run; default: all in the store.")
@policy_option
@click.option("--problem", metavar="ID", help="The problem that 'trace' shows, by its id.")
@click.option(
    "--format", "kind", type=click.Choice(KINDS), help="Default: by the ending of --out, else png."
)
@click.option("--theme", type=click.Choice(["light", "dark"]), default="light", show_default=True)
@click.option("--width", type=number(3, 20), default=6.5, show_default=True, help="In inches.")
@click.option(
    "--dpi", type=click.IntRange(50, 600), default=200, show_default=True, help="Of a PNG."
)
def plot(
    figures: tuple[str, ...],
    db: Address | None,
    out: Path,
    run_id: str | None,
    policy: str | None,
    problem: str | None,
    kind: str | None,
    theme: str,
    width: float,
    dpi: int,
) -> None:
    """Draw the figures of a report as PNG, SVG or PDF.

    FIGURE is map, rescue, budget, calibration, drift, or trace, which shows the failed rollouts of
    the --problem named token by token. Default: all but trace. A figure without data is left out.
    """
    _hush()
    from recov_graph.errors import StoreError
    from recov_graph.policies import PolicyShelf
    from recov_graph.report import build_report
    from recov_graph.report.pictures import encoded
    from recov_graph.store import TraceStore

    chosen = _chosen(figures, problem)
    store_path = existing_store(db)
    kind, targets = _targets(chosen, out, kind)
    for target in targets.values():
        _check_target(target, kind, store_path)
    compared = None if policy is None else PolicyShelf().find(policy)
    with TraceStore(store_path) as store:
        report = build_report(store, policy=compared, run=run_id, case=problem)
    drawn = {name: _drawn(report, name, problem, theme, width) for name in targets}
    missing = {name: why for name, why in drawn.items() if isinstance(why, str)}
    if len(missing) == len(drawn):
        whys = "; ".join(f"{name}: {why}" for name, why in missing.items())
        raise StoreError(
            f"{store_path} has nothing to draw ({whys}); run problems with `recov-graph run` or "
            "`recov-graph demo` first, or name another store"
        )
    for name, figure in drawn.items():
        if isinstance(figure, str):
            click.echo(f"{name} left out: {figure}", err=True)
            continue
        told = {"title": f"recov-graph: {name}", "description": DESCRIBED[name]}
        picture = encoded(figure, kind, theme=theme, dpi=dpi, **told)
        write_whole(targets[name], picture, "--out")
        click.echo(str(targets[name]))


def _hush() -> None:
    """Keep matplotlib from the terminal and the terminal's settings from matplotlib."""
    os.environ.pop("MPLBACKEND", None)  # nothing is shown, and a wrong one would be an error
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it reports that it caches fonts


def _chosen(figures: Sequence[str], problem: str | None) -> list[str]:
    """The figures that are meant, each once."""
    from recov_graph.report.pictures import FIGURES
    from recov_graph.words import short

    known = (*FIGURES, TRACE)
    for name in figures:
        if name not in known:
            legal = ", ".join(known)
            raise click.BadParameter(f"no figure is {short(name)}; choose from {legal}")
    chosen = list(dict.fromkeys(figures or FIGURES))
    if TRACE in chosen and problem is None:
        raise click.BadParameter(
            "trace needs it: the id of a failed problem, as `recov-graph show` lists them",
            param_hint="--problem",
        )
    if TRACE not in chosen and problem is not None:
        raise click.BadParameter(
            "is for the figure trace; say `recov-graph plot trace --problem ...`",
            param_hint="--problem",
        )
    return chosen


def _targets(chosen: Sequence[str], out: Path, kind: str | None) -> tuple[str, dict[str, Path]]:
    """The format, and the file of each figure."""
    if out.is_dir() or not out.suffix:
        _make_folder(out)
        kind = kind or KINDS[0]
        return kind, {name: out / f"{name}.{kind}" for name in chosen}
    ending = out.suffix.lower().removeprefix(".")
    if ending not in KINDS:
        legal = ", ".join(f".{kind}" for kind in KINDS)
        raise click.BadParameter(
            f"{out} must be a folder, or a file that ends in {legal}",
            param_hint="--out",
        )
    if len(chosen) > 1:
        raise click.BadParameter(
            f"{out} is one file and {len(chosen)} figures are meant; name one figure or a folder",
            param_hint="--out",
        )
    if kind is not None and kind != ending:
        raise click.BadParameter(
            f"is {kind}, and {out} ends otherwise; leave one of the two out", param_hint="--format"
        )
    return ending, {chosen[0]: out}


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.BadParameter(
            f"the folder {path} cannot be made: {error.strerror or error}", param_hint="--out"
        ) from None


def _check_target(path: Path, kind: str, store: Address) -> None:
    """Refuse to replace what is no picture of the format."""
    check_writable(path, "--out", store)
    if path.exists() and not _is_picture(path, kind):
        raise click.BadParameter(
            f"{path} exists and is no {kind.upper()}; move it away or name another",
            param_hint="--out",
        )


def _is_picture(path: Path, kind: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(HEAD)
    if kind == "svg":
        return start.lstrip().startswith(b"<") and b"<svg" in start
    return start.startswith(STARTS[kind])


def _drawn(
    report: Report, name: str, problem: str | None, theme: str, width: float
) -> Figure | str:
    """The figure, or why there is none."""
    from recov_graph.report.pictures import lacking, picture, trace_picture

    if name == TRACE:
        case = _case(report, str(problem))
        if case is None:
            return f"the report has no problem {problem!r}"
        return trace_picture(case, theme=theme, width=width) or (
            "no measured failed rollout of that problem is stored"
        )
    return picture(report, name, theme=theme, width=width) or str(lacking(report, name))


def _case(report: Report, problem: str) -> Case | None:
    """The case that was asked for: of several runs of a problem one that was measured.

    A store may hold ids as hashes; the report tells which problem was asked for.
    """
    meant = [case for case in report.cases if "asked for" in case.why or case.key == problem]
    measured = [case for case in meant if case.strips]
    return next(iter(measured or meant), None)
