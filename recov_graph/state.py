"""The graph's state: plain data that any checkpointer can keep. Arrays live in the trace store."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID, uuid4, uuid5

from langchain_core.messages import AnyMessage
from langgraph.graph.message import add_messages
from langgraph.managed import RemainingSteps
from langgraph.runtime import ExecutionInfo
from pydantic import WithJsonSchema
from typing_extensions import TypedDict  # pydantic makes schemas of these only

from recov_graph.conversation import question_of
from recov_graph.errors import InvalidInputError
from recov_graph.problem import Problem, as_problem

NAMESPACE = UUID("2b9c8a52-6f0e-4a8e-9d57-6c0c5b2f1a34")  # of ids of problems under way
StopReason = Literal["solved", "out_of_reach", "budget_exhausted", "verifier_error", "model_error"]


class VerdictData(TypedDict):
    """A verdict as data."""

    value: Literal["passed", "failed", "unscored"]
    score: float | None
    answer: str | None
    explanation: str


class AttemptData(TypedDict):
    """One rollout and how it was judged.

    `operator` is "sample" for the first rollouts, else the intervention's name; `spent` are the
    tokens of the calls that made it, shared evenly among the first rollouts.
    """

    id: str
    position: int
    operator: str
    temperature: float
    seed: int
    text: str
    finish_reason: str
    tokens: int
    spent: int
    details: dict[str, Any]
    verdict: VerdictData | None


class DecisionData(TypedDict):
    """One decision of the router and what it was allowed; see `recov_graph.routing.Decision`."""

    id: str
    step: int
    operator: str | None
    regime: str
    probability: float
    expected_rescue: float
    candidates: list[dict[str, Any]]
    reason: str
    policy: str
    policy_hash: str
    attempts_left: int
    tokens_left: float | None
    measured: bool
    once: dict[str, int]


class ProblemInput(TypedDict, total=False):
    """A problem's fields."""

    # Data to the caller, with a form's labels in the schema.
    problem: Annotated[dict[str, Any], WithJsonSchema(Problem.model_json_schema())]


class MessagesInput(TypedDict, total=False):
    """Chat messages, of which the last human one is the prompt."""

    messages: Annotated[list[AnyMessage], add_messages]


class RecoveryInput(ProblemInput, MessagesInput, total=False):
    """Either of these."""


Inputs = Literal["either", "problem", "messages"]
INPUTS: dict[Inputs, type] = {
    "either": RecoveryInput,
    "problem": ProblemInput,
    "messages": MessagesInput,
}


class RecoveryOutput(TypedDict, total=False):
    """What a recovery ends with.

    Attributes:
        solved: whether an attempt passed.
        answer: the best attempt's answer, or its text where the verifier extracts none.
        best: the attempt that passed, else the best so far.
        regime: what kind of failure it was predicted to be; None where the first samples passed.
        stop_reason: why the recovery ended; None while it goes on.
        features: the problem's features: where the model can score, those of its tokens, or None
            where none were measured; else those of its first samples. Names tell which.
        route: the router's decisions in order.
        attempts: all rollouts in order.
        usage: tokens and seconds spent.
        error: what went wrong, for the stop reasons "model_error" and "verifier_error".
    """

    solved: bool
    answer: str | None
    best: AttemptData | None
    regime: str | None
    stop_reason: StopReason | None
    features: dict[str, float] | None
    route: list[DecisionData]
    attempts: list[AttemptData]
    usage: dict[str, Any]
    error: str | None
    messages: Annotated[list[AnyMessage], add_messages]


class RecoveryState(RecoveryOutput, total=False):
    """Everything between the nodes. Every node writes whole values, so nothing is ever doubled.

    `problem` is what the caller gives; `current` is the problem under way; `approve` are the
    interventions that a person is asked about, and `refused` those not approved.
    """

    problem: dict[str, Any] | None
    current: dict[str, Any]
    recovery_id: str
    approve: list[str]
    refused: list[str]
    remaining_steps: RemainingSteps
    calls: dict[str, dict[str, Any]]


def new_recovery_id(execution: ExecutionInfo | None) -> str:
    """An id for a problem: the same where its first node is run again after an interrupt."""
    if execution is None:
        return uuid4().hex
    return uuid5(NAMESPACE, f"{execution.checkpoint_id}/{execution.task_id}").hex


def new_recovery(problem: Problem, recovery_id: str) -> RecoveryState:
    """The state of a problem on which nothing was tried yet."""
    return {
        "problem": None,  # the next problem of this thread may come as messages
        "current": problem.model_dump(),
        "recovery_id": recovery_id,
        "attempts": [],
        "route": [],
        "refused": [],
        "calls": {},
        "features": None,
        "stop_reason": None,
        "error": None,
        # What the problem before it in a thread ended with.
        "solved": False,
        "answer": None,
        "best": None,
        "regime": None,
        "usage": {},
    }


def given_problem(state: RecoveryState) -> Problem:
    """The problem given, or the last human message as one."""
    if state.get("problem"):
        return as_problem(state["problem"])
    question = question_of(state.get("messages") or [])
    if question is not None:
        return as_problem({"prompt": question})
    raise InvalidInputError(
        "the input has neither a problem nor a human message; "
        "invoke with {'problem': {'prompt': ...}} or {'messages': [...]}"
    )
