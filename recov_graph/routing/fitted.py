"""The router of a fitted policy: the best expected rescue for its cost, while one is likely enough.

The posterior is trusted as far as there are stored failures: with few the cold-start rule decides,
with many the posterior does, and in between their scores are blended.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from recov_graph.features import ProblemFeatures
from recov_graph.rollout_features import Features, RolloutFeatures
from recov_graph.routing.belief import AHEAD, Belief, Believer
from recov_graph.routing.decision import (
    EASY,
    MARGIN,
    Candidate,
    Decision,
    Evidence,
    Regime,
    affordable,
    any_rescue,
    odds,
    stop,
)
from recov_graph.routing.outcomes import Floats
from recov_graph.routing.outlook import best_plans
from recov_graph.routing.policy import Policy, cell_name, model_part
from recov_graph.routing.rule import FORESEEN, RuleRouter
from recov_graph.words import count

# What a stored failure of another task, or of another model, counts for trust in a cell.
SAME_MODEL, OTHER_MODEL = 0.1, 0.01
MOST_OF_OTHERS = 5.0  # all other models together count for no more than so many failures
TIMES = np.arange(AHEAD + 1)
HALF_TRUST = 10  # stored failures with which rule and posterior count alike
SURE = 0.97  # beyond this trust the rule is no longer asked


class PosteriorRouter:
    """Routing by a policy that has a posterior.

    Args:
        policy: one with a posterior.
        explore: share of choices made at random; by default the policy's.
    """

    def __init__(self, policy: Policy, *, explore: float | None = None) -> None:
        assert policy.posterior is not None
        self.policy = policy
        self.content_hash = policy.content_hash
        self.explore = policy.posterior.explore if explore is None else explore
        self._posterior = policy.posterior
        self._believer = Believer(policy)
        self._index = {name: i for i, name in enumerate(self._believer.operators)}
        self._rule = RuleRouter(policy)
        self._stored = sum(self._posterior.failures.values())
        self._by_model: Counter[str] = Counter()
        for cell, failures in self._posterior.failures.items():
            self._by_model[model_part(cell)] += failures

    @property
    def name(self) -> str:
        """The policy's name."""
        return self.policy.name

    def wants_features(self, evidence: Evidence) -> bool:
        """Whether features pay for being measured before the first choice.

        They do for the rule, which goes by nothing else, as long as it has more of a say.
        """
        return self.measures or self.trust(evidence.model, evidence.task) < 0.5

    @property
    def measures(self) -> bool:
        """Whether the policy has every failure measured before the first choice."""
        return self._posterior.measure

    def decide(self, evidence: Evidence) -> Decision:
        """The operator with the best expected rescue for its cost, or a stop."""
        evidence = replace(evidence, costs=affordable(evidence))
        if not evidence.costs:
            return Decision(None, "sampling", 1.0, 0.0, (), "no operator fits the tokens left")
        candidates, chance = self._candidates(evidence, self._belief(evidence))
        stopping = chance < self.policy.stop_below
        unknown = [one for one in candidates if self._unknown(one.operator, evidence)]
        # What is given in hope, a stronger model or one's own, is not to be passed over for good
        # because nothing is stored of it yet.
        if unknown and (stopping or evidence.attempts_left <= len(unknown)):
            return _first_try(unknown[0], candidates, evidence)
        if stopping or evidence.attempts_left < 1:
            return stop(evidence, chance, self.policy.stop_below, candidates)
        chosen, probability = self._chosen(candidates, evidence.draw)
        return Decision(
            chosen.operator,
            _regime(candidates),
            probability,
            chosen.expected_rescue,
            candidates,
            self._reason(chosen, candidates, evidence),
        )

    def _unknown(self, operator: str, evidence: Evidence) -> bool:
        """Whether nothing is known of an operator, not even from this problem."""
        new = operator not in self._index and operator not in evidence.tried
        return new and evidence.attempts_left > 0

    def probability(self, evidence: Evidence, operator: str | None) -> float:
        """With what probability `decide` would choose an operator, or to stop, here."""
        decision = self.decide(replace(evidence, draw=1.0))
        if decision.operator is None or operator is None:
            return float(decision.operator == operator)
        return odds(decision, self.explore).get(operator, 0.0)

    def path(self, evidence: Evidence) -> Iterator[Candidate]:
        """The attempts that would follow one another while all of them fail."""
        return self._path(evidence, self._belief(evidence))

    def chance(self, evidence: Evidence) -> float:
        """The chance of any rescue in the budget left, which `decide` stops by."""
        evidence = replace(evidence, costs=affordable(evidence))
        if not evidence.costs or evidence.attempts_left < 1:
            return 0.0
        return self._candidates(evidence, self._belief(evidence))[1]

    def trust(self, model: str, task: str) -> float:
        """How far the posterior is trusted in a cell, 0 to 1."""
        own = self._posterior.failures.get(cell_name(model, task), 0)
        akin = self._by_model.get(cell_name(model, ""), 0)
        others = self._stored - akin
        # However many failures of other models are stored, they say little of this one.
        failures = own + SAME_MODEL * (akin - own) + min(OTHER_MODEL * others, MOST_OF_OTHERS)
        return failures**2 / (failures**2 + HALF_TRUST**2)

    def _belief(self, evidence: Evidence) -> Belief:
        features = evidence.features
        belief = self._believer.first(
            [cell_name(evidence.model, evidence.task)],
            np.zeros(1, np.int64),
            _row(features, ProblemFeatures),
            np.array([float(evidence.failed_samples)]),
            _row(features, RolloutFeatures),
        )
        for operator, times in Counter(evidence.tried).items():
            if operator in self._index:
                belief = self._believer.after(belief, self._index[operator], times)
        return belief

    def _candidates(
        self, evidence: Evidence, belief: Belief
    ) -> tuple[tuple[Candidate, ...], float]:
        """Every operator that may be chosen, best first; and the chance of any rescue.

        Where tokens are limited an operator scores the chance that the best plan beginning with it
        rescues within them; without a limit, its rescues per 1,000 tokens.
        """
        names = [name for name in self._index if name in evidence.costs]
        learned = self._believer.rescue(belief)[0]
        rescue = {name: float(learned[self._index[name]]) for name in names}
        rows = np.array([self._index[name] for name in names], np.int64)
        fails = self._believer.all_fail(belief)[np.ix_(rows, TIMES, rows, TIMES)]
        outlook = self._outlook(evidence, names, fails)
        worth = dict(outlook)
        if math.isinf(evidence.tokens_left):
            worth = {
                name: 1000 * _per_token(rescue[name], fails[i, :, 0, 0], evidence, name)
                for i, name in enumerate(names)
            }
        trust = self.trust(evidence.model, evidence.task)
        chance = max(outlook.values(), default=0.0)
        strange = {n: cost for n, cost in evidence.costs.items() if n not in self._index}
        if strange:  # operators that nothing was learned of: the rule's guess
            path = self._rule.path(replace(evidence, costs=strange))
            chance = max(chance, any_rescue(path))
        if trust < SURE or len(names) < len(evidence.costs):
            rescue, worth = self._blended(evidence, rescue, worth, trust)
            chance = trust * chance + (1 - trust) * any_rescue(self._rule.path(evidence))
        order = sorted(worth, key=lambda name: (-worth[name], evidence.costs[name]))
        candidates = tuple(
            Candidate(name, worth[name], rescue[name], evidence.costs[name]) for name in order
        )
        return candidates, chance

    def _outlook(self, evidence: Evidence, names: Sequence[str], fails: Floats) -> dict[str, float]:
        """By the operator it begins with, the chance of the best plan within the budget."""
        if not names:
            return {}
        chance = best_plans(
            fails,
            np.array([evidence.costs[name] for name in names], float),
            np.array([evidence.once.get(name, 0) for name in names], float),
            tokens_left=evidence.tokens_left,
            attempts_left=evidence.attempts_left,
        )
        return dict(zip(names, chance.tolist(), strict=True))

    def _blended(
        self,
        evidence: Evidence,
        rescue: Mapping[str, float],
        worth: Mapping[str, float],
        trust: float,
    ) -> tuple[dict[str, float], dict[str, float]]:
        """(rescue, worth) by operator, between the rule's view and the posterior's."""
        ranked = self._rule.ranked(evidence)
        by_rule = {candidate.operator: candidate.expected_rescue for candidate in ranked}
        # The rule only ranks: its first gets the highest score, and so on.
        scores = sorted(worth.values(), reverse=True) or [0.0]
        placed = {
            candidate.operator: scores[min(place, len(scores) - 1)] - 1e-9 * place
            for place, candidate in enumerate(ranked)
        }
        return (
            {
                name: trust * rescue.get(name, expected) + (1 - trust) * expected
                for name, expected in by_rule.items()
            },
            {
                name: trust * worth.get(name, score) + (1 - trust) * score
                for name, score in placed.items()
            },
        )

    def _path(self, evidence: Evidence, belief: Belief) -> Iterator[Candidate]:
        for _ in range(min(evidence.attempts_left, FORESEEN)):
            evidence = replace(evidence, costs=affordable(evidence))
            if not evidence.costs:
                return
            best = self._candidates(evidence, belief)[0][0]
            yield best
            spent = best.expected_cost + evidence.once.get(best.operator, 0)
            evidence = replace(
                evidence,
                tried=[*evidence.tried, best.operator],
                attempts_left=evidence.attempts_left - 1,
                tokens_left=evidence.tokens_left - spent,
                once={} if best.operator in evidence.once else evidence.once,
            )
            if best.operator in self._index:
                belief = self._believer.after(belief, self._index[best.operator])

    def _chosen(
        self, candidates: Sequence[Candidate], draw: float | None
    ) -> tuple[Candidate, float]:
        """The best, or now and then any; with the probability of that choice."""
        share = self.explore / len(candidates)
        if draw is None:
            draw = secrets.randbelow(2**32) / 2**32
        index = int(draw / share) if share and draw < self.explore else 0
        chosen = candidates[min(index, len(candidates) - 1)]
        return chosen, share + (1.0 - self.explore) * (chosen is candidates[0])

    def _reason(
        self, chosen: Candidate, candidates: Sequence[Candidate], evidence: Evidence
    ) -> str:
        failed = ", ".join(dict.fromkeys(evidence.tried))
        after = f"{failed} failed; " if failed else ""
        stored = self._posterior.failures.get(cell_name(evidence.model, evidence.task), 0)
        of = f"{count(stored, 'stored failure')} of this cell"
        if not stored:
            of = f"{count(self._stored, 'stored failure')} of other cells"
        odds = f"{chosen.expected_rescue:.1%} for {chosen.expected_cost} tokens"
        if chosen is not candidates[0]:
            best = candidates[0].operator
            return f"{after}{chosen.operator}, chosen at random to learn from ({best} is best)"
        return (
            f"{after}by {of}, {chosen.operator} has the best expected rescue for its cost, {odds}"
        )


