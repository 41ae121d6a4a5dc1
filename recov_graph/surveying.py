"""Measuring, beside the loop, the failures that its router did without the features of.

What a router does not need is not paid for. A picture of all failures, and a policy fitted from
them, want the features all the same: where a model runs on the spot they are measured afterwards,
charged to no problem, as what retry alone would have done is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from recov_graph.attempts import SAMPLE
from recov_graph.batch import Batch, FailedProblem
from recov_graph.figures import first_failed
from recov_graph.models.base import Capability, Model
from recov_graph.problem import Problem
from recov_graph.rollout import Rollout
from recov_graph.scoring import scored_rollouts
from recov_graph.store import TraceStore
from recov_graph.store.progress import measured_rollouts
from recov_graph.trace import measure


def survey(batch: Batch, model: Model, store: TraceStore, *, temperature: float) -> int:
    """Store the features of all failed samples that have none; how many were measured.

    Only for a model with a method ``encode(text)`` that gives the tokens a text was sampled in,
    as the embedded pair has; nothing is done for any other.
    """
    return sum(
        survey_one(problem, output, model, store, temperature=temperature)
        for problem, output in batch.failed
    )


def survey_one(
    problem: Problem, output: dict[str, Any], model: Model, store: TraceStore, *, temperature: float
) -> int:
    """As `survey`, of one problem that has ended."""
    if output["features"] is not None or not first_failed(output):
        return 0
    return _survey(problem, output["attempts"], model, store, temperature)


def survey_stored(
    failures: Iterable[FailedProblem], model: Model, store: TraceStore, *, temperature: float
) -> int:
    """As `survey`, of failures by what is stored of them, where that is with their texts.

    A process may have died between the end of a problem and the survey of it.
    """
    if store.store_text != "full":
        return 0
    count = 0
    for failed in failures:
        if not measured_rollouts(store, failed.id):
            attempts = [{**row, "verdict": row} for row in store.problem_attempts(failed.id)]
            count += _survey(failed.problem, attempts, model, store, temperature)
    return count


def _survey(
    problem: Problem,
    attempts: Iterable[dict[str, Any]],
    model: Model,
    store: TraceStore,
    temperature: float,
) -> int:
    if Capability.SCORE not in model.capabilities or not hasattr(model, "encode"):
        return 0
    rollouts = _failed(attempts, model)
    if not rollouts:
        return 0
    scored = scored_rollouts(model, problem.prompt, rollouts)
    store.write_traces({name: measure(one, temperature) for name, one in scored.items()})
    return len(scored)


def _failed(attempts: Iterable[dict[str, Any]], model: Any) -> dict[str, Rollout]:
    """The failed samples of a problem by id, those left out whose tokens are not what they were."""
    rollouts = {}
    for attempt in attempts:
        verdict = attempt["verdict"]
        if attempt["operator"] != SAMPLE or verdict is None or verdict["value"] != "failed":
            continue
        ids = model.encode(attempt["text"])
        if attempt["finish_reason"] == "stop":
            ids = np.append(ids, np.int32(model.end_token))
        if len(ids) == attempt["tokens"] > 0:
            rollouts[attempt["id"]] = Rollout(attempt["text"], ids, attempt["finish_reason"])
    return rollouts
