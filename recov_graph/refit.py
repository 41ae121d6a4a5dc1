"""Refitting: a new policy from stored traces, with what it learned and whether it may be used."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from recov_graph.errors import StoreError
from recov_graph.evaluate.bench import bench_of_tape
from recov_graph.gate import (
    CONFIDENCE,
    HOLDOUT,
    LEAST_ESS,
    Verdict,
    judge_policy,
    judge_recorded,
)
from recov_graph.rollout_features import ROLLOUT_FEATURES
from recov_graph.routing import PosteriorRouter, Router, as_router
from recov_graph.routing.outcomes import Outcomes, cell_moments
from recov_graph.routing.policy import (
    Counts,
    Policy,
    Posterior,
    Rescue,
    RolloutPart,
    Window,
)
from recov_graph.routing.posterior import fit_posterior
from recov_graph.store import TraceStore
from recov_graph.store.traces import now
from recov_graph.stored import (
    StoredFailures,
    logged_decisions,
    newest,
    read_failures,
    told_on_tape,
)
from recov_graph.tape import tape_of
from recov_graph.version import __version__

EXPLORE = 0.05
LEAST_PROBLEMS = 1


@dataclass(frozen=True)
class Refit:
    """A refitted policy.

    Attributes:
        policy: fitted on all stored failures.
        verdict: of the gate, on one fitted without the newest.
        held_out: failed problems kept from that one.
        cells: by cell, (failed problems, attempts, rescues).
    """

    policy: Policy
    verdict: Verdict
    held_out: int
    cells: dict[str, tuple[int, float, float]]


def refit(
    store: TraceStore,
    active: Policy,
    *,
    name: str = "fitted",
    model: str | None = None,
    task: str | None = None,
    explore: float = EXPLORE,
    measure: bool = False,
    stop_below: float | None = None,
    confidence: float = CONFIDENCE,
) -> Refit:
    """Fit a policy to the failures of a store, and judge it against the active one.

    Args:
        store: the trace store.
        active: the policy in use; it also lends what cannot be learned from outcomes.
        name: of the new policy.
        model: learn from that model's failures only.
        task: learn from that task's failures only.
        explore: share of choices made at random.
        measure: whether features are measured before the first choice.
        stop_below: the chance of any rescue under which to stop; by default the active policy's.
        confidence: of the gate's intervals.

    Raises:
        StoreError: the store holds no failure to learn from.
    """
    failures = read_failures(store, model=model, task=task)
    settings = {"name": name, "explore": explore, "measure": measure, "stop_below": stop_below}
    older, held = newest(failures, HOLDOUT)
    if len(older) and len(held):
        candidate = fitted(older, active, **settings)  # type: ignore[arg-type]
        verdict = _judged(store, as_router(candidate), as_router(active), held, confidence)
    else:
        verdict = judge_policy(as_router(active), as_router(active), [])
    policy = fitted(failures, active, **settings)  # type: ignore[arg-type]
    return Refit(policy, verdict, len(held), _by_cell(failures))


def _judged(
    store: TraceStore, candidate: Router, active: Router, held: StoredFailures, confidence: float
) -> Verdict:
    """By recorded attempts where there are enough, else by logged decisions."""
    recorded = tape_of(store, frozenset(held.ids))
    if len(recorded) >= LEAST_ESS:
        bench = bench_of_tape(recorded, "the store")
        told = replace(bench.outcomes, rollout=told_on_tape(store, held, recorded))
        bench = replace(bench, outcomes=told)
        return judge_recorded(candidate, active, bench, confidence=confidence)
    if isinstance(candidate, PosteriorRouter) and candidate.measures:
        return Verdict(
            False,
            "logged decisions cannot tell what measuring every failure first would cost; record "
            "attempts with `recov-graph record`, or override with --force",
        )
    # A problem that was seen again is one problem: its last sighting stands for it.
    last = {int(group): row for row, group in enumerate(held.group)}
    log = logged_decisions(store, held.take(np.array(sorted(last.values()), np.int64)))
    return judge_policy(candidate, active, log, confidence=confidence)


def fitted(
    failures: StoredFailures,
    active: Policy,
    *,
    name: str,
    explore: float,
    measure: bool,
    stop_below: float | None,
) -> Policy:
    """A policy fitted on failures; nothing is held out."""
    outcomes = failures.outcomes
    if len(failures) < LEAST_PROBLEMS or outcomes.attempts.sum() <= 0:
        raise StoreError("there is no judged attempt to learn from")
    population, cells = cell_moments(outcomes)
    if not population["spread"].count:  # nothing was measured: z-scores stay those of before
        population, cells = active.population, active.cells
    rollout = _rollout_part(outcomes, active)
    learned = {"population": population, "cells": cells, "rollout": rollout, "posterior": None}
    base = active.model_copy(update=learned)
    posterior = fit_posterior(outcomes, base, measure=measure, explore=explore)
    sampled = outcomes.failed_samples[np.isfinite(outcomes.failed_samples)]
    return Policy(
        name=name,
        created=now(),
        source=f"{len(failures)} failed problems of a trace store",
        population=population,
        cells=cells,
        shrinkage=active.shrinkage,
        rule=active.rule,
        rescue={**active.rescue, **rescue_of(posterior, failures)},
        carry_over=active.carry_over,
        failed_samples=round(float(np.median(sampled))) if len(sampled) else active.failed_samples,
        stop_below=active.stop_below if stop_below is None else stop_below,
        code_version=__version__,
        window=Window(first=min(failures.times), last=max(failures.times)),
        counts=Counts(
            problems=len(failures),
            attempts=float(outcomes.attempts.sum()),
            rescues=float(outcomes.passed.sum()),
        ),
        posterior=posterior,
        rollout=rollout,
    )


def _rollout_part(outcomes: Outcomes, active: Policy) -> RolloutPart | None:
    """What failures of black-box models were like; as before where there are none."""
    if not outcomes.has(ROLLOUT_FEATURES).any():
        return active.rollout
    population, cells = cell_moments(outcomes, ROLLOUT_FEATURES)
    part = RolloutPart(population=population, cells=cells)
    return part if active.rollout is None else part.model_copy(update={"rule": active.rollout.rule})


def rescue_of(posterior: Posterior, failures: StoredFailures) -> dict[str, Rescue]:
    """How each operator's rescue rate varies over failures: the Beta of its mean and variance."""
    weights = np.array(posterior.weights) / np.sum(posterior.weights)
    rates = np.array(posterior.rescue)
    mean = weights @ rates
    variance = np.maximum(weights @ (rates - mean) ** 2, 1e-5)
    strength = np.clip(mean * (1 - mean) / variance - 1, 0.05, 1e4)
    tried = (failures.outcomes.attempts > 0).sum(axis=0)
    return {
        operator: Rescue(
            alpha=round(float(mean[i] * strength[i]), 6),
            beta=round(float((1 - mean[i]) * strength[i]), 6),
            problems=int(tried[i]),
        )
        for i, operator in enumerate(posterior.operators)
    }


def _by_cell(failures: StoredFailures) -> dict[str, tuple[int, float, float]]:
    outcomes = failures.outcomes
    table = {}
    for index, name in enumerate(outcomes.cells):
        rows = outcomes.cell == index
        table[name] = (
            int(rows.sum()),
            float(outcomes.attempts[rows].sum()),
            float(outcomes.passed[rows].sum()),
        )
    return table
