"""Does routing rescue more than retrying with the same tokens? Against honest baselines.

Every strategy starts from the same failed first samples. The routed loop is run as it ships; what
it spent after the first samples, over all failed problems, is the pool that each baseline may spend
in rounds over the unsolved problems: tokens that a solved problem no longer needs go to the others.
"Same limits" are the loop itself with another router: the cold-start rule, the same kept from
seeing the features, and one that chooses at random. Intervals are 95% bootstrap intervals over
problems, paired.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.rows import Row
from recov_graph import Budget, build_recovery_graph, create_recovery_graph
from recov_graph.batch import Batch, run_batch
from recov_graph.budget import MeteredModel
from recov_graph.figures import recovery_tokens
from recov_graph.graph import MAX_NEW_TOKENS, SAMPLES, TEMPERATURE
from recov_graph.interventions import Failure, default_interventions, registered
from recov_graph.models.embedded import EmbeddedPair, bundled_problems
from recov_graph.problem import Problem
from recov_graph.routing import Decision, Evidence, RuleRouter
from recov_graph.scheduler import Pool, run_pooled
from recov_graph.scoring import scored_rollouts
from recov_graph.seeds import call_seed
from recov_graph.trace import measure
from recov_graph.verifiers import as_verifier, judge

SEEDS = (0, 1, 2)
BUDGET = Budget()
LONG = Budget(max_attempts=40)  # in one pool a problem goes on while it is worth most
# Passed or not and the tokens spent, of one attempt after the other, without end.
Stream = Iterator[tuple[bool, int]]


class RandomRouter:
    """A uniformly random operator each time, never stopping early."""

    name = "random"
    content_hash = "random"

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def decide(self, evidence: Evidence) -> Decision:
        """Any operator at all."""
        operator = self.rng.choice(list(evidence.costs))
        return Decision(operator, "sampling", 1 / len(evidence.costs), 0.0, (), "random")


class BlindRouter(RuleRouter):
    """The shipped router, kept from seeing the features: what do they add?"""

    def decide(self, evidence: Evidence) -> Decision:
        """As the rule does for a failure that could not be measured."""
        return super().decide(replace(evidence, features=None))


@dataclass(frozen=True)
class Failed:
    """A problem whose first samples failed, with what was measured on them."""

    problem: Problem
    failure: Failure
    scoring_tokens: int


def failed_problems(batch: Batch, pair: EmbeddedPair) -> list[Failed]:
    """The batch's failures, their first samples drawn again from the recorded seeds and scored."""
    found = []
    for problem, output in batch.failed:
        seed = output["attempts"][0]["seed"]
        rollouts = pair.sample(
            problem.prompt, n=SAMPLES, temperature=TEMPERATURE, max_tokens=MAX_NEW_TOKENS, seed=seed
        ).rollouts
        assert [r.text for r in rollouts] == [a["text"] for a in output["attempts"][:SAMPLES]]
        meter = MeteredModel(pair, Budget(), problem.id, {})
        named = {str(i): rollout for i, rollout in enumerate(rollouts)}
        scored = scored_rollouts(meter, problem.prompt, named)
        traces = [measure(rollout, TEMPERATURE) for rollout in scored.values()]
        failure = Failure(problem, TEMPERATURE, MAX_NEW_TOKENS, 0, traces)
        found.append(Failed(problem, failure, meter.spent.tokens))
    return found


def stream(failed: Failed, operator: str, seed: int, pair: EmbeddedPair) -> Stream:
    """Attempts of one operator; scoring is paid with the first if the operator needs it."""
    verifier, paid, i = as_verifier("numeric"), False, 0
    intervention = registered()[operator]
    while True:
        meter = MeteredModel(pair, Budget(), failed.problem.id, {})
        attempt_seed = call_seed(seed, f"{failed.problem.id}/{intervention.name}", 5000 + i)
        attempt = intervention.apply(replace(failed.failure, seed=attempt_seed, focus=i), meter)
        tokens = meter.spent.tokens
        if "score" in intervention.needs and not paid:
            tokens, paid = tokens + failed.scoring_tokens, True
        yield judge(verifier, failed.problem, attempt.rollout.text).passed, tokens
        i += 1


def in_rounds(streams: dict[str, Stream], pool: int) -> tuple[set[str], int, int]:
    """Ids rescued, attempts and tokens, spending the pool in rounds over unsolved problems."""
    rescued: set[str] = set()
    attempts = spent = 0
    while streams and spent < pool:
        for name in list(streams):
            if spent >= pool:
                break
            passed, tokens = next(streams[name])
            attempts, spent = attempts + 1, spent + tokens
            if passed:
                rescued.add(name)
                del streams[name]
    return rescued, attempts, spent


