"""`demo` and `run`: problems through the graph."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recov_graph.cli.options import (
    check_writable,
    db_option,
    decoding_options,
    interventions_option,
    json_option,
    model_options,
    number,
    plain_option,
    problems_argument,
    seed_option,
    store_text_option,
    verifier_option,
)
from recov_graph.cli.working import Asked, work_on

if TYPE_CHECKING:
    from recov_graph.distributed import Cluster
    from recov_graph.store.location import Address
    from recov_graph.store.traces import StoreText


@click.command()
@click.option(
    "--problems",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="How many of the bundled problems to run.",
)
@seed_option
@db_option
@store_text_option
@json_option
@plain_option
def demo(
    problems: int,
    seed: int,
    db: Address | None,
    store_text: StoreText,
    json_out: str | None,
    bare: bool,
) -> None:
    """Run the bundled problems on the embedded pair; needs no key and no network."""
    from recov_graph.models.embedded import bundled_problems

    chosen = bundled_problems()
    if problems > len(chosen):
        raise click.BadParameter(
            f"{problems} is more than the {len(chosen)} bundled problems", param_hint="--problems"
        )
    from recov_graph.runs import RunSpec

    spec = RunSpec("numeric", kind="demo", seed=seed, store_text=store_text)
    asked = Asked(chosen[:problems], problems, db, json_out, bare, baseline=True)
    work_on(spec.routed(None), asked)


@click.command()
@problems_argument
@verifier_option
@model_options
@click.option(
    "--policy", type=click.Path(path_type=Path), help="Policy file; default: the active one."
)
@click.option("--max-attempts", type=int, default=12, show_default=True, help="For each problem.")
@click.option("--max-tokens", type=int, help="For each problem; default: no limit.")
@click.option("--max-seconds", type=float, help="Of model time for each problem.")
@click.option("--total-tokens", type=int, help="For all problems together, spent where worth most.")
@click.option("--total-attempts", type=int, help="For all problems together: rollouts in all.")
@click.option(
    "--least-worth",
    type=float,
    default=0.0,
    show_default=True,
    help="With a total: rescues expected per 1,000 tokens under which nothing more is tried.",
)
@click.option(
    "--baseline/--no-baseline",
    default=None,
    help="Measure what retry alone does with the same tokens, and features that the router did "
    "without where the model runs on the spot; default: for 'embedded' only, since it costs as "
    "much again.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Problems under way at a time; for models behind a server.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the latest run of the same settings, where there is one: what has ended is "
    "skipped, what is half done goes on, and what ended in an error is tried again.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="'ray': over the workers of a Ray cluster, each with a store of its own, merged at the "
    "end; --concurrency is then that of each worker.",
)
@click.option("--address", help="With --engine ray: of a cluster; default: one on this machine.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="With --engine ray: how many; default: one for each processor of the cluster.",
)
@click.option(
    "--shards",
    type=click.Path(path_type=Path),
    help="With --engine ray: folder of the workers' stores; default: beside the store.",
)
@click.option("--keep-shards", is_flag=True, help="Keep them once they are merged.")
@interventions_option
@click.option("--escalate", help="Also offer a stronger model, as 'openai:NAME'.")
@click.option("--escalate-base-url", help="Where the stronger model is.")
@click.option(
    "--escalate-price",
    type=number(0, 1e6, strict=True),
    default=1.0,
    show_default=True,
    help="Tokens of the model that one of the stronger is worth.",
)
@decoding_options
@seed_option
@db_option
@store_text_option
@json_option
@plain_option
def run(
    problems: Path,
    verifier: str,
    interventions: str | None,
    escalate: str | None,
    escalate_base_url: str | None,
    policy: Path | None,
    total_tokens: int | None,
    total_attempts: int | None,
    least_worth: float,
    baseline: bool | None,
    concurrency: int,
    resume: bool,
    engine: str,
    address: str | None,
    workers: int | None,
    shards: Path | None,
    keep_shards: bool,
    db: Address | None,
    json_out: str | None,
    bare: bool,
    **options: Any,
) -> None:
    """Run the problems of a file, one JSON object a line with prompt, answer, id and task.

    Ctrl-C stops after the calls under way and sums up; the same command with --resume goes on.
    """
    from recov_graph.problem import ProblemFile
    from recov_graph.runs import RunSpec

    pooled = total_tokens is not None or total_attempts is not None
    if least_worth and not pooled:
        raise click.BadParameter(
            "only counts with --total-tokens or --total-attempts", param_hint="--least-worth"
        )
    if pooled and concurrency > 1:
        raise click.BadParameter(
            "problems on one budget take turns; leave it out, or the total",
            param_hint="--concurrency",
        )
    if escalate is None and escalate_base_url is not None:
        raise click.BadParameter("needs --escalate", param_hint="--escalate-base-url")
    cluster = _cluster(engine, address, workers, shards, keep_shards, db, concurrency)
    if pooled and cluster:
        raise click.BadParameter("problems on one budget need one place", param_hint="--engine")
    sys.path.insert(0, str(Path.cwd()))  # where --verifier python:MODULE:FUNCTION is looked for
    if json_out not in (None, "-"):
        check_writable(Path(str(json_out)), "--json", db, problems)
    asked = ProblemFile(problems)
    spec = RunSpec(
        verifier,
        problems=problems.name,
        interventions=None if interventions is None else _names(interventions),
        **options,
        total_tokens=total_tokens,
        total_attempts=total_attempts,
        least_worth=least_worth,
        escalate=escalate,
        escalate_base_url=escalate_base_url,
    ).routed(policy)
    baseline = spec.model == "embedded" if baseline is None else baseline
    work_on(
        spec,
        Asked(asked, len(asked), db, json_out, bare, baseline, concurrency, resume, cluster),
    )


def _cluster(
    engine: str,
    address: str | None,
    workers: int | None,
    shards: Path | None,
    keep_shards: bool,
    db: Address | None,
    concurrency: int,
) -> Cluster | None:
    if engine == "local":
        given = {"address": address, "workers": workers, "shards": shards}
        for name, value in {**given, "keep-shards": keep_shards or None}.items():
            if value is not None:
                raise click.BadParameter("needs --engine ray", param_hint=f"--{name}")
        return None
    from recov_graph.distributed import Cluster, default_shards
    from recov_graph.store import default_path

    store = db or default_path()
    if str(store) == ":memory:":
        raise click.BadParameter("workers cannot share what is in memory", param_hint="--db")
    return Cluster(shards or default_shards(store), address, workers, concurrency, keep_shards)


def _names(given: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in given.split(","))
