"""The paper's rule as a router: the feature that stands out most names the operator.

Source: Islah et al., arXiv 2606.05145. Each feature is z-scored against stored failures; the
operator of the largest z comes first. Here the ranking also covers several attempts: an operator
that has failed gives way to the next, features that do not stand out leave the choice to the
policy's fallback order, and the router stops once a rescue has become too unlikely.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from recov_graph.features import FEATURES
from recov_graph.routing.decision import Candidate, Decision, Evidence, Regime
from recov_graph.routing.policy import Policy, Rescue, default_policy

LEAST_SD = 1e-9  # a feature that never varied says nothing
UNKNOWN = Rescue(alpha=1, beta=1, problems=0)  # where a policy has measured no operator at all


@dataclass(frozen=True, slots=True)
class _Ranked:
    operator: str
    z: float | None
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
        left = evidence.tokens_left
        costs = {name: cost for name, cost in evidence.costs.items() if cost <= left}
        evidence = replace(evidence, costs=costs)
        ranking = self._ranking(evidence)
        failures = len(evidence.tried) + max(
            0, evidence.failed_samples - self.policy.failed_samples
        )
        # Operators tried least often first; the sort is stable, so the ranking breaks ties.
        order = sorted(ranking, key=lambda ranked: evidence.tried.count(ranked.operator))
        candidates = tuple(
            Candidate(
                ranked.operator,
                ranked.z,
                self._rescue(ranked.operator, failures),
                evidence.costs[ranked.operator],
            )
            for ranked in order
        )
        stands_out = any(ranked.z is not None and ranked.z > 0 for ranked in ranking)
        regime: Regime = "steerable_hard" if stands_out else "sampling"
        if not candidates:
            return Decision(None, regime, 1.0, 0.0, (), "no operator fits the tokens left")
        chance = self._any_rescue(candidates, failures, evidence.attempts_left)
        if chance < self.policy.stop_below or evidence.attempts_left < 1:
            reason = (
                f"{_count(evidence.failed_samples, 'sample')} and "
                f"{_count(len(evidence.tried), 'intervention')} failed; the chance of a rescue in "
                f"{_count(evidence.attempts_left, 'more attempt')} is {chance:.1%}, "
                f"under {self.policy.stop_below:.1%}: stop"
            )
            return Decision(None, "out_of_reach", 1.0, chance, candidates, reason)
        reason = order[0].reason
        if evidence.tried:
            reason = f"{', '.join(dict.fromkeys(evidence.tried))} failed; {reason}"
        best = candidates[0]
        return Decision(best.operator, regime, 1.0, best.expected_rescue, candidates, reason)

    def _ranking(self, evidence: Evidence) -> list[_Ranked]:
        """Operators whose feature stands out, by z; then the fallback; then all others."""
        by_feature = self._by_feature(evidence)
        first = [ranked for ranked in by_feature if ranked.z is not None and ranked.z > 0]
        why = "no feature stands out" if evidence.features else "no features were measured"
        if first:
            why = "no other feature stands out"
        # Where a policy gives an operator several features, the one that stands out most counts.
        z = {ranked.operator: ranked.z for ranked in reversed(by_feature)}
        ranking: dict[str, _Ranked] = {}
        for ranked in first:
            ranking.setdefault(ranked.operator, ranked)
        for operator in (*self.policy.fallback, *evidence.costs):
            ranking.setdefault(
                operator, _Ranked(operator, z.get(operator), f"{why}: {operator} by default")
            )
        return [ranked for ranked in ranking.values() if ranked.operator in evidence.costs]

    def _by_feature(self, evidence: Evidence) -> list[_Ranked]:
        if evidence.features is None:
            return []
        moments, count = self.policy.moments(evidence.model, evidence.task)
        among = f"{count} stored failures of this cell"
        if count == 0:
            everyone = self.policy.population[FEATURES[0]].count
            among = f"{everyone} stored failures of other cells"
        ranked = []
        for feature, operator in self.policy.rule.items():
            population = moments[feature]
            if population.sd < LEAST_SD or operator not in evidence.costs:
                continue
            z = (getattr(evidence.features, feature) - population.mean) / population.sd
            side = "above" if z >= 0 else "below"
            reason = f"{feature} is {abs(z):.1f} sd {side} {among}: {operator}"
            ranked.append(_Ranked(operator, z, reason))
        return sorted(ranked, key=lambda item: -(item.z or 0.0))

    def _rescue(self, operator: str, failures: int) -> float:
        """The operator's expected rescue; one never measured counts as the worst that was."""
        measured = self.policy.rescue
        known = [measured[operator]] if operator in measured else list(measured.values())
        return min(rescue.after(failures) for rescue in known or [UNKNOWN])

    def _any_rescue(
        self, candidates: tuple[Candidate, ...], failures: int, attempts_left: int
    ) -> float:
        """The chance that one of the attempts left passes, moving down the candidates in turn."""
        all_fail = 1.0
        for step in range(attempts_left):
            operator = candidates[step % len(candidates)].operator
            all_fail *= 1.0 - self._rescue(operator, failures + step)
        return 1.0 - all_fail


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
