"""`demo` and `run`: problems through the graph."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recov_graph.cli.options import (
    check_writable,
    chosen_interventions,
    chosen_model,
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

if TYPE_CHECKING:
    from recov_graph.models import Model
    from recov_graph.problem import Problem
    from recov_graph.scheduler import Pool


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
    problems: int, seed: int, db: Path | None, store_text: str, json_out: str | None, bare: bool
) -> None:
    """Run the bundled problems on the embedded pair; needs no key and no network."""
    from recov_graph.models.embedded import bundled_problems

    chosen = bundled_problems()
    if problems > len(chosen):
        raise click.BadParameter(
            f"{problems} is more than the {len(chosen)} bundled problems", param_hint="--problems"
        )
    _run_batch(
        list(chosen[:problems]),
        kind="demo",
        verifier="numeric",
        seed=seed,
        db=db,
        store_text=store_text,
        json_out=json_out,
        bare=bare,
        limits={},
        baseline=True,
    )


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
    model: str,
    base_url: str | None,
    ancestor: str | None,
    ancestor_base_url: str | None,
    interventions: str | None,
    escalate: str | None,
    escalate_base_url: str | None,
    escalate_price: float,
    samples: int,
    temperature: float,
    max_new_tokens: int,
    policy: Path | None,
    max_attempts: int,
    max_tokens: int | None,
    max_seconds: float | None,
    total_tokens: int | None,
    total_attempts: int | None,
    least_worth: float,
    baseline: bool | None,
    seed: int,
    db: Path | None,
    store_text: str,
    json_out: str | None,
    bare: bool,
) -> None:
    """Run the problems of a file, one JSON object a line with prompt, answer, id and task."""
    from recov_graph.problem import read_problems
    from recov_graph.scheduler import Pool

    pooled = total_tokens is not None or total_attempts is not None
    if least_worth and not pooled:
        raise click.BadParameter(
            "only counts with --total-tokens or --total-attempts", param_hint="--least-worth"
        )
    sys.path.insert(0, str(Path.cwd()))  # where --verifier python:MODULE:FUNCTION is looked for
    asked = read_problems(problems)
    chosen = chosen_model(model, base_url, ancestor, ancestor_base_url)
    _run_batch(
        asked,
        kind="run",
        verifier=verifier,
        model=chosen,
        interventions=chosen_interventions(
            interventions, chosen, escalate, escalate_base_url, escalate_price
        ),
        samples=samples,
        decoding={"temperature": temperature, "max_new_tokens": max_new_tokens},
        policy=policy,
        seed=seed,
        db=db,
        store_text=store_text,
        json_out=json_out,
        bare=bare,
        limits={
            "max_attempts": max_attempts,
            "max_tokens": max_tokens,
            "max_seconds": max_seconds,
        },
        baseline=model == "embedded" if baseline is None else baseline,
        pool=Pool(total_tokens, total_attempts, least_worth) if pooled else None,
        source=problems,
    )


def _run_batch(
    problems: list[Problem],
    *,
    kind: str,
    verifier: str,
    seed: int,
    db: Path | None,
    store_text: Any,
    json_out: str | None,
    bare: bool,
    limits: dict[str, Any],
    baseline: bool,
    model: Model | str = "embedded",
    interventions: list[Any] | None = None,
    samples: int | None = None,
    decoding: dict[str, Any] | None = None,
    policy: Path | None = None,
    pool: Pool | None = None,
    source: Path | None = None,
) -> None:
    from recov_graph.batch import compare_with_retry, keep_retries, run_batch, summary
    from recov_graph.budget import Budget
    from recov_graph.console import plain, print_next, print_summary, progress
    from recov_graph.graph import MAX_NEW_TOKENS, SAMPLES, TEMPERATURE, build_recovery_graph
    from recov_graph.models import as_model
    from recov_graph.scheduler import run_pooled
    from recov_graph.store import TraceStore, default_path
    from recov_graph.surveying import survey
    from recov_graph.verifiers import as_verifier
    from recov_graph.workspace import KEPT_PROBLEMS

    settings: dict[str, Any] = {
        "temperature": TEMPERATURE,
        "max_new_tokens": MAX_NEW_TOKENS,
        **(decoding or {}),
        "seed": seed,
    }
    samples = SAMPLES if samples is None else samples
    judge, pair = as_verifier(verifier), as_model(model)
    if json_out not in (None, "-"):
        check_writable(Path(str(json_out)), "--json", db, source)
    with TraceStore(db or default_path(), store_text=store_text) as store:
        graph = build_recovery_graph(
            pair,
            judge,
            router=policy,
            interventions=interventions,
            samples=samples,
            budget=Budget(**limits),
            store=store,
            kind=kind,
            open_problems=KEPT_PROBLEMS if pool is None else max(KEPT_PROBLEMS, len(problems)),
            **settings,
        )
        with progress(len(problems), bare=bare) as advance:
            if pool is None:
                batch = run_batch(graph.compile(), problems, advance)
            else:
                first, each = min(samples, limits["max_attempts"]), limits["max_tokens"]
                batch = run_pooled(graph, problems, first, pool, advance, max_tokens=each)
        if baseline:
            compare_with_retry(batch, pair, judge, draw=8, **settings)
            keep_retries(batch, store)
            survey(batch, pair, store, temperature=settings["temperature"])
        figures = {**summary(batch), "db": store.path}
    if json_out == "-":
        click.echo(json.dumps(figures, indent=2))
    else:
        print_summary(figures, bare=bare)
        if store_text != "none":  # nothing is found by its id there
            print_next(batch.results, db, bare=bare)
        if json_out is not None:
            Path(json_out).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    errors = [out["error"] for _, out in batch.results if out["error"]]
    if errors:
        click.echo(f"{len(errors)} of {len(problems)} ended early: {plain(errors[0])}", err=True)
    if len(errors) == len(problems):
        sys.exit(1)
