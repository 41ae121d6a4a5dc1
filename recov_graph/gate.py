"""The gate: is a new policy no worse than the active one, on problems it has not seen?

Both are judged by the same logged decisions of a third, the policy that was active when they were
taken. Where that one stopped, nobody knows what going on would have brought: a policy that would
have gone on is judged by what it did up to there, and so is the one it is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from recov_graph.offpolicy import Comparison, Interval, Logged, compare
from recov_graph.routing.decision import Decision, Evidence, Router
from recov_graph.stored import LoggedDecision

LEAST_ESS = 50.0
CONFIDENCE = 0.9
TOLERANCE = 0.05
HOLDOUT = 0.25
MOST_PROBLEMS = 1500  # of the newest: more would only take longer
RESAMPLES = 1000


@dataclass(frozen=True)
class Verdict:
    """What the gate says.

    Attributes:
        passed: whether the new policy may be activated.
        why: in one line.
        comparison: the estimates, or None where there was nothing to compare on.
        problems: problems judged by.
        decisions: logged decisions judged by.
    """

    passed: bool
    why: str
    comparison: Comparison | None
    problems: int
    decisions: int


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
        tolerance: by what share of the active policy's rescues per token the lower end of the
            interval may fall short of it.
        least_ess: effective problems below which nothing is said.
    """
    newest = sorted({decision.row for decision in log})[-MOST_PROBLEMS:]
    log = [decision for decision in log if decision.row >= newest[0]] if newest else []
    if not log:
        why = (
            "no routed problem is held out: the store has no decisions that say what they were "
            "allowed; run more problems with `recov-graph run`, or override with --force"
        )
        return Verdict(False, why, None, 0, 0)
    comparison = compare(
        _logged(log, candidate), _logged(log, active), resamples=RESAMPLES, confidence=confidence
    )
    passed, why = _said(comparison, tolerance, least_ess)
    return Verdict(passed, why, comparison, len(newest), len(log))


def _said(comparison: Comparison, tolerance: float, least_ess: float) -> tuple[bool, str]:
    ess = min(comparison.target.ess, comparison.baseline.ess)
    if ess < least_ess:
        return False, (
            f"too little to go by: an effective sample of {ess:.0f} problems, at least "
            f"{least_ess:.0f} are needed; run more problems, or override with --force"
        )
    for name, gain, base in (
        ("self-normalised", comparison.snips, comparison.baseline.snips.rescues_per_1000),
        ("doubly robust", comparison.dr, comparison.baseline.dr.rescues_per_1000),
    ):
        if not gain.low >= -tolerance * max(base.point, 0.0):  # NaN is not
            return False, (
                f"not shown to be no worse: the {name} difference is {_signed(gain)} rescues per "
                f"1,000 tokens, and may fall short by {tolerance:.0%} of {base.point:.2f} at most"
            )
    return True, (
        f"no worse than the active policy: {_signed(comparison.dr)} rescues per 1,000 tokens "
        f"against {comparison.baseline.dr.rescues_per_1000.point:.2f} (doubly robust)"
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
        odds, decided = choices(target, made.evidence)
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
            odds.get(made.operator, 0.0),
            sum(odds[name] * rescue.get(name, 0.0) for name in odds),
            rescue.get(made.operator, 0.0),
            sum(odds[name] * price[name] for name in odds),
            float(price[made.operator]),
        )


def choices(router: Router, evidence: Evidence) -> tuple[Mapping[str, float], Decision]:
    """With what probability a router chooses each operator; and its decision without chance."""
    decided = router.decide(replace(evidence, draw=1.0))
    if decided.operator is None:
        return {}, decided
    explore = float(getattr(router, "explore", 0.0))
    odds = {c.operator: explore / len(decided.candidates) for c in decided.candidates}
    odds[decided.operator] = odds.get(decided.operator, 0.0) + 1.0 - explore
    return odds, decided
