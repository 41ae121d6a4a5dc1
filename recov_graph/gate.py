"""The gate: is a new policy no worse than the active one, on problems it has not seen?

Where every operator's attempts were recorded, it is known what either policy would have rescued.
Elsewhere both are judged by the same logged decisions of a third, the policy that was active when
they were taken. Where that one stopped, nobody knows what going on would have brought: a policy
that would have gone on is judged by what it did up to there, and so is the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from recov_graph.evaluate.bench import Bench
from recov_graph.offpolicy import Comparison, Interval, Logged, compare
from recov_graph.routing.decision import Decision, Evidence, Router, odds, wants_features
from recov_graph.stored import LoggedDecision

LEAST_ESS = 50.0
CONFIDENCE = 0.9
TOLERANCE = 0.05
HOLDOUT = 0.25
MOST_PROBLEMS = 1500  # of the newest: more would only take longer
RESAMPLES = 1000
HORIZON = 8  # attempts that recorded problems are followed for


@dataclass(frozen=True)
class Figure:
    """One policy by one estimator.

    Attributes:
        policy: "new" or "active".
        estimate: how it was estimated.
        rescue_rate: share of the problems.
        mean_cost: tokens a problem.
        rescues_per_1000: tokens, with its interval.
        problems: effective sample size.
    """

    policy: str
    estimate: str
    rescue_rate: float
    mean_cost: float
    rescues_per_1000: Interval
    problems: float


@dataclass(frozen=True)
class Verdict:
    """What the gate says.

    Attributes:
        passed: whether the new policy may be activated.
        why: in one line.
        problems: problems judged by.
        figures: the estimates; none where there was nothing to compare on.
    """

    passed: bool
    why: str
    problems: int = 0
    figures: tuple[Figure, ...] = ()


def judge_recorded(
    candidate: Router,
    active: Router,
    bench: Bench,
    *,
    confidence: float = CONFIDENCE,
    tolerance: float = TOLERANCE,
) -> Verdict:
    """Compare two policies on problems of which every operator's attempts were recorded.

    Args:
        candidate: the new policy.
        active: the one it would replace.
        bench: problems that the candidate was not fitted on.
        confidence: as in `judge_policy`.
        tolerance: as in `judge_policy`.
    """
    made = np.array(
        [
            [expected(router, bench, row) for row in range(len(bench))]
            for router in (candidate, active)
        ]
    )
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(bench), np.full(len(bench), 1 / len(bench)), RESAMPLES)
    totals = np.einsum("rn,pnv->prv", counts, made)
    ratios = 1000 * totals[:, :, 0] / np.maximum(totals[:, :, 1], 1e-9)
    points = 1000 * made[:, :, 0].sum(axis=1) / np.maximum(made[:, :, 1].sum(axis=1), 1e-9)
    levels = [(1 - confidence) / 2, (1 + confidence) / 2]

    def interval(point: float, values: Any) -> Interval:
        low, high = np.quantile(values, levels)
        return Interval(float(point), float(low), float(high))

    gain = interval(points[0] - points[1], ratios[0] - ratios[1])
    figures = tuple(
        Figure(
            policy,
            "recorded attempts",
            float(made[i, :, 0].mean()),
            float(made[i, :, 1].mean()),
            interval(points[i], ratios[i]),
            len(bench),
        )
        for i, policy in enumerate(("new", "active"))
    )
    gains = [("recorded", gain, figures[1].rescues_per_1000)]
    passed, why = _compared(gains, figures, tolerance)
    return Verdict(passed, why, len(bench), figures)


def expected(router: Router, bench: Bench, row: int) -> tuple[float, float]:
    """(probability of a rescue, tokens) that a policy comes to on a recorded problem."""
    tokens, alive, scoring = 0.0, 1.0, float(bench.scoring[row])
    price = bench.costs if bench.tokens is None else bench.tokens.mean(axis=2)
    for index, measures in followed(router, bench, row):
        tokens += alive * measures * scoring
        if index is not None:
            tokens += alive * float(price[row, index])
            alive *= 1.0 - float(bench.rates[row, index])
    return 1.0 - alive, tokens


def followed(router: Router, bench: Bench, row: int) -> Iterator[tuple[int | None, bool]]:
    """A policy's attempts at a recorded problem while all fail, and where it stops.

    Each is the operator's index, None for the stop, and whether the features are measured for it.
    """
    measured = not bench.scoring[row]
    evidence = bench.evidence(row, attempts_left=HORIZON, tokens_left=math.inf, measured=measured)
    measures = not measured and wants_features(router, evidence)
    if measures:
        evidence = bench.measured(evidence, row)
    while evidence.attempts_left:
        decided = router.decide(replace(evidence, draw=1.0))
        if decided.operator is None:
            yield None, measures
            return
        if evidence.once.get(decided.operator, 0):
            evidence, measures = bench.measured(evidence, row), True
        yield bench.operators.index(decided.operator), measures
        measures = False
        evidence = replace(
            evidence,
            tried=[*evidence.tried, decided.operator],
            attempts_left=evidence.attempts_left - 1,
        )


def judge_policy(
    candidate: Router,
    active: Router,
    log: Sequence[LoggedDecision],
    *,
    confidence: float = CONFIDENCE,
    tolerance: float = TOLERANCE,
    least_ess: float = LEAST_ESS,
) -> Verdict:
    """Compare two policies by logged decisions on problems that the candidate was not fitted on.

    Args:
        candidate: the new policy.
        active: the one it would replace.
        log: decisions in order, problem by problem.
        confidence: of the interval of the difference.
        tolerance: by what share the lower end of the interval of rescues per token may fall short
            of the active policy, and by what share the rescues themselves may.
        least_ess: effective problems below which nothing is said.
    """
    newest = sorted({decision.row for decision in log})[-MOST_PROBLEMS:]
    log = [decision for decision in log if decision.row >= newest[0]] if newest else []
    if not log:
        why = (
            "no routed problem is held out: the store has no decisions that say what they were "
            "allowed; run more problems with `recov-graph run`, or override with --force"
        )
        return Verdict(False, why)
    comparison = compare(
        _logged(log, candidate), _logged(log, active), resamples=RESAMPLES, confidence=confidence
    )
    figures = tuple(_figures(comparison))
    passed, why = _said(comparison, figures, tolerance, least_ess)
    return Verdict(passed, why, len(newest), figures)


def _said(
    comparison: Comparison, figures: Sequence[Figure], tolerance: float, least_ess: float
) -> tuple[bool, str]:
    ess = min(comparison.target.ess, comparison.baseline.ess)
    if ess < least_ess:
        return False, (
            f"too little to go by: an effective sample of {ess:.0f} problems, at least "
            f"{least_ess:.0f} are needed; run more problems, or override with --force"
        )
    gains = [
        ("doubly robust", comparison.dr, comparison.baseline.dr.rescues_per_1000),
        ("self-normalised", comparison.snips, comparison.baseline.snips.rescues_per_1000),
    ]
    return _compared(gains, figures, tolerance)


def _compared(
    gains: Sequence[tuple[str, Interval, Interval]],
    figures: Sequence[Figure],
    tolerance: float,
) -> tuple[bool, str]:
    """Whether each estimate says no worse, and in words; gains come with what they are against."""
    for name, gain, base in gains:
        if not gain.low >= -tolerance * max(base.point, 0.0):  # NaN is not
            return False, (
                f"not shown to be no worse: the {name} difference is {_signed(gain)} rescues per "
                f"1,000 tokens, and may fall short by {tolerance:.0%} of {base.point:.2f} at most; "
                "--force overrides"
            )
    # Stopping at once would look well by rescues per token alone.
    rates: dict[str, dict[str, float]] = {}
    for figure in figures:
        rates.setdefault(figure.estimate, {})[figure.policy] = figure.rescue_rate
    for estimate, rate in rates.items():
        if not rate["new"] >= (1.0 - tolerance) * rate["active"]:
            return False, (
                f"it rescues less: {rate['new']:.1%} of the problems against "
                f"{rate['active']:.1%} ({estimate}), more than {tolerance:.0%} fewer; "
                "--force overrides"
            )
    name, gain, base = gains[0]
    return True, (
        f"no worse than the active policy: {_signed(gain)} rescues per 1,000 tokens "
        f"against {base.point:.2f} ({name})"
    )


def _figures(comparison: Comparison) -> Iterator[Figure]:
    for policy, estimate in (("new", comparison.target), ("active", comparison.baseline)):
        for name, made in (("self-normalised", estimate.snips), ("doubly robust", estimate.dr)):
            yield Figure(
                policy,
                name,
                made.rescue_rate.point,
                made.mean_cost.point,
                made.rescues_per_1000,
                estimate.ess,
            )


def _signed(interval: Interval) -> str:
    return f"{interval.point:+.2f} ({interval.low:+.2f} to {interval.high:+.2f})"


def _logged(log: Sequence[LoggedDecision], target: Router) -> Logged:
    """The log with what the target would have done, cut where it would have stopped."""
    columns: list[tuple[float, ...]] = []
    for _, decisions in groupby(log, key=lambda decision: decision.row):
        columns.extend(_rows(list(decisions), target))
    table = np.array(columns)
    return Logged(table[:, 0].astype(np.int64), *table[:, 1:].T)


def _rows(decisions: Sequence[LoggedDecision], target: Router) -> Iterator[tuple[float, ...]]:
    stopped = False
    for made in decisions:
        b = made.probability
        if made.operator is None or stopped:
            # Nothing is tried any more: both agree, at no reward and no cost.
            yield (made.row, 0.0, 0.0, b, b, 0.0, 0.0, 0.0, 0.0)
            continue
        likely, decided = choices(target, made.evidence)
        if decided.operator is None:
            stopped = True
            yield (made.row, 0.0, 0.0, b, b, 0.0, 0.0, 0.0, 0.0)
            continue
        rescue = {c.operator: c.expected_rescue for c in decided.candidates}
        price = {
            name: cost + made.evidence.once.get(name, 0)
            for name, cost in made.evidence.costs.items()
        }
        yield (
            made.row,
            float(made.rescued),
            float(made.tokens),
            b,
            likely.get(made.operator, 0.0),
            sum(p * rescue.get(name, 0.0) for name, p in likely.items()),
            rescue.get(made.operator, 0.0),
            sum(p * price[name] for name, p in likely.items()),
            float(price[made.operator]),
        )


def choices(router: Router, evidence: Evidence) -> tuple[Mapping[str, float], Decision]:
    """With what probability a router chooses each operator; and its decision without chance."""
    decided = router.decide(replace(evidence, draw=1.0))
    return odds(decided, float(getattr(router, "explore", 0.0))), decided
