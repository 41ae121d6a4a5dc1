"""Fit the policy that ships to the tape that ships.

Run after `training.record_tape`::

    python -m training.fit_policy

Writes ``recov_graph/routing/default_policy.json``: the cold-start rule's population and rates, a
posterior for the embedded pair, and, for models whose samples cannot be measured, what the rollout
features of its failures are like and how often `extend` rescues those that were cut. The tape has
neither: the same samples are drawn again, and these attempts anew.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import numpy as np

from recov_graph.evaluate.bench import bench_of_tape
from recov_graph.graph import MAX_NEW_TOKENS, SAMPLES, TEMPERATURE
from recov_graph.interventions import Extend
from recov_graph.models.embedded import EmbeddedPair, bundled_problems
from recov_graph.problem import Problem
from recov_graph.rollout import SAMPLE, Rollout
from recov_graph.rollout_features import (
    ROLLOUT_FEATURES,
    FailedSample,
    RolloutFeatures,
    rollout_features,
)
from recov_graph.routing.outcomes import Floats, Outcomes, cell_moments
from recov_graph.routing.policy import DEFAULT, Counts, Policy, Rescue, RolloutPart
from recov_graph.routing.posterior import fit_posterior
from recov_graph.seeds import call_seed
from recov_graph.tape import TapeProblem, shipped_tape
from recov_graph.verifiers import as_verifier, judge
from recov_graph.version import __version__
from training.measure_pair import BUNDLED, problems
from training.record_tape import TIMES

# As in `training.record_tape`; what is drawn again is checked against the tape.
PROBLEMS_SEED, TAPE_SEED = 300, 9
CUT = 40  # tokens after which completions are cut, to see what `extend` is good for
TRIES = 16  # of `extend` at each problem
STOP_BELOW = 0.05
EXPLORE = 0.05


def shipped_policy() -> Policy:
    """The policy, fitted anew."""
    tape = shipped_tape()
    bench = bench_of_tape(tape, "the shipped tape")
    outcomes, attempts = bench.outcomes, int(bench.outcomes.attempts[0, 0])
    population, cells = cell_moments(outcomes)
    betas = {name: beta_of(bench.rates[:, i], attempts) for i, name in enumerate(bench.operators)}
    cold = Policy(
        name="embedded-posterior",
        created=date.today().isoformat(),
        source=(
            f"{len(tape)} failed problems of the embedded pair, {attempts} attempts of each "
            "operator at each; python -m training.fit_policy"
        ),
        population=population,
        cells=cells,
        rescue=betas,
        carry_over=carry_over_of(bench.rates, list(betas.values())),
        failed_samples=SAMPLES,
        stop_below=STOP_BELOW,
        code_version=__version__,
        counts=Counts(
            problems=len(tape),
            attempts=float(outcomes.attempts.sum()),
            rescues=float(outcomes.passed.sum()),
        ),
    )
    posterior = fit_posterior(outcomes, cold, explore=EXPLORE)
    drawn = problems_drawn()
    update = {
        "posterior": posterior,
        "rollout": rollout_part([drawn[one.id] for one in tape], tape, outcomes),
        "rescue": {
            **betas,
            # The others on prompts count like `retry` until they are measured where they are used:
            # what a temperature does to this pair says nothing of another model.
            "extend": extended(list(drawn.values())),
        },
    }
    return cold.model_copy(update=update)


def problems_drawn() -> dict[str, Problem]:
    """The problems that the tape's failures were found among, by id."""
    exclude = frozenset(problem.prompt for problem in bundled_problems())
    levels = {kind: tuple(TIMES * n for n in counts) for kind, counts in BUNDLED.items()}
    return {p.id: p for p in problems(random.Random(PROBLEMS_SEED), exclude, levels)}


def extended(drawn: Sequence[Problem]) -> Rescue:
    """How often twice the tokens rescue a problem whose samples failed and one of which was cut."""
    operator = Extend()
    rates = []
    for problem in drawn:
        first = sampled(problem, SAMPLE, SAMPLES, TEMPERATURE, CUT)
        texts = [rollout.text for rollout in first]
        cut = any(rollout.finish_reason == "length" for rollout in first)
        if cut and not passed(problem, texts).any():
            longest = int(operator.factor * CUT)
            rates.append(passes(problem, operator.name, TRIES, TEMPERATURE, longest).mean())
    return beta_of(np.array(rates), TRIES)


