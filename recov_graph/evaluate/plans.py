"""The policies that are compared, each as the attempts it would make while all of them fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recov_graph.evaluate.bench import Bench
from recov_graph.features import FEATURES
from recov_graph.routing.belief import Believer
from recov_graph.routing.decision import Candidate, Evidence
from recov_graph.routing.fitted import PosteriorRouter
from recov_graph.routing.outcomes import Floats, cell_moments, z_scores
from recov_graph.routing.policy import Policy, default_policy
from recov_graph.routing.posterior import fit_posterior

Ints = NDArray[np.int64]
NAMES = (
    "retry",
    "random",
    "round_robin",
    "best_fixed",
    "best_fixed_per_cell",
    "rule_repeat",
    "rule_ranked",
    "posterior",
    "posterior_no_features",
    "thompson",
    "oracle",
)
# The order that round robin goes through, and the operator of the rule where nothing stands out.
ROUND = ("dense_steer", "sparse_steer", "local_temp", "sparse_steer_random", "retry")
FALLBACK = "sparse_steer_random"
FIXED = "fixed:"  # before the name of an operator that is repeated alone
DRAWS = 16  # sequences drawn of a policy that chooses at random
WORTH_AHEAD = 8  # attempts looked ahead when a problem is compared with others


@dataclass(frozen=True)
class Plan:
    """What a policy does on M problems while every attempt fails.

    Attributes:
        operators: int [R, M, L], indices of operators; R > 1 where it chooses at random.
        measured: bool [R, M, L], whether the features are measured before that attempt.
        worth: float [M, L], rescues expected per cost from that attempt on; None where unknown.
        rescue: float [M, L], the probability expected of that attempt; None where unknown.
    """

    operators: Ints
    measured: NDArray[np.bool_]
    worth: Floats | None = None
    rescue: Floats | None = None


class Step(NamedTuple):
    """One attempt of a posterior's plan, should all before it have failed.

    Attributes:
        evidence: what the router is asked.
        operator: index of the operator it chooses.
        measured: whether the features are measured for this attempt.
        rescue: the probability it expects the attempt to pass with.
        cost: what the attempt is expected to cost, measuring included.
    """

    evidence: Evidence
    operator: int
    measured: bool
    rescue: float
    cost: float


def plain(bench: Bench, operators: Ints, *, measure: bool = False) -> Plan:
    """A plan without expectations: features are measured at once, or for the first repair."""
    operators = operators if operators.ndim == 3 else operators[None]
    first = np.zeros(operators.shape, bool)
    first[:, :, 0] = measure
    repairs = bench.repairs[operators]
    begins = repairs & (np.cumsum(repairs, axis=2) == 1)
    return Plan(operators, first if measure else begins)


class Planner:
    """Plans of every policy for some problems, learned from others.

    Args:
        train: problems to learn from.
        test: problems to plan for.
        length: attempts that are planned.
        rng: for policies that choose at random.
    """

    def __init__(self, train: Bench, test: Bench, length: int, rng: np.random.Generator) -> None:
        self.train, self.test, self.length, self.rng = train, test, length, rng
        self._routers: dict[bool, PosteriorRouter] = {}

    def plan(
        self,
        name: str,
        fixed: Callable[[Bench], Ints] | None = None,
        tokens: float = math.inf,
    ) -> Plan:
        """The plan of a policy by its name.

        Args:
            name: one of NAMES, or "fixed:OPERATOR".
            fixed: tells the best fixed operator of each cell of some problems: for best_fixed,
                best_fixed_per_cell and, where there is a budget, oracle.
            tokens: what the budget allows in all; infinite where it is shared by all problems.
        """
        test, length = self.test, self.length
        if name == "retry":
            return self._repeated(np.full(len(test), self._index("retry")))
        if name.startswith(FIXED):
            return self._repeated(np.full(len(test), self._index(name.removeprefix(FIXED))))
        if name == "random":
            shape = (DRAWS, len(test), length)
            return plain(test, self.rng.integers(len(test.operators), size=shape))
        if name == "round_robin":
            order = self._round()
            return plain(test, np.tile(np.resize(order, length), (len(test), 1)))
        if name in ("best_fixed", "best_fixed_per_cell"):
            assert fixed is not None
            return self._repeated(self._best_fixed(fixed, by_cell=name == "best_fixed_per_cell"))
        if name in ("rule_repeat", "rule_ranked"):
            return self._rule(repeat=name == "rule_repeat")
        if name in ("posterior", "posterior_no_features"):
            return self._posterior(tokens, features=name == "posterior")
        if name == "thompson":
            return self._thompson()
        assert name == "oracle", name
        if fixed is None or math.isinf(tokens):
            return self._repeated((test.rates / test.costs).argmax(axis=1))
        return self._repeated(fixed(_own_cells(test)))

    def router(self, *, features: bool) -> PosteriorRouter:
        """The posterior fitted on the training problems."""
        if features not in self._routers:
            self._routers[features] = PosteriorRouter(
                fitted_policy(self.train, features=features), explore=0.0
            )
        return self._routers[features]

    def _index(self, operator: str) -> int:
        names = self.test.operators
        return names.index(operator) if operator in names else 0

    def _repeated(self, operator: Ints) -> Plan:
        return plain(self.test, np.repeat(operator[:, None], self.length, axis=1))

    def _round(self) -> Ints:
        names = self.test.operators
        known = [names.index(name) for name in ROUND if name in names and name != "retry"]
        others = [i for i, name in enumerate(names) if name not in ROUND]
        return np.array(known + others or [0])

    def _best_fixed(self, fixed: Callable[[Bench], Ints], *, by_cell: bool) -> Ints:
        """Int [M]; a cell that nothing was learned from gets the operator that is best anywhere."""
        train, cell = self.train, self.test.cell
        seen = np.bincount(train.cell, minlength=len(train.outcomes.cells)) > 0
        known = seen[cell] & by_cell
        anywhere = 0 if known.all() else fixed(_one_cell(train))[0]
        best = fixed(train)[cell] if known.any() else anywhere
        chosen: Ints = np.where(known, best, anywhere)
        return chosen

    def _rule(self, *, repeat: bool) -> Plan:
        """The paper's rule: the operator of the largest z; then that of the next."""
        test, names = self.test, self.test.operators
        population, cells = cell_moments(self.train.outcomes)
        # Z-scores against the cell's own failures, as published: nothing shrunken.
        policy = default_policy().model_copy(
            update={"population": population, "cells": cells, "shrinkage": 0.0}
        )
        z = z_scores(policy, test.outcomes.cells, test.cell, test.outcomes.features)
        rule = policy.rule
        asked = [j for j, feature in enumerate(FEATURES) if rule[feature] in names]
        speaks = np.array([names.index(rule[FEATURES[j]]) for j in asked], np.int64)
        fallback = self._index(FALLBACK)
        rows = []
        for values in z[:, asked]:
            order = np.argsort(-values, kind="stable")
            stands = [int(speaks[j]) for j in order if values[j] > 0]
            if repeat:
                rows.append([(stands or [fallback])[0]] * self.length)
                continue
            rest = [fallback, *(int(speaks[j]) for j in order if values[j] <= 0)]
            others = [i for i in range(len(names)) if i not in (*stands, *rest)]
            rows.append(np.resize([*stands, *rest, *others], self.length).tolist())
        return plain(test, np.array(rows), measure=True)

    def _posterior(self, tokens: float, *, features: bool) -> Plan:
        router = self.router(features=features)
        test, length = self.test, self.length
        shape = (len(test), length)
        operators, measured = np.zeros(shape, np.int64), np.zeros(shape, bool)
        worth, rescue = np.zeros(shape), np.zeros(shape)
        same: dict[Hashable, list[Step]] = {}
        for row in range(len(test)):
            key = test.known(row, features=features)
            if key not in same:
                steps = walk(router, test, row, length, features=features, tokens=tokens)
                same[key] = list(steps)
            for t, step in enumerate(same[key]):
                operators[row, t], measured[row, t] = step.operator, step.measured
                rescue[row, t], worth[row, t] = step.rescue, step.cost
        # The price of the next attempts in the long run, not of the very next alone.
        ahead = _best_ahead(rescue, worth)
        return Plan(operators[None], measured[None], ahead, rescue)

    def _thompson(self) -> Plan:
        """Each attempt by a type of failure drawn from the posterior, as if it were true."""
        router, test = self.router(features=False), self.test
        believer = Believer(router.policy)
        types = np.array(router.policy.posterior.rescue)  # type: ignore[union-attr]
        belief = believer.first(
            test.outcomes.cells,
            test.cell,
            np.full(test.outcomes.features.shape, np.nan),
            test.outcomes.failed_samples,
        )
        after = np.log1p(-types)
        operators = np.zeros((DRAWS, len(test), self.length), np.int64)
        for draw in range(DRAWS):
            log = belief.informed.copy()
            for t in range(self.length):
                # Gumbel's trick: the largest of log-weights with noise is a draw from them.
                drawn = (log + self.rng.gumbel(size=log.shape)).argmax(axis=1)
                chosen = (types[drawn] / test.costs).argmax(axis=1)
                operators[draw, :, t] = chosen
                log += after[:, chosen].T
        return plain(test, operators)


