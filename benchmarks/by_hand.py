"""The recovery loop as a plain function: what somebody would write who wants no graph.

It samples, judges, asks the router and carries out what that says, with the package's own pieces,
and comes to the same result as the graph. It has no events, no budget in tokens or seconds, no
ledger of calls, no interrupts, and cannot be taken up again by another process.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recov_graph.features import problem_features
from recov_graph.graph import MAX_NEW_TOKENS, SAMPLES, TEMPERATURE
from recov_graph.interventions import Failure, Intervention
from recov_graph.interventions.base import Lengths
from recov_graph.models import Capability, Generation, Model
from recov_graph.models.base import Session
from recov_graph.models.embedded import EmbeddedPair
from recov_graph.problem import Problem
from recov_graph.rollout import FinishReason, Rollout, TopK, Usage
from recov_graph.routing import Evidence, Router
from recov_graph.routing.decision import wants_features
from recov_graph.scoring import distinct_rollouts, scored_rollouts
from recov_graph.seeds import SEEDS, call_seed
from recov_graph.trace import Trace, measure
from recov_graph.verifiers import Verifier, judge

ATTEMPTS = 12


class Replayed:
    """The embedded pair from memory: a call that was made before takes next to no time."""

    def __init__(self) -> None:
        self._pair = EmbeddedPair()
        self._made: dict[Any, Any] = {}
        self.name, self.capabilities = self._pair.name, self._pair.capabilities
        self.end_token = self._pair.end_token
        self.decode, self.spell = self._pair.decode, self._pair.spell
        self.prompt_length = self._pair.prompt_length

    def sample(self, prompt: str, *, prefix: Any = (), **how: Any) -> Generation:
        """As the pair does."""
        key = (prompt, np.asarray(prefix, np.int32).tobytes(), *sorted(how.items()))
        if key not in self._made:
            self._made[key] = self._pair.sample(prompt, prefix=prefix, **how)
        made: Generation = self._made[key]
        return made

    def score(self, prompt: str, completions: Sequence[Any], *, role: Any) -> Any:
        """As the pair does."""
        key = (prompt, role, *(tokens.tobytes() for tokens in completions))
        if key not in self._made:
            self._made[key] = self._pair.score(prompt, completions, role=role)
        return self._made[key]

    def open(self, prompt: str, **how: Any) -> Session:
        """As the pair does; seeds make no difference to it, the tokens taken do."""
        return _ReplayedSession(self._pair, prompt, self._made)


class _ReplayedSession:
    """A steered rollout from memory: what was seen after the same tokens."""

    draft, next_cost = None, 2

    def __init__(self, pair: EmbeddedPair, prompt: str, made: dict[Any, Any]) -> None:
        self._pair, self._prompt, self._made = pair, prompt, made
        self._tokens: tuple[int, ...] = ()
        self._seen = self._now()

    def _now(self) -> tuple[tuple[TopK, TopK], FinishReason | None, Usage]:
        key = (self._prompt, self._tokens)
        if key not in self._made:
            session = self._pair.open(self._prompt)
            for token in self._tokens:
                session.append(token)
            self._made[key] = session.distributions(), session.finished, session.usage
        seen: tuple[tuple[TopK, TopK], FinishReason | None, Usage] = self._made[key]
        return seen

    @property
    def usage(self) -> Usage:
        return self._seen[2]

    @property
    def finished(self) -> FinishReason | None:
        return self._seen[1]

    def distributions(self) -> tuple[TopK, TopK]:
        return self._seen[0]

    def append(self, token: int) -> None:
        self._tokens += (token,)
        self._seen = self._now()


class Notes:
    """What a loop by hand would keep: a row for each attempt, each written at once."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS attempts (problem, operator, text, verdict, answer)"
        )

    def add(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Keep some attempts."""
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT INTO attempts VALUES (?, ?, ?, ?, ?)", rows)
        self._connection.execute("COMMIT")


def recovered(
    problem: Problem,
    model: Model,
    verifier: Verifier,
    router: Router,
    interventions: Mapping[str, Intervention],
    seed: int,
    notes: Notes | None = None,
) -> tuple[bool, list[str]]:
    """Whether a problem was solved in the end, and the operators that were tried."""
    samples = model.sample(
        problem.prompt,
        n=SAMPLES,
        temperature=TEMPERATURE,
        max_tokens=MAX_NEW_TOKENS,
        seed=call_seed(seed, problem.id, 0),
    ).rollouts
    failed: dict[str, Rollout] = {}
    rows, solved = [], False
    for position, rollout in enumerate(samples):
        verdict = judge(verifier, problem, rollout.text)
        rows.append((problem.id, "sample", rollout.text, verdict.value, verdict.answer))
        solved = solved or verdict.passed
        if verdict.value == "failed":
            failed[str(position)] = rollout
    if notes is not None:
        notes.add(rows)
    tried: list[str] = []
    traces: list[Trace] = []
    lengths = Lengths(
        prompt=model.prompt_length(problem.prompt),
        completion=sum(map(len, failed.values())) // max(1, len(failed)),
        truncated=sum(rollout.finish_reason == "length" for rollout in failed.values()),
    )
    costs = {name: one.expected_cost(lengths) for name, one in interventions.items()}
    scoring = sum(lengths.prompt + len(one) for one in distinct_rollouts(failed).values())
    while not solved and len(samples) + len(tried) < ATTEMPTS:
        evidence = Evidence(
            model=model.name,
            task=problem.task,
            features=problem_features([t.features for t in traces]) if traces else None,
            failed_samples=len(failed),
            tried=tried,
            costs=costs,
            attempts_left=ATTEMPTS - len(samples) - len(tried),
            draw=call_seed(seed, f"{problem.id}/choice", len(tried)) / SEEDS,
            once={} if traces else _once(interventions, scoring),
        )
        if not tried and not traces and wants_features(router, evidence):
            traces = _measured(model, problem, failed)
            continue
        operator = router.decide(evidence).operator
        if operator is None:
            break
        if Capability.SCORE in interventions[operator].needs and not traces:
            traces = _measured(model, problem, failed)
        failure = Failure(
            problem,
            TEMPERATURE,
            MAX_NEW_TOKENS,
            call_seed(seed, problem.id, len(samples) + len(tried)),
            traces,
            len(tried),
        )
        text = interventions[operator].apply(failure, model).rollout.text
        verdict = judge(verifier, problem, text)
        tried.append(operator)
        solved = verdict.passed
        if notes is not None:
            notes.add([(problem.id, operator, text, verdict.value, verdict.answer)])
    return solved, tried


def _once(interventions: Mapping[str, Intervention], scoring: int) -> dict[str, int]:
    return {n: scoring for n, one in interventions.items() if Capability.SCORE in one.needs}


def _measured(model: Model, problem: Problem, failed: Mapping[str, Rollout]) -> list[Trace]:
    scored = scored_rollouts(model, problem.prompt, failed)
    return [measure(rollout, TEMPERATURE) for rollout in scored.values()]
