"""RecoveryMiddleware: an agent's final answer is verified, and routed where it fails."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from langchain.agents.middleware import (
    AgentMiddleware,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
    hook_config,
)
from langgraph.errors import GraphBubbleUp
from langgraph.runtime import Runtime

from recov_graph.agents.call import Handler
from recov_graph.agents.calling import Pauses, intervened, noted, under_way
from recov_graph.agents.judging import Judge, given_up
from recov_graph.agents.recovering import RecoveryAgentState, UnderWay, is_left_over
from recov_graph.approval import approved, refuse_without_thread
from recov_graph.budget import Budget
from recov_graph.context import RecoveryContext
from recov_graph.conversation import asked_by, question_of
from recov_graph.errors import InvalidInputError
from recov_graph.interventions import Escalate, Intervention, default_interventions
from recov_graph.models.base import Capability
from recov_graph.models.chat import DEFAULT_TEMPERATURE, chat_of
from recov_graph.problem import as_problem
from recov_graph.routing import Policy, Router
from recov_graph.settings import Settings, as_settings, as_store
from recov_graph.state import RecoveryState, new_recovery, new_recovery_id
from recov_graph.store import TraceStore
from recov_graph.threads import in_own_thread
from recov_graph.verifiers import Verifier, as_verifier

ATTEMPTS = 5
AGENT = frozenset({Capability.SAMPLE, Capability.TEMPERATURE, Capability.INSTRUCT})
log = logging.getLogger(__name__)


class RecoveryMiddleware(AgentMiddleware[RecoveryAgentState, Any, Any]):
    """Verifies an agent's final answer and, where it fails, routes the agent to another attempt.

    A failed answer is taken out of the conversation, and the agent goes on from where it was:
    sampled anew, at another temperature, asked for another approach or with a stronger model in
    its place (``Escalate(model)``), or not at all, and the best answer so far comes back. Tool
    calls that were made stay, with their results, and are not repeated; see `Restart`. The model
    never sees an answer that failed.

    The last message says what became of it, in ``additional_kwargs["recovery"]``, and so, at
    length, does ``"recovery"`` in the agent's output. Every attempt is a step of the agent's
    graph: it can be streamed, interrupted and resumed without paying a call again.

    Put it last among the agent's middleware, so that what others do at the end they do once; but
    before those that try a failed model call again or with another model, which see only the calls
    of those before them.

    Args:
        verifier: a `Verifier`, a callable ``(problem, text)`` or ``(text)``, or a name such as
            "json_schema"; text is the answer, or the structured response as JSON, and
            ``problem.metadata["messages"]`` the conversation with it, tool results included. One
            that raises leaves the answer as it is, marked "unscored". Where the agent has a
            `response_format`, an answer without that structure has failed.
        router: a `Router`, a `Policy` or the path of one; by default the activated policy, else
            the one that ships.
        interventions: names or objects to choose from; by default `retry`, `temp_lift`, `replan`,
            `extend` and those that users registered.
        budget: limits for each question, all of the agent's model calls counted; by default 5
            attempts.
        store: where traces go: a `TraceStore` or a path. None stores nothing.
        approve: names of interventions that a person approves, at an interrupt, before they are
            paid; needs a checkpointer.
        seed: makes the router's choices repeatable.

    Raises:
        InvalidInputError: an argument of the wrong type, or an intervention that an agent cannot
            carry out, naming what is legal.
        PolicyError: the policy file cannot be used.
        StoreError: the store cannot be opened.
    """

    state_schema = RecoveryAgentState

    def __init__(
        self,
        verifier: Verifier | Any,
        *,
        router: Router | Policy | str | Path | None = None,
        interventions: Iterable[str | Intervention] | None = None,
        budget: Budget | None = None,
        store: TraceStore | str | Path | None = None,
        approve: Iterable[str] = (),
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if interventions is None:  # those that others registered for other models do not matter
            interventions = list(legal_interventions().values())
        self.settings = as_settings(
            router,
            interventions,
            Budget(ATTEMPTS) if budget is None else budget,
            DEFAULT_TEMPERATURE,
            seed,
            approve,
            can=AGENT,
        )
        for one in self.settings.interventions.values():
            _refuse_impossible(one)
        self._judge = Judge(as_verifier(verifier), as_store(store))
        self._pauses = Pauses()

    def before_agent(
        self, state: RecoveryAgentState, runtime: Runtime[Any]
    ) -> dict[str, Any] | None:
        """Take up the question."""
        settings = self._settings(runtime)
        refuse_without_thread(settings.approve, runtime)
        given = state.get("problem")
        question = question_of(state["messages"])
        if not given and not (question and question.strip()):
            return {"recovering": None, "recovery": None}
        if given and not (isinstance(given, dict) and given.get("prompt")) and question:
            given = {**given, "prompt": question} if isinstance(given, dict) else given
        problem = as_problem(given or {"prompt": question})
        recovery = new_recovery(problem, new_recovery_id(runtime.execution_info))
        recovery["approve"] = sorted(settings.approve)
        recovering: UnderWay = {
            "recovery": recovery,
            "asked": asked_by(state["messages"]),
            "charged": 0,
            "pending": False,
            "answered": False,
            "best": None,
            "over": None,
        }
        return {"recovering": recovering, "recovery": None, "problem": None}

    @hook_config(can_jump_to=["end"])
    def before_model(
        self, state: RecoveryAgentState, runtime: Runtime[Any]
    ) -> dict[str, Any] | None:
        """Ask a person where the intervention decided on needs approval."""
        recovering = state.get("recovering")
        if not recovering or not recovering["pending"] or recovering["approved"]:
            return None
        recovery = recovering["recovery"]
        decision = recovery["route"][-1]
        chosen = decision["operator"]
        # What had to be approved at first has to be, whoever goes on: a context is not kept.
        approve = self._settings(runtime).approve.union(recovery["approve"])
        if chosen is None or chosen not in approve:
            return None
        if approved(decision, recovery["current"]["prompt"]):
            return {"recovering": {**recovering, "approved": True}}
        runtime.stream_writer({"type": "refused", "operator": chosen})
        refused: RecoveryState = {**recovery, "refused": [*recovery["refused"], chosen]}
        return {
            "recovering": {**recovering, "recovery": refused, "pending": False},
            "jump_to": "end",
        }

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Handler
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Make the agent's call, as the intervention under way has it."""
        recovering = under_way(request)
        if recovering is None:
            return handler(request)
        if recovering["pending"]:
            settings = self._settings(request.runtime)
            return intervened(request, handler, recovering, settings, self._pauses)
        started = time.monotonic()
        response = handler(request)
        return noted(request, response, recovering, self._settings(request.runtime), started)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """As `wrap_model_call`."""
        recovering = under_way(request)
        if recovering is None:
            return await handler(request)
        settings = self._settings(request.runtime)
        if not recovering["pending"]:
            started = time.monotonic()
            return noted(request, await handler(request), recovering, settings, started)
        # Interventions are plain functions: one runs in a thread, its calls on the agent's loop.
        loop = asyncio.get_running_loop()
        calls: list[concurrent.futures.Future[ModelResponse[Any]]] = []
        cancelled = threading.Event()

        async def called(varied: ModelRequest[Any]) -> ModelResponse[Any]:
            return await handler(varied)

        def waiting(varied: ModelRequest[Any]) -> ModelResponse[Any]:
            if cancelled.is_set():  # an intervention of several calls pays no further one
                raise concurrent.futures.CancelledError
            calls.append(asyncio.run_coroutine_threadsafe(called(varied), loop))
            return calls[-1].result()

        try:
            return await in_own_thread(
                contextvars.copy_context(),
                intervened,
                request,
                waiting,
                recovering,
                settings,
                self._pauses,
            )
        except asyncio.CancelledError:
            cancelled.set()
            for call in calls:
                call.cancel()
            raise

    @hook_config(can_jump_to=["model"])
    def after_agent(
        self, state: RecoveryAgentState, runtime: Runtime[Any]
    ) -> dict[str, Any] | None:
        """Judge the answer; where it fails, decide on another attempt or go back to the best."""
        recovering = state.get("recovering")
        if not recovering:
            return None
        if is_left_over(recovering, state["messages"]):
            return {"recovering": None, "recovery": None}
        # Our nodes take a context of ours; an agent's own means something else.
        own = runtime.override(context=_context(runtime))
        try:
            return self._judge.judged(state, recovering, self.settings, own)
        except GraphBubbleUp:
            raise
        except Exception as error:
            # A full disk or a router at fault is no reason to keep the answer from the user.
            log.warning("recovery ended: %s", error, exc_info=True)
            return given_up(state, recovering, error)

    def _settings(self, runtime: Runtime[Any]) -> Settings:
        """The settings, as the agent's context has them where that is a `RecoveryContext`."""
        return self.settings.changed_by(_context(runtime))


def _context(runtime: Runtime[Any]) -> RecoveryContext | None:
    return runtime.context if isinstance(runtime.context, RecoveryContext) else None


def legal_interventions() -> dict[str, Intervention]:
    """Those that are chosen from by default."""
    known = default_interventions(AGENT)
    return {name: one for name, one in known.items() if one.needs <= AGENT}


def _refuse_impossible(intervention: Intervention) -> None:
    """Refuse what an agent's model, which shows nothing but texts, cannot carry out."""
    missing = intervention.needs - AGENT
    if missing:
        raise InvalidInputError(
            f"{intervention.name!r} needs {', '.join(sorted(missing))} of the model, which an "
            f"agent does not offer; legal are {', '.join(legal_interventions())}, "
            "Escalate(model), Restart() and your own that need no more than "
            f"{', '.join(sorted(AGENT))}"
        )
    if isinstance(intervention, Escalate):
        chat_of(intervention.model)  # raises where it is reached by no chat model
