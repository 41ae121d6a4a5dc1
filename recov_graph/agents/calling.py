"""An agent's model calls: the plain ones noted, the others made as an intervention has them."""

from __future__ import annotations

from typing import Any, cast

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
from recov_graph.agents.recovering import Recovering
from recov_graph.budget import BudgetExhausted, Ledger, MeteredModel
from recov_graph.interventions import Failure
from recov_graph.models.chat import UNLIMITED
from recov_graph.problem import Problem
from recov_graph.seeds import call_seed
from recov_graph.settings import Settings

PURPOSE = "agent"  # what the ledger calls the agent's own calls


def under_way(request: ModelRequest[Any]) -> Recovering | None:
    """The recovery that a call of an agent's belongs to."""
    return cast("Recovering | None", request.state.get("recovering"))


def noted(
    request: ModelRequest[Any],
    response: ModelResponse[Any],
    recovering: Recovering,
    settings: Settings,
    started: float,
) -> ExtendedModelResponse[Any]:
    """A call that the agent made by itself, with its cost entered."""
    recovery = recovering["recovery"]
    usage = answer_generation(response, request).usage
    ledger = Ledger(settings.budget, recovery["recovery_id"], recovery["calls"])
    ledger.enter(ledger.new_id(), PURPOSE, usage, started)
    model = described(request, usage.prompt_tokens)
    return _extended(response, {**recovering, "model": model}, ledger.calls)


def intervened(
    request: ModelRequest[Any], handler: Handler, recovering: Recovering, settings: Settings
) -> ExtendedModelResponse[Any]:
    """A call as the intervention decided on makes it.

    Where that fails, or the budget does not cover it, the agent is ended with its best answer.
    """
    recovery, data = recovering["recovery"], recovering["model"]
    problem = Problem.model_validate(recovery["current"])
    operator = recovery["route"][-1]["operator"]
    assert operator is not None
    model = AgentModel(request, handler, problem.prompt, data)
    meter = MeteredModel(model, settings.budget, recovery["recovery_id"], recovery["calls"])
    failure = Failure(
        problem=problem,
        temperature=data["temperature"],
        max_tokens=UNLIMITED,
        seed=call_seed(settings.seed, problem.id, len(recovery["attempts"])),
        focus=len(recovery["route"]) - 1,
    )
    try:
        made = settings.interventions[operator].apply(failure, meter)
    except GraphBubbleUp:
        raise
    except Exception as error:
        exhausted = isinstance(error, BudgetExhausted)
        over = {
            "reason": "budget_exhausted" if exhausted else "model_error",
            "why": None if exhausted else f"{operator}: {type(error).__name__}: {error}",
        }
        best = recovering["best"]
        text = Answer(**best).text if best else ""
        return _extended(
            ModelResponse(result=[AIMessage(text)]), {**recovering, "over": over}, meter.calls
        )
    return _extended(
        model.response_of(made.rollout), {**recovering, "details": made.details}, meter.calls
    )


def _extended(
    response: ModelResponse[Any], recovering: Recovering, calls: dict[str, Any]
) -> ExtendedModelResponse[Any]:
    """The response, with what is to be remembered of the call."""
    recovery = recovering["recovery"]
    noted: Recovering = {
        **recovering,
        "recovery": {**recovery, "calls": {**recovery["calls"], **calls}},
        "answered": recovering["over"] is None and is_final(response),
    }
    return ExtendedModelResponse(response, Command(update={"recovering": noted}))
