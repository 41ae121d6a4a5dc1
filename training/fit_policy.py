"""Fit the policy that ships to the tape that ships.

Run after `training.record_tape`::

    python -m training.fit_policy

Writes ``recov_graph/routing/default_policy.json``: the cold-start rule's population and rates, and
a posterior for the embedded pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np

from recov_graph.evaluate.bench import bench_of_tape
from recov_graph.graph import SAMPLES
from recov_graph.routing.outcomes import Floats, cell_moments
from recov_graph.routing.policy import DEFAULT, Counts, Policy, Rescue
from recov_graph.routing.posterior import fit_posterior
from recov_graph.tape import shipped_tape
from recov_graph.version import __version__

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
    return cold.model_copy(update={"posterior": posterior})


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
