"""Making the attempt that was decided on, or the next best where that one turns out impossible."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

from recov_graph.budget import BudgetExhausted, MeteredModel
from recov_graph.errors import InvalidInputError, ModelError, NotScorableError
from recov_graph.evidence import lengths_of
from recov_graph.interventions.base import Attempt, Failure, Intervention, applies
from recov_graph.measuring import Measuring
from recov_graph.models.base import Capability, Model
from recov_graph.rollout import Rollout
from recov_graph.state import RecoveryState
from recov_graph.words import short


def intervene(
    state: RecoveryState,
    failure: Failure,
    meter: MeteredModel,
    *,
    interventions: Mapping[str, Intervention],
    measuring: Measuring,
) -> tuple[str, Attempt]:
    """The operator that was carried out, and its attempt.

    Raises:
        ModelError: no operator that was considered can be carried out, or a call failed.
        BudgetExhausted: the budget does not cover it.
    """
    for operator in _possible(state, failure, interventions, measuring):
        try:
            return operator, carried_out(interventions[operator], failure, meter)
        except NotScorableError as error:
            # Neither can it be for the others that have both models read along.
            measuring.give_up(state, error)
    why = measuring.why_not(state)
    if why is not None:
        raise NotScorableError(why)
    decision = state["route"][-1]
    if measuring.expected_cost(state) is not None:
        raise BudgetExhausted("the tokens left do not cover measuring what is to be repaired")
    if decision["operator"] not in interventions:
        raise ModelError(
            f"{decision['operator']!r}, which was decided on before, is not among the "
            f"interventions now: {', '.join(interventions) or 'none without approval'}"
        )
    raise ModelError(
        f"the traces that {decision['operator']!r} repairs are gone: arrays outlive a long "
        "pause or another process only in a store; give the graph one"
    )


def carried_out(one: Intervention, failure: Failure, model: Model) -> Attempt:
    """The attempt that an intervention makes.

    Raises:
        InvalidInputError: it gives back something else.
    """
    made = one.apply(failure, model)
    if isinstance(made, Attempt) and isinstance(made.rollout, Rollout):
        return made
    if inspect.iscoroutine(made):
        made.close()  # else Python warns that it was never awaited
    raise InvalidInputError(
        f"intervention {one.name!r} gave back {short(made)}; apply must be a plain method that "
        "returns an Attempt of a Rollout, such as Attempt(generation.rollouts[0])"
    )


def _possible(
    state: RecoveryState,
    failure: Failure,
    interventions: Mapping[str, Intervention],
    measuring: Measuring,
) -> Iterator[str]:
    """The operator decided on and the others that were considered, as far as they are possible.

    Asked anew after each, since what cannot be scored turns out on the way.
    """
    decision, lengths = state["route"][-1], lengths_of(state, measuring.model)
    ranked = (decision["operator"], *(c["operator"] for c in decision["candidates"]))
    for operator in dict.fromkeys(ranked):
        if operator not in interventions:  # none, or not without approval
            continue
        one = interventions[operator]
        measured = failure.traces or Capability.SCORE not in one.needs
        steered = Capability.STEP in one.needs and measuring.why_not(state) is not None
        if measured and not steered and applies(one, lengths):
            yield operator
