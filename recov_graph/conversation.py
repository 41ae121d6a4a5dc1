"""Conversations: the question in one, and another question in its place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage
from pydantic import BaseModel

from recov_graph.words import storable


def last_human(messages: Sequence[BaseMessage]) -> int | None:
    """Where the last human message is; None where there is none."""
    for index in range(len(messages) - 1, -1, -1):
        if isinstance(messages[index], HumanMessage):
            return index
    return None


def question_of(messages: Sequence[BaseMessage]) -> str | None:
    """The text of the last human message; None where there is none."""
    index = last_human(messages)
    return None if index is None else storable(str(messages[index].text))


def asked_otherwise(messages: Sequence[AnyMessage], before: str, now: str) -> list[AnyMessage]:
    """The messages with `now` asked by the last human one instead of `before`.

    What is only added to the question is added to the message, so that pictures and the like in it
    stay. The messages given are not changed.
    """
    added = now.removeprefix(before) if now.startswith(before) else None
    index = last_human(messages)
    if index is None:
        return [*messages, HumanMessage(now if added is None else added.strip())]
    content = messages[index].content
    text: str | list[Any]
    if isinstance(content, str):
        text = now if added is None else content + added
    elif added is None:
        text = [{"type": "text", "text": now}, *(part for part in content if not _is_text(part))]
    else:
        text = [*content, {"type": "text", "text": added}]
    changed = list(messages)
    changed[index] = messages[index].model_copy(update={"content": text})
    return changed


def _is_text(part: Any) -> bool:
    return isinstance(part, str) or part.get("type") == "text"


def text_of(output: Any) -> str:
    """An output as the verifier is shown it: a text as it is, anything with structure as JSON."""
    if isinstance(output, str):
        text = output
    elif isinstance(output, BaseMessage):
        text = str(output.text)
        if not text and isinstance(output, AIMessage) and output.tool_calls:
            text = _json(output.tool_calls)
    elif isinstance(output, BaseModel):
        text = output.model_dump_json()
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        text = _json(dataclasses.asdict(output))
    elif isinstance(output, dict | list | tuple | int | float | None):
        text = _json(output)
    else:
        text = str(output)
    return storable(text)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
