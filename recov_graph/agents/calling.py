"""An agent's model calls: the plain ones noted, the others made as an intervention has them."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from langchain.agents.middleware import ExtendedModelResponse, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage
from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

from recov_graph.agents.answer import Answer
from recov_graph.agents.call import (
    AgentModel,
    Handler,
    answer_generation,
    described,
    is_final,
)
from recov_graph.agents.recovering import UnderWay
from recov_graph.budget import BudgetExhausted, Ledger, Made, MeteredModel
from recov_graph.conversation import asked_by
from recov_graph.intervening import carried_out
from recov_graph.interventions import Failure
from recov_graph.problem import Problem
from recov_graph.recent import Recent
from recov_graph.rollout import Rollout
from recov_graph.seeds import call_seed
from recov_graph.settings import Settings

PURPOSE = "agent"  # what the ledger calls the agent's own calls
MOST_PAUSED = 256


class Paused(NamedTuple):
    """What an intervention had been given when it was interrupted: it is not paid again."""

    made: dict[str, Made]
    responses: list[tuple[Rollout, ModelResponse[Any]]]


class Pauses:
    """Interventions that ask a person, by recovery; the oldest may be gone when they go on."""

    def __init__(self) -> None:
        self._paused: Recent[str, Paused] = Recent(MOST_PAUSED)

    def take(self, recovery_id: str) -> Paused:
        """What was kept, which it is no longer."""
        return self._paused.pop(recovery_id) or Paused({}, [])

    def keep(self, recovery_id: str, paused: Paused) -> None:
        """Keep this until the intervention is run again."""
        self._paused.put(recovery_id, paused)


def under_way(request: ModelRequest[Any]) -> UnderWay | None:
    """The recovery that a call of an agent's belongs to."""
    return cast("UnderWay | None", request.state.get("recovering"))


def noted(
    request: ModelRequest[Any],
    response: ModelResponse[Any],
    recovering: UnderWay,
    settings: Settings,
    started: float,
) -> ExtendedModelResponse[Any]:
    """A call that the agent made by itself, with its cost entered."""
    recovery = recovering["recovery"]
    usage = answer_generation(response, request).usage
    ledger = Ledger(settings.budget, recovery["recovery_id"], recovery["calls"])
    ledger.enter(ledger.new_id(), PURPOSE, usage, started)
    model = described(request, usage.prompt_tokens)
    return _extended(request, response, {**recovering, "model": model}, ledger.calls)


def intervened(
    request: ModelRequest[Any],
    handler: Handler,
    recovering: UnderWay,
    settings: Settings,
    pauses: Pauses,
) -> ExtendedModelResponse[Any]:
    """A call as the intervention decided on makes it.

    Where that fails, or the budget does not cover it, the agent is ended with its best answer.
    """
    recovery, data = recovering["recovery"], recovering["model"]
    problem = Problem.model_validate(recovery["current"])
    operator = recovery["route"][-1]["operator"]
    assert operator is not None
    name, paused = recovery["recovery_id"], pauses.take(recovery["recovery_id"])
    model = AgentModel(request, handler, problem.prompt, data)
    model.responses.extend(paused.responses)
    meter = MeteredModel(model, settings.budget, name, recovery["calls"], paused.made)
    model.tokens_left = lambda: meter.budget.tokens_left(meter.spent)
    failure = Failure(
        problem=problem,
        temperature=data["temperature"],
        max_tokens=data["max_tokens"],
        seed=call_seed(settings.seed, problem.id, len(recovery["attempts"])),
        focus=len(recovery["route"]) - 1,
    )
    try:
        made = carried_out(settings.interventions[operator], failure, meter)
        response = model.response_of(made.rollout)
    except GraphBubbleUp:
        pauses.keep(name, Paused(meter.made, model.responses))
        raise
    except Exception as error:
        exhausted = isinstance(error, BudgetExhausted)
        over = {
            "reason": "budget_exhausted" if exhausted else "model_error",
            "why": None if exhausted else f"{operator}: {type(error).__name__}: {error}",
        }
        best = Answer(**(recovering["best"] or {"messages": [AIMessage("")]}))
        # Structured as well, where answers are: an agent without tools would be called on else.
        response = ModelResponse([AIMessage(best.text)], best.structured)
        return _extended(request, response, {**recovering, "over": over}, meter.calls)
    return _extended(request, response, {**recovering, "details": made.details}, meter.calls)


def _extended(
    request: ModelRequest[Any],
    response: ModelResponse[Any],
    recovering: UnderWay,
    calls: dict[str, Any],
) -> ExtendedModelResponse[Any]:
    """The response, with what is to be remembered of the call."""
    recovery, model = recovering["recovery"], recovering["model"]
    read = [call["prompt_tokens"] for call in calls.values()][-1:]
    noted: UnderWay = {
        **recovering,
        "asked": asked_by(request.state["messages"]),
        "model": {**model, "prompt_tokens": read[0] if read else model["prompt_tokens"]},
        "recovery": {**recovery, "calls": {**recovery["calls"], **calls}},
        "answered": recovering["over"] is None and is_final(response),
    }
    return ExtendedModelResponse(response, Command(update={"recovering": noted}))
