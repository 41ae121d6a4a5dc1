"""What follows from an agent's answer: it stands, or another attempt, or the best one so far."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.runtime import Runtime

from recov_graph.agents.answer import Answer, final_answer, marked, taken_back
from recov_graph.agents.call import ModelData, SeenModel
from recov_graph.agents.recovering import UnderWay
from recov_graph.attempts import SAMPLE, best_attempt, mark_of, new_attempt
from recov_graph.models.base import UNLIMITED
from recov_graph.models.chat import finish_of
from recov_graph.nodes import Nodes
from recov_graph.problem import Problem
from recov_graph.recorder import Recorder
from recov_graph.rollout import Rollout
from recov_graph.seeds import call_seed
from recov_graph.settings import Settings
from recov_graph.state import AttemptData, RecoveryOutput, RecoveryState
from recov_graph.store import TraceStore
from recov_graph.verifiers import Verdict, Verifier
from recov_graph.verifiers.verdict import Check

OUTPUT = tuple(name for name in RecoveryOutput.__annotations__ if name != "messages")
CUT_SHORT = "the agent was ended before it had answered again"
Changes = dict[str, Any]


def _not_structured(problem: Problem, text: str) -> Verdict:
    return Verdict("failed", explanation="the answer lacks the structure that was asked for")


UNSTRUCTURED = Check("structured", _not_structured)


class Judge:
    """Verifies answers, decides and records; as the recovery graph does, by the same nodes.

    Args:
        verifier: says whether an answer passes.
        store: where traces go, or None.
    """

    def __init__(self, verifier: Verifier, store: TraceStore | None) -> None:
        self.verifier, self.store = verifier, store
        self._recorders: dict[str, Recorder] = {}
        self._lock = threading.Lock()

    def judged(
        self,
        state: Mapping[str, Any],
        recovering: UnderWay,
        settings: Settings,
        runtime: Runtime[Any],
    ) -> Changes:
        """What changes once an agent has ended; with "jump_to" where it is to go on."""
        recovery, answer = recovering["recovery"], final_answer(state)
        if "model" not in recovering:  # it was never called: others ended the agent before
            return {"recovering": None}
        loose = recovering["model"]["structured"] and answer and answer.structured is None
        nodes = self._nodes(recovering["model"], settings, UNSTRUCTURED if loose else self.verifier)
        if was_refused(recovering):
            recovery = _with(recovery, nodes.classify(recovery, runtime))
        elif answer is None or not recovering["answered"]:
            if not recovery["attempts"]:
                return {"recovering": None}
            over = recovering["over"] or {"reason": "budget_exhausted", "why": CUT_SHORT}
            nodes.recorder.attempted(recovery["recovery_id"], [], recovery["calls"])
            recovery = _with(recovery, {"error": over["why"]})
            recovery = _with(recovery, nodes.finish(recovery, over["reason"], runtime))
        else:
            attempt = _attempt(recovering, answer, settings)
            recovery = self._tried(recovery, attempt, state["messages"], nodes, runtime)
            best = best_attempt(recovery["attempts"])
            if best is not None and best["id"] == attempt["id"]:
                recovering = {**recovering, "best": answer._asdict()}
            recovering = {**recovering, "charged": len(recovery["calls"])}
        recovering = {**recovering, "recovery": recovery}
        if recovery["stop_reason"]:
            return _ended(state, recovering, answer)
        return _goes_on(state, recovering, answer, settings)

    def _tried(
        self,
        recovery: RecoveryState,
        attempt: AttemptData,
        messages: Sequence[AnyMessage],
        nodes: Nodes,
        runtime: Runtime[Any],
    ) -> RecoveryState:
        """The recovery with one more attempt, judged in sight of the conversation, decided on."""
        recorder, name = nodes.recorder, recovery["recovery_id"]
        if not recovery["attempts"]:
            recorder.started(name, Problem.model_validate(recovery["current"]))
        recorder.attempted(name, [attempt], recovery["calls"])
        recovery = _with(recovery, {"attempts": [*recovery["attempts"], attempt]})
        problem = recovery["current"]
        seen = {**problem, "metadata": {"messages": list(messages), **problem["metadata"]}}
        verdict = nodes.verify(_with(recovery, {"current": seen}), runtime)
        recovery = _with(recovery, verdict)
        for node in (nodes.featurize, nodes.classify):
            if not recovery["stop_reason"]:
                recovery = _with(recovery, node(recovery, runtime))
        return recovery

    def _nodes(self, model: ModelData, settings: Settings, verifier: Verifier) -> Nodes:
        return Nodes(
            SeenModel(model),
            verifier,
            settings=settings,
            recorder=self._recorder(model["name"], settings),
            samples=1,
            max_new_tokens=UNLIMITED,
            open_problems=1,
        )

    def _recorder(self, model: str, settings: Settings) -> Recorder:
        """One run of the store for each model that the agent is seen to use."""
        with self._lock:
            if model not in self._recorders:
                self._recorders[model] = Recorder(
                    self.store,
                    kind="agent",
                    model=model,
                    verifier=self.verifier.name,
                    router=settings.router,
                    seed=settings.seed,
                )
            return self._recorders[model]


def given_up(state: Mapping[str, Any], recovering: UnderWay, error: Exception) -> Changes:
    """The answer as it is, unscored; where there is none at the moment, the best that there was."""
    mark = {"solved": False, "verdict": "unscored", "stop_reason": None}
    known = {name: recovering["recovery"].get(name) for name in OUTPUT}
    told = {**known, "solved": False, "stop_reason": None, "error": str(error)}
    changes: Changes = {"recovering": None, "recovery": told}
    answer = final_answer(state)
    if recovering["best"] is not None and not recovering["answered"]:
        return {**changes, **_put_back(state, answer, Answer(**recovering["best"]), mark)}
    if answer is not None:
        changes["messages"] = marked(answer, mark)
    return changes


def was_refused(recovering: UnderWay) -> bool:
    """Whether a person has just refused the intervention decided on."""
    recovery = recovering["recovery"]
    decided = [decision["operator"] for decision in recovery["route"][-1:]]
    return bool(decided) and recovery["refused"][-1:] == decided and not recovering["pending"]


def _attempt(recovering: UnderWay, answer: Answer, settings: Settings) -> AttemptData:
    """The agent's answer as an attempt, with what was spent since the last."""
    recovery = recovering["recovery"]
    position = len(recovery["attempts"])
    since = list(recovery["calls"].values())[recovering["charged"] :]
    decision = recovery["route"][-1] if recovering["pending"] else None
    message = cast(AIMessage, answer.messages[0])
    written = since[-1]["completion_tokens"] if since else 0
    return new_attempt(
        recovery["recovery_id"],
        position,
        SAMPLE if decision is None else cast(str, decision["operator"]),
        Rollout(answer.text, np.zeros(0, np.int32), finish_of(message), written=written),
        temperature=recovering["model"]["temperature"],
        seed=call_seed(settings.seed, recovery["current"]["id"], position),
        spent=sum(call["tokens"] for call in since),
        details=recovering.get("details") if decision else None,
    )