def _row(features: Features | None, kind: type[Features]) -> Floats:
    """Float [1, F], the features of a set; NaN where there are none of it."""
    known = features if isinstance(features, kind) else [np.nan] * len(kind._fields)
    return np.array([known], float)


def _per_token(rescue: float, fails: Floats, evidence: Evidence, name: str) -> float:
    """Rescues expected per token of an operator, over as many attempts as make the best of it.

    What has to be paid once is shared by them. `fails` are the chances that 0 to J of them fail.
    """
    # An operator may be free, as where a repair ends its rollout at once.
    cost, once = max(1, evidence.costs[name]), evidence.once.get(name, 0)
    if not once:
        return rescue / cost
    attempts = max(1, min(evidence.attempts_left, len(fails) - 1))
    spent = once + cost * np.cumsum(fails[:attempts])
    best = float(((1.0 - fails[1 : attempts + 1]) / spent).max())
    return best * rescue / max(1e-9, 1.0 - float(fails[1]))


def _first_try(
    chosen: Candidate, candidates: tuple[Candidate, ...], evidence: Evidence
) -> Decision:
    reason = (
        f"nothing is stored of {chosen.operator} yet: it gets a try before the problem is given up "
        f"({count(evidence.attempts_left, 'attempt')} left)"
    )
    return Decision(
        chosen.operator, _regime(candidates), 1.0, chosen.expected_rescue, candidates, reason
    )


def _regime(candidates: Sequence[Candidate]) -> Regime:
    """What kind of failure the expected rescues speak for; without retry, the interventions'."""
    rescue = {candidate.operator: candidate.expected_rescue for candidate in candidates}
    retry = rescue.pop("retry", 0.0)
    best = max(rescue.values(), default=0.0)
    return "steerable_hard" if best - retry >= MARGIN and retry <= EASY else "sampling"
