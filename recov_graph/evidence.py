"""What a router is asked about a problem under way."""

from __future__ import annotations

import math
from collections.abc import Mapping

from recov_graph.attempts import SAMPLE, failed_samples
from recov_graph.budget import MeteredModel
from recov_graph.errors import InvalidInputError
from recov_graph.interventions.base import Intervention, Lengths, applies
from recov_graph.measuring import Measuring
from recov_graph.models.base import Capability, Model, overhead_of
from recov_graph.rollout_features import features_from
from recov_graph.routing.decision import Evidence
from recov_graph.seeds import SEEDS, call_seed
from recov_graph.state import RecoveryState


def lengths_of(state: RecoveryState, model: Model) -> Lengths:
    """What the cost of an attempt at the problem is foreseen by: its failed samples."""
    failed = failed_samples(state)
    return Lengths(
        prompt=model.prompt_length(state["current"]["prompt"]),
        completion=sum(attempt["tokens"] for attempt in failed) // max(1, len(failed)),
        truncated=sum(attempt["finish_reason"] == "length" for attempt in failed),
        stride=overhead_of(model).stride,
    )


def evidence_of(
    state: RecoveryState,
    *,
    model: Model,
    interventions: Mapping[str, Intervention],
    measuring: Measuring,
    meter: MeteredModel,
    seed: int | None,
) -> Evidence:
    """The state as a router sees it, with what the budget of the meter still allows."""
    problem, failed = state["current"], failed_samples(state)
    lengths = lengths_of(state, model)
    can, once = model.capabilities, 0
    if not measuring.traces(state):
        scoring = measuring.expected_cost(state)
        if scoring is None:
            can = can - {Capability.SCORE}
        once = scoring or 0
    if measuring.why_not(state) is not None:
        can = can - {Capability.STEP}
    possible = {
        name: one
        for name, one in interventions.items()
        if one.needs <= can and applies(one, lengths)
    }
    features = state["features"]
    step = len(state["route"])
    return Evidence(
        model=model.name,
        task=problem["task"],
        features=None if features is None else features_from(features),
        failed_samples=len(failed),
        # As carried out, not as decided on: what turned out impossible gave way to another.
        tried=[one["operator"] for one in state["attempts"] if one["operator"] != SAMPLE],
        costs={name: _cost(one, lengths) for name, one in possible.items()},
        attempts_left=meter.budget.max_attempts - len(state["attempts"]),
        tokens_left=meter.budget.tokens_left(meter.spent),
        draw=call_seed(seed, f"{problem['id']}/choice", step) / SEEDS,
        once={
            name: once for name, one in possible.items() if once and Capability.SCORE in one.needs
        },
    )


def _cost(one: Intervention, lengths: Lengths) -> int:
    try:
        cost = one.expected_cost(lengths)
    except TypeError as error:
        raise InvalidInputError(
            f"expected_cost of intervention {one.name!r} cannot be called with the lengths: {error}"
        ) from error
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost < math.inf:
        raise InvalidInputError(
            f"expected_cost of intervention {one.name!r} is {cost!r}; it must be a number of "
            "tokens of at least 0"
        )
    return math.ceil(cost)
