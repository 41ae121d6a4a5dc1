"""An agent's final answer: what it is, and how one takes another's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage, AnyMessage, RemoveMessage

from recov_graph.conversation import last_human, text_of


class Answer(NamedTuple):
    """A final answer.

    Attributes:
        messages: the model's message, and where it is structured the tool message after it.
        structured: the structured response; None where there is none.
    """

    messages: list[AnyMessage]
    structured: Any = None

    @property
    def text(self) -> str:
        """What the verifier is shown."""
        return text_of(self.messages[0] if self.structured is None else self.structured)


def final_answer(state: Mapping[str, Any]) -> Answer | None:
    """What an agent ended with; None where that is no message of a model's."""
    messages: Sequence[AnyMessage] = state["messages"]
    structured = state.get("structured_response")
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if isinstance(message, AIMessage):
            ended = structured is not None or (
                index == len(messages) - 1 and not message.tool_calls
            )
            return Answer(list(messages[index:]), structured) if ended else None
    return None


def marked(answer: Answer, mark: dict[str, Any]) -> list[AnyMessage]:
    """The answer's messages, the first with a mark; copies, with the same ids."""
    first, *rest = answer.messages
    noted = {**first.additional_kwargs, "recovery": mark}
    return [first.model_copy(update={"additional_kwargs": noted}), *rest]


def taken_back(messages: Sequence[AnyMessage], answer: Answer, *, from_start: bool) -> list[Any]:
    """What removes an answer from a conversation, or all that was done since the question."""
    begin = last_human(messages) if from_start else None
    removed = answer.messages if begin is None else messages[begin + 1 :]
    return [RemoveMessage(id=message.id) for message in removed if message.id]
