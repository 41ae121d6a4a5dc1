"""The paper's rule as a router: the feature that stands out most names the operator.

Source: Islah et al., arXiv 2606.05145. Each feature is z-scored against stored failures; the
operator of the largest z comes first. Here the ranking also covers several attempts: an operator
that has failed gives way to the next whose feature stands out; where none is left, the operator
with the best expected rescue for its cost follows; and the router stops once a rescue has become
too unlikely.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from recov_graph.rollout_features import ROLLOUT_SHARES
from recov_graph.routing.decision import (
    Candidate,
    Decision,
    Evidence,
    Regime,
    affordable,
    any_rescue,
    stop,
)
from recov_graph.routing.policy import LEAST_SD, Moments, Policy, Rescue, default_policy

FORESEEN = 64  # attempts looked ahead when judging whether to go on
UNKNOWN = Rescue(alpha=1, beta=1, problems=0)  # where a policy has measured no operator at all


@dataclass(frozen=True, slots=True)
class _Signed:
    """An operator with the z-score of the feature that speaks for it."""

    operator: str
    z: float
    reason: str


class RuleRouter:
    """Cold-start routing by a policy's population; deterministic.

    Args:
        policy: by default the one that ships with the package.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy if policy is not None else default_policy()
        self.content_hash = self.policy.content_hash

    @property
    def name(self) -> str:
        """The policy's name."""
        return self.policy.name

    def decide(self, evidence: Evidence) -> Decision:
        """The next operator down the ranking, or a stop."""
        costs = affordable(evidence)
        evidence = replace(evidence, costs=costs)
        by_feature = self._by_feature(evidence)
        standing_out = [signed for signed in by_feature if signed.z > 0]
        regime: Regime = "steerable_hard" if standing_out else "sampling"
        if not costs:
            return Decision(None, regime, 1.0, 0.0, (), "no operator fits the tokens left")
        failures = self._failures(evidence)
        z = {signed.operator: signed.z for signed in reversed(by_feature)}
        order = self._order(standing_out, failures, costs)
        candidates = tuple(
            Candidate(name, z.get(name), self._rescue(name, failures, costs), costs[name])
            for name in order
        )
        chance = any_rescue(self._path(evidence, standing_out, failures))
        if chance < self.policy.stop_below or evidence.attempts_left < 1:
            return stop(evidence, chance, self.policy.stop_below, candidates)
        best = candidates[0]
        reason = self._reason(best, standing_out, failures, evidence)
        return Decision(best.operator, regime, 1.0, best.expected_rescue, candidates, reason)

    def _by_feature(self, evidence: Evidence) -> list[_Signed]:
        """The rule's operators by the z-score of their feature, the largest first."""
        if evidence.features is None:
            return []
        names = evidence.features._fields
        part = self.policy.part(names)
        moments, stored = self.policy.moments(evidence.model, evidence.task, names)
        among = f"{stored} stored failures of this cell"
        if stored == 0:
            everyone = part.population[names[0]].count
            among = f"{everyone} stored failures of other cells"
        signed = []
        for feature, operator in part.rule.items():
            population = moments[feature]
            sd = _sd(feature, population)
            if sd < LEAST_SD or operator not in evidence.costs:
                continue
            z = (getattr(evidence.features, feature) - population.mean) / sd
            if math.isnan(z):
                continue
            side = "above" if z >= 0 else "below"
            reason = f"{feature} is {abs(z):.1f} sd {side} {among}: {operator}"
            signed.append(_Signed(operator, z, reason))
        return sorted(signed, key=lambda item: -item.z)

    def _failures(self, evidence: Evidence) -> Counter[str]:
        """Failed attempts by operator; plain samples beyond those the policy counts are retries."""
        failures = Counter(evidence.tried)
        failures["retry"] += max(0, evidence.failed_samples - self.policy.failed_samples)
        return failures

    def _order(
        self, standing_out: Sequence[_Signed], failures: Counter[str], costs: Mapping[str, int]
    ) -> list[str]:
        """Untried operators whose feature stands out, by z; then all by rescue for their cost."""
        names = dict.fromkeys(signed.operator for signed in standing_out)
        first = [name for name in names if name in costs and not failures[name]]
        rest = sorted(
            (name for name in costs if name not in first),
            key=lambda name: -self._rescue(name, failures, costs) / max(1, costs[name]),
        )
        return first + rest

    def _rescue(self, operator: str, failures: Counter[str], costs: Mapping[str, int]) -> float:
        """The operator's expected rescue.

        One never measured counts as the worst measured of those that may be chosen here: rates of
        operators that the model cannot carry out say nothing of one that it can. A failure with
        another operator counts as a part of one with this.
        """
        own = failures[operator]
        weighed = own + self.policy.carry_over * (failures.total() - own)
        measured = self.policy.rescue
        known = [measured[name] for name in costs if name in measured] or [*measured.values()]
        if operator in measured:
            known = [measured[operator]]
        return min(rescue.after(weighed) for rescue in known or [UNKNOWN])

    def path(self, evidence: Evidence) -> Iterator[Candidate]:
        """The attempts that would follow one another while all of them fail."""
        standing_out = [signed for signed in self._by_feature(evidence) if signed.z > 0]
        return self._path(evidence, standing_out, self._failures(evidence))

    def ranked(self, evidence: Evidence) -> list[Candidate]:
        """Every operator that may be chosen, in the order of the rule."""
        standing_out = [signed for signed in self._by_feature(evidence) if signed.z > 0]
        failures, costs = self._failures(evidence), evidence.costs
        return [
            Candidate(name, None, self._rescue(name, failures, costs), costs[name])
            for name in self._order(standing_out, failures, costs)
        ]

    def _path(
        self, evidence: Evidence, standing_out: Sequence[_Signed], failures: Counter[str]
    ) -> Iterator[Candidate]:
        failures, left = failures.copy(), evidence.tokens_left
        for _ in range(min(evidence.attempts_left, FORESEEN)):
            costs = {name: cost for name, cost in evidence.costs.items() if cost <= left}
            if not costs:
                return
            operator = self._order(standing_out, failures, costs)[0]
            rescue = self._rescue(operator, failures, costs)
            yield Candidate(operator, None, rescue, costs[operator])
            failures[operator] += 1
            left -= costs[operator]

    def _reason(
        self,
        best: Candidate,
        standing_out: Sequence[_Signed],
        failures: Counter[str],
        evidence: Evidence,
    ) -> str:
        failed = ", ".join(dict.fromkeys(evidence.tried))
        after = f"{failed} failed; " if failed else ""
        for signed in standing_out:
            if signed.operator == best.operator and not failures[best.operator]:
                return after + signed.reason
        why = "no features were measured"
        if evidence.features is not None:
            why = "no other feature stands out" if standing_out else "no feature stands out"
        return (
            f"{after}{why}: {best.operator} has the best expected rescue for its cost, "
            f"{best.expected_rescue:.1%} for {best.expected_cost} tokens"
        )


def _sd(feature: str, population: Moments) -> float:
    """The standard deviation that a feature is judged by.

    Where not one of n failures had a cut sample, one that has does stand out: a share that never
    varied counts as if one more failure had been all the other way.
    """
    if feature in ROLLOUT_SHARES and population.sd < LEAST_SD:
        return math.sqrt(population.count) / (population.count + 1)
    return population.sd
