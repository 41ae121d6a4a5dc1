"""Policies on recorded attempts: where every operator was tried, what each policy would rescue."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from recov_graph.errors import TapeError
from recov_graph.evaluate.bench import Bench, bench_of_tape
from recov_graph.evaluate.compare import Plans, splits
from recov_graph.evaluate.plans import Plan, plain
from recov_graph.evaluate.scoring import Score, carried_out, score, score_of
from recov_graph.gate import HORIZON, followed
from recov_graph.report.content import Curve, Estimate, Panel
from recov_graph.report.reference import Reference
from recov_graph.report.statistics import Floats, wilson
from recov_graph.routing.decision import Router
from recov_graph.store import TraceStore
from recov_graph.tape import TapeProblem, tape_of

MOST_PROBLEMS = 400  # replayed; more would only take longer
BUDGETS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
BASELINES = {
    "retry": "retry alone",
    "random": "random operator",
    "round_robin": "one operator after the other",
    "best_fixed": "best fixed operator",
}


def recorded_panel(
    store: TraceStore, router: Router, reference: Reference, run: str | None, *, seed: int = 0
) -> Panel | None:
    """The policy in use and the baselines on the store's tape; None where there is none."""
    tape = _of_run(store, run)
    if len(tape) < 2:
        return None
    chosen = tape
    if len(tape) > MOST_PROBLEMS:
        rows = np.random.default_rng(seed).choice(len(tape), MOST_PROBLEMS, replace=False)
        chosen = [tape[row] for row in sorted(rows)]
    try:
        bench = bench_of_tape(chosen, "this store")
        folds = splits(bench, np.random.default_rng([seed, 0]))
    except TapeError:
        return None
    # Beyond what was recorded of an operator, one that repeats it would only fail again.
    attempts = HORIZON if bench.passed is None else min(HORIZON, bench.passed.shape[2])
    plans = Plans(bench, folds, attempts, seed)
    scores = {name: _of_plans(plans, name, seed) for name in BASELINES}
    curves = [_curve("the active policy", _replayed(router, bench, attempts, seed), active=True)]
    curves += [_curve(label, scores[name]) for name, label in BASELINES.items()]
    note = (
        f"{bench.source}. Every attempt that a policy would make is drawn from those recorded, "
        f"{attempts} at most. The best fixed operator is chosen on other problems than it is "
        "scored on; the active policy may have been fitted on these."
    )
    if len(chosen) < len(tape):
        note += f" A sample of {len(chosen)} out of {len(tape)} problems."
    return Panel("Recorded attempts", len(chosen), tuple(curves), note)


def _of_run(store: TraceStore, run: str | None) -> Sequence[TapeProblem]:
    ids = None
    if run is not None:
        ids = {name for (name,) in store.rows("SELECT id FROM problems WHERE run_id = ?", [run])}
    try:
        return tape_of(store, ids)
    except TapeError:
        return []


def _of_plans(plans: Plans, name: str, seed: int) -> Score:
    made = [
        score(plans.bench, plans.of(name, budget), [budget], np.random.default_rng([seed, 2]))
        for budget in BUDGETS
    ]
    return Score(
        np.concatenate([one.rescue for one in made], axis=1),
        np.concatenate([one.cost for one in made], axis=1),
    )


def _replayed(router: Router, bench: Bench, attempts: int, seed: int) -> Score:
    """The policy's own attempts, up to where it stops."""
    shape = (len(bench), attempts)
    operators, measured = np.zeros(shape, np.int64), np.zeros(shape, bool)
    made = np.zeros(shape, bool)
    for row in range(len(bench)):
        for step, (operator, measures) in enumerate(islice(followed(router, bench, row), attempts)):
            operators[row, step], measured[row, step] = operator or 0, measures
            made[row, step] = operator is not None
    plan = Plan(plain(bench, operators).operators, measured[None])
    runs = carried_out(bench, plan, np.random.default_rng([seed, 2]))
    cost = np.where(made, runs.cost, measured * bench.scoring[:, None])
    return score_of(runs.passed & made, cost, [b * bench.unit for b in BUDGETS])


def _curve(name: str, made: Score, *, active: bool = False) -> Curve:
    tokens = [0.0, *made.cost.mean(axis=0).tolist()]
    shares = [Estimate(0.0, 0.0, 0.0), *map(_share, made.rescue.T)]
    return Curve(name, "recorded", active, tuple(tokens), tuple(shares))


def _share(chances: Floats) -> Estimate:
    """The mean of N chances of a rescue: Wilson's interval, narrower as they differ less."""
    n, p = len(chances), float(chances.mean())
    spread = float(chances.var()) / n
    return wilson(p, max(n, p * (1 - p) / spread) if spread > 0 else n)