def _goes_on(
    state: Mapping[str, Any], recovering: UnderWay, answer: Answer | None, settings: Settings
) -> Changes:
    """The agent goes on with what was decided on, without the answer that failed."""
    operator = cast(str, recovering["recovery"]["route"][-1]["operator"])
    from_start = bool(getattr(settings.interventions[operator], "from_start", False))
    pending: UnderWay = {
        **recovering,
        "pending": True,
        "approved": False,
        "answered": False,
        "details": {},
    }
    changes: Changes = {"recovering": pending, "jump_to": "model"}
    if answer is not None:
        changes["messages"] = taken_back(state["messages"], answer, from_start=from_start)
    if state.get("structured_response") is not None:
        changes["structured_response"] = None
    return changes


def _ended(state: Mapping[str, Any], recovering: UnderWay, answer: Answer | None) -> Changes:
    """The best answer stands, marked."""
    recovery = recovering["recovery"]
    result = {name: recovery.get(name) for name in OUTPUT}
    changes: Changes = {"recovering": None, "recovery": result}
    if recovering["best"] is None:
        return changes
    best = Answer(**recovering["best"])
    return {**changes, **_put_back(state, answer, best, mark_of(recovery))}


def _put_back(
    state: Mapping[str, Any], answer: Answer | None, best: Answer, mark: dict[str, Any]
) -> Changes:
    """The best answer in the place of another, marked."""
    changes: Changes = {"messages": marked(best, mark)}
    if answer is not None and answer.messages[0].id != best.messages[0].id:
        changes["messages"][:0] = taken_back(state["messages"], answer, from_start=False)
    if best.structured is not None or state.get("structured_response") is not None:
        changes["structured_response"] = best.structured
    return changes


def _with(recovery: RecoveryState, changes: Changes) -> RecoveryState:
    return cast(RecoveryState, {**recovery, **changes})
