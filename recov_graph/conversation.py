"""Conversations: the question in one, and another question in its place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage
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


def asked_by(messages: Sequence[BaseMessage]) -> str | None:
    """The id of the last human message; None where there is none."""
    index = last_human(messages)
    return None if index is None else messages[index].id


def asked_otherwise(messages: Sequence[BaseMessage], before: str, now: str) -> list[Any]:
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
        text = [*content, {"type": "text", "text": added.strip()}]
    changed: list[BaseMessage] = list(messages)
    changed[index] = messages[index].model_copy(update={"content": text})
    return changed


def _is_text(part: Any) -> bool:
    return isinstance(part, str) or part.get("type") == "text"


def text_of(output: Any) -> str:
    """An output as the text that is verified.

    Text is taken as it is, a message for its text, or its tool calls as JSON where it has none, a
    dict with messages for the last of them, a pydantic model or other data as JSON, anything else
    as it is printed.
    """
    if isinstance(output, dict) and isinstance(output.get("messages"), list):
        last = output["messages"][-1:]
        if last and isinstance(last[0], BaseMessage):
            output = last[0]
    if isinstance(output, BaseMessage):
        calls = getattr(output, "tool_calls", None) or []
        # Without the calls' ids, which differ whenever they are made.
        named = [{"name": call["name"], "args": call["args"]} for call in calls]
        text = str(output.text) or (_json(named) if named else "")
    elif isinstance(output, str):
        text = output
    elif output is None or isinstance(output, BaseModel | dict | list | tuple | int | float):
        text = _json(output)
    else:
        text = _json(output) if _is_record(output) else str(output)
    return storable(text)


def _json(value: Any) -> str:
    try:
        if isinstance(value, BaseModel):
            return value.model_dump_json()
        return json.dumps(_plain(value) if _is_record(value) else value, **_JSON)
    except Exception:  # keys that JSON has not, a circle, values that cannot be dumped
        return str(value)


def _plain(value: Any) -> Any:
    """A value that JSON has not as one that it has."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    return dataclasses.asdict(value) if _is_record(value) else str(value)


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


_JSON: dict[str, Any] = {"default": _plain, "ensure_ascii": False}