def passes(problem: Problem, name: str, n: int, temperature: float, longest: int) -> Floats:
    """Float [n], 1 for each of so many samples that passes."""
    rollouts = sampled(problem, name, n, temperature, longest)
    return passed(problem, [rollout.text for rollout in rollouts])


def sampled(problem: Problem, name: str, n: int, temperature: float, longest: int) -> list[Rollout]:
    """Samples of the embedded pair, with a seed of their own for each name."""
    seed = call_seed(TAPE_SEED, f"{problem.id}/{name}", 0)
    return (
        EmbeddedPair()
        .sample(problem.prompt, n=n, temperature=temperature, max_tokens=longest, seed=seed)
        .rollouts
    )


def passed(problem: Problem, texts: Sequence[str]) -> Floats:
    """Float [n], 1 for each text that is right."""
    verdicts = [judge(as_verifier("numeric"), problem, text) for text in texts]
    return np.array([float(verdict.passed) for verdict in verdicts])


def rollout_part(
    asked: Sequence[Problem], tape: Sequence[TapeProblem], outcomes: Outcomes
) -> RolloutPart:
    """Population and cells of the rollout features of the tape's problems, in its order."""
    told = np.array([sampled_again(p, one) for p, one in zip(asked, tape, strict=True)])
    nothing = np.full_like(outcomes.features, np.nan)  # of the other set
    population, cells = cell_moments(
        replace(outcomes, features=nothing, rollout=told), ROLLOUT_FEATURES
    )
    return RolloutPart(population=population, cells=cells)


def sampled_again(problem: Problem, recorded: TapeProblem) -> RolloutFeatures:
    """The rollout features of a problem on the tape, from the samples that failed there."""
    pair, verifier = EmbeddedPair(), as_verifier("numeric")
    rollouts = pair.sample(
        problem.prompt,
        n=SAMPLES,
        temperature=TEMPERATURE,
        max_tokens=MAX_NEW_TOKENS,
        seed=call_seed(TAPE_SEED, problem.id, 0),
    ).rollouts
    verdicts = [judge(verifier, problem, rollout.text) for rollout in rollouts]
    failed = [
        FailedSample(verdict.answer or rollout.text, rollout.finish_reason, len(rollout))
        for verdict, rollout in zip(verdicts, rollouts, strict=True)
        if verdict.failed
    ]
    tokens = sum(sample.tokens for sample in failed) // max(1, len(failed))
    again = (problem.task, len(failed), tokens)
    if again != (recorded.task, recorded.failed_samples, recorded.lengths.completion):
        raise SystemExit(
            f"problem {problem.id} fails as {again}, other than on the tape: record it anew with "
            "python -m training.record_tape"
        )
    return rollout_features(failed, SAMPLES)


def beta_of(rates: Floats, attempts: int) -> Rescue:
    """The Beta distribution whose mean and spread fit rates measured on so many attempts each."""
    mean = float(np.clip(np.mean(rates), 1e-3, 1 - 1e-3))
    # Part of the observed variance is binomial noise of the measurement.
    observed = float(np.var(rates))
    between = max(1e-4, (observed - mean * (1 - mean) / attempts) / (1 - 1 / attempts))
    strength = max(0.05, mean * (1 - mean) / between - 1)
    return Rescue(
        alpha=round(mean * strength, 4), beta=round((1 - mean) * strength, 4), problems=len(rates)
    )


def carry_over_of(rates: Floats, betas: Sequence[Rescue]) -> float:
    """How much of an own failure one with another operator weighs, the median over all pairs."""
    weights = []
    for own, prior in enumerate(betas):
        for other in range(len(betas)):
            if other != own:
                fails = 1 - rates[:, other]
                after = float((rates[:, own] * fails).sum() / fails.sum())
                weights.append(prior.alpha / max(after, 1e-6) - prior.alpha - prior.beta)
    return round(float(np.clip(np.median(weights), 0, 1)), 3)


def main() -> None:
    """Write the policy."""
    policy = shipped_policy()
    policy.save(DEFAULT)
    print(f"{policy.source}: {policy.content_hash}")


if __name__ == "__main__":
    main()