def fitted_policy(train: Bench, *, features: bool) -> Policy:
    """A policy learned from problems, with or without their features; it never explores."""
    population, cells = cell_moments(train.outcomes)
    base = default_policy().model_copy(update={"population": population, "cells": cells})
    posterior = fit_posterior(train.outcomes, base, use_features=features)
    return base.model_copy(update={"posterior": posterior})


def walk(
    router: PosteriorRouter,
    bench: Bench,
    row: int,
    length: int,
    *,
    features: bool = True,
    tokens: float = math.inf,
) -> Iterator[Step]:
    """The attempts a router would make on one problem while all of them fail.

    It is asked ahead, by what attempts are expected to cost.

    Args:
        router: never exploring.
        bench: where the problem is.
        row: its index.
        length: how many attempts.
        features: whether it may see features, once they are measured.
        tokens: what may be spent in all.
    """
    index = {name: i for i, name in enumerate(bench.operators)}
    evidence, first = _at_first(router, bench, row, length, features, tokens)
    path = router.path(evidence)
    for _ in range(length):
        # Expected costs may leave no room; should the real ones, the cheapest comes next.
        best = next(path, None) or _cheapest(evidence)
        once = evidence.once.get(best.operator, 0)
        cost = best.expected_cost + once
        yield Step(
            evidence, index[best.operator], bool(once or first), best.expected_rescue, cost + first
        )
        first = 0
        evidence = replace(
            evidence,
            tried=[*evidence.tried, best.operator],
            attempts_left=evidence.attempts_left - 1,
            tokens_left=evidence.tokens_left - cost,
        )
        if once:  # the features were measured for a repair: they are known from now on
            evidence = _seen(bench.measured(evidence, row), features)
            path = router.path(evidence)


