"""Retry alone, measured: what fresh samples would have rescued with the same tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recov_graph.errors import ModelError
from recov_graph.models.base import Model
from recov_graph.problem import Problem
from recov_graph.seeds import call_seed
from recov_graph.verifiers import Verifier, judge

FIRST_POSITION = 1000  # seeds of its own: none of these samples is one the graph has drawn


@dataclass(slots=True)
class RetryAlone:
    """What nothing but fresh samples did for one problem.

    Attributes:
        rescued: whether one of them passed.
        attempts: samples drawn.
        tokens: tokens spent, prompts included.
    """

    rescued: bool = False
    attempts: int = 0
    tokens: int = 0


def retry_alone(
    model: Model,
    verifier: Verifier,
    problems: Sequence[Problem],
    *,
    tokens: int,
    temperature: float,
    max_new_tokens: int,
    seed: int | None,
    draw: int = 1,
) -> dict[str, RetryAlone]:
    """Sample the problems in rounds, each leaving when solved, until the tokens are spent.

    Tokens that a solved problem no longer needs go to the others.
    The outcome of each problem comes back under its id.

    Args:
        model: only its `sample` is used.
        verifier: judges each sample.
        problems: those whose first samples failed.
        tokens: the limit over all problems; an attempt begins while less is spent.
        temperature: decoding temperature.
        max_new_tokens: longest completion.
        seed: as for the graph.
        draw: samples drawn at a time; only those that are reached are charged and judged.
    """
    outcomes = {problem.id: RetryAlone() for problem in problems}
    streams = {
        problem.id: _attempts(model, verifier, problem, temperature, max_new_tokens, seed, draw)
        for problem in problems
    }
    left = tokens
    while streams and left > 0:
        for problem_id, stream in list(streams.items()):
            if left <= 0:
                break
            passed, spent = next(stream)
            left -= spent
            outcome = outcomes[problem_id]
            outcome.rescued = passed
            outcome.attempts += 1
            outcome.tokens += spent
            if passed:
                del streams[problem_id]
    return outcomes


def _attempts(
    model: Model,
    verifier: Verifier,
    problem: Problem,
    temperature: float,
    max_new_tokens: int,
    seed: int | None,
    draw: int,
) -> Iterator[tuple[bool, int]]:
    """(passed, tokens) of one fresh sample after the other, without end."""
    read = model.prompt_length(problem.prompt)
    position = FIRST_POSITION
    while True:
        rollouts = model.sample(
            problem.prompt,
            n=draw,
            temperature=temperature,
            max_tokens=max_new_tokens,
            seed=call_seed(seed, problem.id, position),
        ).rollouts
        if not rollouts:
            raise ModelError(f"model {model.name!r} returned no rollouts, asked for {draw}")
        for rollout in rollouts:
            yield judge(verifier, problem, rollout.text).passed, read + len(rollout)
        position += 1
