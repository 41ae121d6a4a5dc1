"""Measuring, beside the loop, the failures that its router did without the features of.

What a router does not need is not paid for. A picture of all failures, and a policy fitted from
them, want the features all the same: where a model runs on the spot they are measured afterwards,
charged to no problem, as what retry alone would have done is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recov_graph.attempts import SAMPLE
from recov_graph.batch import Batch
from recov_graph.figures import first_failed
from recov_graph.models.base import Capability, Model
from recov_graph.problem import Problem
from recov_graph.rollout import Rollout
from recov_graph.scoring import scored_rollouts
from recov_graph.store import TraceStore
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
    if Capability.SCORE not in model.capabilities or not hasattr(model, "encode"):
        return 0
    rollouts = _failed(output, model) if first_failed(output) else {}
    if output["features"] is not None or not rollouts:
        return 0
    scored = scored_rollouts(model, problem.prompt, rollouts)
    store.write_traces({name: measure(one, temperature) for name, one in scored.items()})
    return len(scored)


def _failed(output: dict[str, Any], model: Any) -> dict[str, Rollout]:
    """The failed samples of a problem by id, those left out whose tokens are not what they were."""
    rollouts = {}
    for attempt in output["attempts"]:
        verdict = attempt["verdict"]
        if attempt["operator"] != SAMPLE or verdict is None or verdict["value"] != "failed":
            continue
        ids = model.encode(attempt["text"])
        if attempt["finish_reason"] == "stop":
            ids = np.append(ids, np.int32(model.end_token))
        if len(ids) == attempt["tokens"] > 0:
            rollouts[attempt["id"]] = Rollout(attempt["text"], ids, attempt["finish_reason"])
    return rollouts
