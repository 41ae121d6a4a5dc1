"""What is inside a LangChain runnable and what passes through it: chat models, texts, costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, convert_to_messages
from langchain_core.outputs import LLMResult
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import (
    Runnable,
    RunnableAssign,
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase, RunnableEachBase

from recov_graph.conversation import asked_otherwise, text_of
from recov_graph.models.chat import generation_of, settled
from recov_graph.rollout import FinishReason, Usage
from recov_graph.words import storable

AnyRunnable = Runnable[Any, Any]


def varied(runnable: AnyRunnable, change: Callable[[BaseChatModel], AnyRunnable]) -> AnyRunnable:
    """The runnable with every chat model in sight replaced by what `change` makes of it.

    Nothing is changed in place; where `change` gives back what it is given, so does this. What is
    bound around a chat model stays around it.
    """

    def inside(part: AnyRunnable) -> AnyRunnable:
        return varied(part, change)

    if isinstance(runnable, BaseChatModel):
        return change(runnable)
    runnable = settled(runnable)
    if isinstance(runnable, RunnableBindingBase | RunnableEachBase):
        return _with(runnable, bound=inside(runnable.bound))
    if isinstance(runnable, RunnableSequence):
        return _with(
            runnable,
            first=inside(runnable.first),
            middle=_same_or([inside(step) for step in runnable.middle], runnable.middle),
            last=inside(runnable.last),
        )
    if isinstance(runnable, RunnableParallel):
        steps = {name: inside(step) for name, step in runnable.steps__.items()}
        changed = any(step is not runnable.steps__[name] for name, step in steps.items())
        return _with(runnable, steps__=steps if changed else runnable.steps__)
    if isinstance(runnable, RunnableAssign):
        return _with(runnable, mapper=inside(runnable.mapper))
    if isinstance(runnable, RunnableWithFallbacks):
        return _with(runnable, runnable=inside(runnable.runnable))
    if isinstance(runnable, RunnableBranch):
        chosen = [inside(branch) for _, branch in runnable.branches]
        if all(new is old for new, (_, old) in zip(chosen, runnable.branches, strict=True)):
            return _with(runnable, default=inside(runnable.default))
        conditions = [condition for condition, _ in runnable.branches]
        return _with(
            runnable,
            branches=list(zip(conditions, chosen, strict=True)),
            default=inside(runnable.default),
        )
    return runnable


def chats_in(runnable: AnyRunnable) -> list[BaseChatModel]:
    """The chat models in sight, in order."""
    found: list[BaseChatModel] = []

    def note(chat: BaseChatModel) -> BaseChatModel:
        found.append(chat)
        return chat

    varied(runnable, note)
    return found


def instructed(chat: AnyRunnable, instruction: str) -> AnyRunnable:
    """A chat model whose last human message has an instruction after it."""

    def ask(value: Any, config: RunnableConfig, **options: Any) -> Any:
        return chat.invoke(asked_with(value, instruction), config, **options)

    async def ask_async(value: Any, config: RunnableConfig, **options: Any) -> Any:
        return await chat.ainvoke(asked_with(value, instruction), config, **options)

    # A function and not a sequence: a sequence would give what is bound to its first step.
    return RunnableLambda(ask, ask_async, name="instructed")


def asked_with(value: Any, instruction: str) -> Any:
    """An input with an instruction after its last human message; the input itself stays as it is.

    One that has neither text nor messages is given back.
    """
    if isinstance(value, str):
        return f"{value}\n\n{instruction}"
    if isinstance(value, dict) and "messages" in value:
        return {**value, "messages": asked_with(value["messages"], instruction)}
    if isinstance(value, BaseMessage):
        return asked_with([value], instruction)[0]
    messages = messages_of(value)
    if messages is None:
        return value
    return asked_otherwise(messages, "", f"\n\n{instruction}")


def messages_of(value: Any) -> list[BaseMessage] | None:
    """What a chat model would take an input for, in a list of its own; None where that fails."""
    if isinstance(value, PromptValue):
        return list(value.to_messages())
    if isinstance(value, BaseMessage):
        return [value]
    if not isinstance(value, list | tuple):
        return None
    try:
        return list(convert_to_messages(value))
    except Exception:  # a list of something else
        return None


def prompt_of(value: Any) -> str:
    """What an input asks: its last human message, its only text, or all of it as JSON."""
    if isinstance(value, dict) and "messages" in value:
        value = value["messages"]
    if isinstance(value, dict):
        texts = [item for item in value.values() if isinstance(item, str)]
        return storable(texts[0]) if len(texts) == 1 else text_of(value)
    asked = [m for m in messages_of(value) or () if isinstance(m, HumanMessage)]
    return storable(str(asked[-1].text)) if asked else text_of(value)


class Spending(BaseCallbackHandler):
    """Sums up what the models called within one invocation cost.

    Attributes:
        calls: how many answered.
        usage: their tokens, as they tell them, or about that.
        finish_reason: how the last answer ended.
    """

    run_inline = True  # so that nothing is summed up after the invocation has ended

    def __init__(self) -> None:
        self.calls = 0
        self.usage = Usage()
        self.finish_reason: FinishReason = "stop"
        self._asked: dict[UUID, Sequence[BaseMessage]] = {}
        self._lock = Lock()

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **_: Any,
    ) -> None:
        """Note what was asked."""
        self._asked[run_id] = messages[0]

    def on_llm_start(
        self, serialized: dict[str, Any], prompts: list[str], *, run_id: UUID, **_: Any
    ) -> None:
        """Note what was asked."""
        self._asked[run_id] = [HumanMessage(prompts[0])]

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Count the answer."""
        answer = response.generations[0][0]
        reply = getattr(answer, "message", None)
        if not isinstance(reply, AIMessage):  # a model of texts
            reply = AIMessage(answer.text)
        made = generation_of(reply, self._asked.pop(run_id, ()))
        with self._lock:
            self.calls += 1
            self.usage += made.usage
            self.finish_reason = made.rollouts[0].finish_reason


def _with(part: Any, **fields: Any) -> AnyRunnable:
    """A copy with other fields, or the same where they are."""
    same = all(getattr(part, name) is value for name, value in fields.items())
    return cast(AnyRunnable, part if same else part.model_copy(update=fields))


def _same_or(new: list[AnyRunnable], old: list[AnyRunnable]) -> list[AnyRunnable]:
    return old if all(a is b for a, b in zip(new, old, strict=True)) else new