def _at_first(
    router: PosteriorRouter, bench: Bench, row: int, length: int, features: bool, tokens: float
) -> tuple[Evidence, int]:
    """What is known before any attempt, and what was spent on measuring it."""
    scoring = int(bench.scoring[row])
    evidence = bench.evidence(row, attempts_left=length, tokens_left=tokens, measured=not scoring)
    if not (features and scoring and router.wants_features(evidence)):
        return _seen(evidence, features), 0
    left = tokens - scoring
    return bench.evidence(row, attempts_left=length, tokens_left=left, measured=True), scoring


def _cheapest(evidence: Evidence) -> Candidate:
    name = min(evidence.costs, key=lambda n: evidence.costs[n])
    return Candidate(name, None, 0.0, evidence.costs[name])


def _seen(evidence: Evidence, features: bool) -> Evidence:
    return evidence if features else replace(evidence, features=None)


def _best_ahead(rescue: Floats, cost: Floats) -> Floats:
    """Float [M, L], the most rescues per cost that some more attempts are expected to give."""
    best = np.zeros_like(rescue)
    length = rescue.shape[1]
    for start in range(length):
        all_fail = np.ones(len(rescue))
        spent = np.zeros(len(rescue))
        for step in range(start, min(length, start + WORTH_AHEAD)):
            spent += all_fail * cost[:, step]
            all_fail *= 1.0 - rescue[:, step]
            best[:, start] = np.maximum(best[:, start], (1.0 - all_fail) / spent)
    return best


def _one_cell(bench: Bench) -> Bench:
    """The same problems as if all were of one cell."""
    outcomes = replace(bench.outcomes, cells=("all",), cell=np.zeros(len(bench), np.int64))
    return replace(bench, outcomes=outcomes, models=("all",), tasks=("all",))


def _own_cells(bench: Bench) -> Bench:
    """The same problems as if each were a cell of its own."""
    names = tuple(map(str, range(len(bench))))
    outcomes = replace(bench.outcomes, cells=names, cell=np.arange(len(bench)))
    return replace(bench, outcomes=outcomes, models=names, tasks=names)


def concatenated(plans: Sequence[Plan], rows: Sequence[Ints], count: int) -> Plan:
    """Plans of disjoint problems put together in the order of all problems."""
    whole = plans[0]
    draws, _, length = whole.operators.shape
    operators = np.zeros((draws, count, length), np.int64)
    measured = np.zeros((draws, count, length), bool)
    worth = None if whole.worth is None else np.zeros((count, length))
    rescue = None if whole.rescue is None else np.zeros((count, length))
    for plan, where in zip(plans, rows, strict=True):
        operators[:, where], measured[:, where] = plan.operators, plan.measured
        if worth is not None and plan.worth is not None:
            worth[where] = plan.worth
        if rescue is not None and plan.rescue is not None:
            rescue[where] = plan.rescue
    return Plan(operators, measured, worth, rescue)
