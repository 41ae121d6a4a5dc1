"""What the middleware keeps in an agent's state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware import AgentState
from langchain.agents.middleware.types import OmitFromInput, OmitFromOutput, PrivateStateAttr
from langchain_core.messages import AnyMessage
from typing_extensions import TypedDict

from recov_graph.agents.call import ModelData
from recov_graph.conversation import asked_by
from recov_graph.state import RecoveryState


class UnderWay(TypedDict, total=False):
    """A recovery under way, between the nodes of an agent.

    Attributes:
        recovery: what was tried, as in the recovery graph.
        asked: id of the last human message, as far as the agent got.
        model: of the agent, once it was called.
        charged: entries of the ledger that attempts were made of already.
        pending: whether an intervention was decided on that has given no answer yet.
        approved: whether a person approved it.
        answered: whether the model's last call gave a final answer.
        details: how the intervention was carried out.
        best: the best answer so far, as an `Answer`'s fields.
        over: why no further attempt can be made: a stop reason, and words.
    """

    recovery: RecoveryState
    asked: str | None
    model: ModelData
    charged: int
    pending: bool
    approved: bool
    answered: bool
    details: dict[str, Any]
    best: dict[str, Any] | None
    over: dict[str, Any] | None


def is_left_over(recovering: UnderWay, messages: Sequence[AnyMessage]) -> bool:
    """Whether a recovery is of an earlier question.

    An agent that failed leaves one behind, and other middleware may end the next invocation
    before ours has taken up its question.
    """
    asked = recovering["asked"]
    if recovering["answered"] or asked == asked_by(messages):
        return False
    return asked in [message.id for message in messages]


class RecoveryAgentState(AgentState[Any]):
    """What the middleware adds to an agent's state.

    Attributes:
        problem: the fields of a `recov_graph.Problem`, such as the answer that the verifier
            compares with; by default the prompt is the last human message.
        recovery: what became of the answer, as the recovery graph's output; see
            `recov_graph.state.RecoveryOutput`.
    """

    problem: NotRequired[Annotated[dict[str, Any] | None, OmitFromOutput]]
    recovery: NotRequired[Annotated[dict[str, Any] | None, OmitFromInput]]
    recovering: NotRequired[Annotated[UnderWay | None, PrivateStateAttr]]
