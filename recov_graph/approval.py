"""Asking a person before an intervention is paid."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from langgraph.runtime import Runtime
from langgraph.types import interrupt

from recov_graph.errors import InvalidInputError
from recov_graph.state import DecisionData
from recov_graph.words import short

LEGAL = "true to go ahead, false to go without it"
YES, NO = ("approve", "accept", "yes", "true"), ("reject", "ignore", "no", "false")


def approved(decision: DecisionData, prompt: str) -> bool:
    """Whether a person wants what was decided on; interrupts the graph until that is told.

    It goes on with ``Command(resume=True)`` or False. Understood as well are "approve" and
    "reject", a dictionary that has one of these as its "type", as LangChain's agents send it in a
    list of "decisions", and ``{"approve": True}``. What is not understood is asked again.
    """
    question: dict[str, Any] = {
        "type": "approval",
        "question": f"Try {decision['operator']}?",
        "operator": decision["operator"],
        "reason": decision["reason"],
        "expected_rescue": decision["expected_rescue"],
        "expected_cost": _cost(decision),
        "prompt": prompt,
        "answer_with": LEGAL,
    }
    while True:
        given = interrupt(question)
        answer = _understood(given)
        if answer is not None:
            return answer
        question = {**question, "not_understood": short(given)}


def refuse_without_thread(approve: Collection[str], runtime: Runtime[Any]) -> None:
    """Refuse to go on where no checkpointer would keep a question until it is answered.

    Raises:
        InvalidInputError: there is none.
    """
    execution = runtime.execution_info
    if approve and execution is not None and execution.thread_id is None:
        raise InvalidInputError(
            f"approve names {', '.join(sorted(approve))}, which a person approves, but there is "
            "no checkpointer to wait with: give create_recovery_graph, or the graph or agent "
            "around it, a checkpointer, and invoke with config={'configurable': {'thread_id': ...}}"
        )


def _cost(decision: DecisionData) -> int | None:
    """Tokens that the attempt decided on is expected to cost."""
    for candidate in decision["candidates"]:
        if candidate["operator"] == decision["operator"]:
            return int(candidate["expected_cost"])
    return None


def _understood(given: Any) -> bool | None:
    if isinstance(given, bool):
        return given
    if isinstance(given, str):
        word = given.strip().lower()
        return True if word in YES else False if word in NO else None
    if isinstance(given, list) and len(given) == 1:
        return _understood(given[0])
    if isinstance(given, Mapping):
        for key in ("decisions", "type", "approve", "approved", "value"):
            if key in given:
                return _understood(given[key])
    return None