def interval(values: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Mean and 95% bootstrap interval of per-problem lists, resampling problems."""
    rng = np.random.default_rng(0)
    sums = np.array([sum(v) for v in values])
    counts = np.array([len(v) for v in values])
    picks = rng.integers(len(values), size=(4000, len(values)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(sums.sum() / counts.sum()), float(low), float(high)


def main() -> list[Row]:
    """Print rescue rates, tokens and paired differences."""
    pair = EmbeddedPair()
    problems = bundled_problems()
    rescued: dict[str, dict[str, list[float]]] = {}
    tokens: dict[str, int] = {}

    def note(strategy: str, name: str, passed: bool) -> None:
        rescued.setdefault(strategy, {}).setdefault(name, []).append(float(passed))

    for seed in SEEDS:
        graph = create_recovery_graph(pair, "numeric", seed=seed, budget=BUDGET)
        batch = run_batch(graph, problems)
        pool = sum(recovery_tokens(output) for _, output in batch.failed)
        for problem, output in batch.failed:
            note("routed", problem.id, output["solved"])
        tokens["routed"] = tokens.get("routed", 0) + pool

        failed_only = [problem for problem, _ in batch.failed]
        for name, router in (
            ("cold-start rule, same limits", RuleRouter()),
            ("rule without features, same limits", BlindRouter()),
            ("random operator, same limits", RandomRouter(seed)),
        ):
            other = create_recovery_graph(pair, "numeric", seed=seed, budget=BUDGET, router=router)
            results = run_batch(other, failed_only).results
            for problem, output in results:
                note(name, problem.id, output["solved"])
            spent = sum(recovery_tokens(output) for _, output in results)
            tokens[name] = tokens.get(name, 0) + spent

        # The first samples of the failed are drawn again, and paid again, from the same seeds.
        first = sum(a["spent"] for _, out in batch.failed for a in out["attempts"][:SAMPLES])
        waiting = build_recovery_graph(
            pair, "numeric", seed=seed, budget=LONG, open_problems=len(failed_only)
        )
        pooled = run_pooled(waiting, failed_only, SAMPLES, Pool(tokens=first + pool))
        name = "routed, one pool (worth), same tokens"
        for problem, output in pooled.results:
            note(name, problem.id, output["solved"])
        spent = sum(recovery_tokens(output) for _, output in pooled.results)
        tokens[name] = tokens.get(name, 0) + spent

        failed = failed_problems(batch, pair)
        for operator in default_interventions(pair.capabilities):
            streams = {f.problem.id: stream(f, operator, seed, pair) for f in failed}
            ids, _, spent = in_rounds(streams, pool)
            name = f"{operator} alone, same tokens"
            for f in failed:
                note(name, f.problem.id, f.problem.id in ids)
            tokens[name] = tokens.get(name, 0) + spent

    return report(rescued, tokens)


def ratio(name: str, ours: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> Row:
    """How many times as many the routed loop rescues, with a 95% interval, paired by problem."""
    rng = np.random.default_rng(0)
    sums = np.array([[sum(v) for v in values] for values in (ours, other)])
    picks = rng.integers(len(ours), size=(4000, len(ours)))
    a, b = sums[:, picks].sum(axis=2)
    low, high = np.quantile(a / np.maximum(b, 1), [0.025, 0.975])
    count = sum(len(v) for v in ours)
    mine, others = sums.sum(axis=1)
    return Row(
        f"rescued, routed and {name}",
        f"{mine / count:.1%}",
        f"{others / count:.1%}",
        float(mine / max(others, 1)),
        float(low),
        float(high),
    )


def report(rescued: dict[str, dict[str, list[float]]], tokens: dict[str, int]) -> list[Row]:
    """The table: rescue rate, tokens, rescues per 1,000 tokens, difference to the routed loop."""
    routed = rescued["routed"]
    count = sum(len(v) for v in routed.values())
    print(f"{count} failures of {len(routed)} problems, seeds {', '.join(map(str, SEEDS))}")
    print(f"{'strategy':38} {'rescued':>22} {'tokens':>9} {'/1k tok':>8}  routed minus it, points")
    for strategy, outcomes in rescued.items():
        mean, low, high = interval(list(outcomes.values()))
        per = sum(sum(v) for v in outcomes.values()) / tokens[strategy] * 1000
        gains = [
            [a - b for a, b in zip(routed[name], outcomes[name], strict=True)] for name in routed
        ]
        gain, worst, best = interval(gains)
        print(
            f"{strategy:38} {mean:7.1%} ({low:5.1%}, {high:5.1%}) {tokens[strategy]:9,} {per:8.2f}"
            f"  {gain * 100:+.1f} ({worst * 100:+.1f}, {best * 100:+.1f})"
        )
    ours = list(routed.values())
    return [
        ratio(strategy, ours, [outcomes[name] for name in routed])
        for strategy, outcomes in rescued.items()
        if strategy != "routed"
    ]


if __name__ == "__main__":
    main()
