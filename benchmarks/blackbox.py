"""A model of which nothing but texts is known: does routing by rollout features pay?

The embedded pair behind a wall: no log-probabilities, no continuing, completions cut at 40 tokens,
so that some failures are nothing but truncation. Routed cold by the shipped policy, and by one that
was refitted to traces of the other half of the problems (random operators, other seeds), against
retry alone with the same tokens, random operators under the same limits, and the refitted policy
kept from seeing the features. Intervals are 95% bootstrap intervals over problems, paired.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rescue import SEEDS, RandomRouter, Stream, in_rounds, report
from benchmarks.rows import Row
from recov_graph import Budget, TraceStore, create_recovery_graph
from recov_graph.batch import run_batch
from recov_graph.figures import recovery_tokens
from recov_graph.graph import TEMPERATURE
from recov_graph.interventions import default_interventions
from recov_graph.models import Capability, Generation
from recov_graph.models.embedded import EmbeddedPair, bundled_problems
from recov_graph.problem import Problem
from recov_graph.refit import refit
from recov_graph.routing import Decision, Evidence, Router, as_router, default_policy
from recov_graph.seeds import call_seed
from recov_graph.verifiers import as_verifier, judge

LONGEST = 40
TRACED = (10, 11)  # seeds of the runs that are learned from


class BlackBox:
    """The embedded specialist as a chat API shows a model: texts and what they cost."""

    name = "black-box pair"
    capabilities = frozenset({Capability.SAMPLE, Capability.TEMPERATURE})
    end_token = -1

    def __init__(self) -> None:
        self._pair = EmbeddedPair()

    def sample(self, prompt: str, **how: Any) -> Generation:
        """Texts without tokens."""
        made = self._pair.sample(prompt, **how)
        nothing = np.zeros(0, np.int32)
        rollouts = [
            replace(r, token_ids=nothing, specialist=None, written=len(r)) for r in made.rollouts
        ]
        return Generation(rollouts, made.usage)

    def score(self, *_: Any, **__: Any) -> Any:
        """Never asked for."""
        raise NotImplementedError

    open = score

    def decode(self, tokens: Any) -> str:
        """There are none."""
        return ""

    def prompt_length(self, prompt: str) -> int:
        """As the server would count."""
        return self._pair.prompt_length(prompt)


class Blind:
    """A router kept from seeing the features."""

    def __init__(self, router: Router) -> None:
        self._router, self.name, self.content_hash = router, router.name, router.content_hash

    def decide(self, evidence: Evidence) -> Decision:
        """As the router does for a failure of which no features are known."""
        return self._router.decide(replace(evidence, features=None))


def learned(model: BlackBox, problems: Sequence[Problem]) -> Router:
    """A router refitted to what random operators did on problems."""
    with tempfile.TemporaryDirectory() as folder, TraceStore(Path(folder) / "t.db") as store:
        for seed in TRACED:
            graph = create_recovery_graph(
                model,
                "numeric",
                router=RandomRouter(seed),
                seed=seed,
                store=store,
                max_new_tokens=LONGEST,
            )
            run_batch(graph, problems)
        return as_router(refit(store, default_policy(), explore=0.0).policy)


def retries(model: BlackBox, problem: Problem, seed: int) -> Stream:
    """Fresh samples of one problem, without end."""
    position = 5000
    while True:
        made = model.sample(
            problem.prompt,
            temperature=TEMPERATURE,
            max_tokens=LONGEST,
            seed=call_seed(seed, problem.id, position),
        )
        passed = judge(as_verifier("numeric"), problem, made.rollouts[0].text).passed
        yield passed, made.usage.tokens
        position += 1


def main() -> list[Row]:
    """Print rescue rates, tokens and paired differences to the refitted policy."""
    model = BlackBox()
    everything = bundled_problems()
    halves = everything[::2], everything[1::2]
    able = [
        n
        for n, one in default_interventions(model.capabilities).items()
        if one.needs <= model.capabilities
    ]
    print("operators:", ", ".join(able))
    rescued: dict[str, dict[str, list[float]]] = {}
    tokens: dict[str, int] = {}

    def note(strategy: str, results: Sequence[tuple[Problem, dict[str, Any]]]) -> int:
        for problem, output in results:
            outcomes = rescued.setdefault(strategy, {}).setdefault(problem.id, [])
            outcomes.append(float(output["solved"]))
        spent = sum(recovery_tokens(output) for _, output in results)
        tokens[strategy] = tokens.get(strategy, 0) + spent
        return spent

    for tested, traced in (halves, halves[::-1]):
        fitted = learned(model, traced)
        for seed in SEEDS:
            how: dict[str, Any] = {
                "seed": seed,
                "max_new_tokens": LONGEST,
                "budget": Budget(),
            }
            batch = run_batch(create_recovery_graph(model, "numeric", router=fitted, **how), tested)
            failed = [problem for problem, _ in batch.failed]
            pool = note("routed", batch.failed)
            for name, router in (
                ("routed cold, same limits", as_router(None)),
                ("refitted without features", Blind(fitted)),
                ("random operator, same limits", RandomRouter(seed)),
            ):
                graph = create_recovery_graph(model, "numeric", router=router, **how)
                note(name, run_batch(graph, failed).results)
            streams = {p.id: retries(model, p, seed) for p in failed}
            ids, _, spent = in_rounds(streams, pool)
            name = "retry alone, same tokens"
            for problem in failed:
                rescued.setdefault(name, {}).setdefault(problem.id, []).append(
                    float(problem.id in ids)
                )
            tokens[name] = tokens.get(name, 0) + spent
    return [replace(row, name=f"black box, {row.name}") for row in report(rescued, tokens)]


if __name__ == "__main__":
    main()
