"""A chat model of LangChain that says what it was told to and records what it is asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, PrivateAttr

Reply = str | AIMessage | Exception | Callable[[list[BaseMessage]], Any]


class Seen(NamedTuple):
    """One call: what was sent, and what the model was set to.

    Attributes:
        messages: as the model got them.
        kwargs: all that was bound or passed, tools included.
        temperature: of the model, or of the copy of it that was called.
        max_tokens: likewise.
        tools: names of the tools bound.
        model_name: likewise.
    """

    messages: list[BaseMessage]
    kwargs: dict[str, Any]
    temperature: float | None
    max_tokens: int | None
    tools: list[str]
    model_name: str

    @property
    def text(self) -> str:
        """The texts of all messages, a line each."""
        return "\n".join(str(message.text) for message in self.messages)


class _Script:
    """What copies of a model have in common."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self.replies = list(replies)
        self.seen: list[Seen] = []
        self.lock = threading.Lock()


class ScriptedChat(BaseChatModel):
    """Says its replies in order; copies of it, such as at another temperature, share the script.

    Args:
        replies: what it says, one item a call: a text, a message (a copy of it with no id is
            sent), an exception to raise, or a function of the messages that gives one of these.
        repeat: whether the last is said over and over; else asking for more fails.
        tells_usage: whether a reply tells its cost: one token a character read and written. A
            message that tells its own is left as it is.
        seconds: how long every call takes.
    """

    replies: list[Any] = Field(default_factory=list)
    repeat: bool = False
    temperature: float | None = None
    max_tokens: int | None = None
    model_name: str = "scripted"
    tells_usage: bool = True
    seconds: float = 0.0
    _script: _Script = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        self._script = _Script(self.replies)

    @property
    def seen(self) -> list[Seen]:
        """All calls of this model and of its copies."""
        return self._script.seen

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, Any]:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        reply = self._next(messages, kwargs)
        if self.seconds:
            time.sleep(self.seconds)
        if callable(reply):
            reply = reply(messages)
        if isinstance(reply, Exception):
            raise reply
        message = AIMessage(reply) if isinstance(reply, str) else reply
        message = message.model_copy(update={"id": None}, deep=True)
        if self.tells_usage and message.usage_metadata is None:
            read = sum(len(str(sent.text)) for sent in messages)
            written = max(1, len(str(message.text)))
            message.usage_metadata = {
                "input_tokens": read,
                "output_tokens": written,
                "total_tokens": read + written,
            }
        # usage callbacks count by model name
        message.response_metadata.setdefault("model_name", self.model_name)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _next(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> Any:
        tools = [tool["function"]["name"] for tool in kwargs.get("tools") or ()]
        seen = Seen(
            [message.model_copy(deep=True) for message in messages],
            kwargs,
            self.temperature,
            self.max_tokens,
            tools,
            self.model_name,
        )
        script = self._script
        with script.lock:
            script.seen.append(seen)
            if not script.replies:
                raise AssertionError("the script has no reply left")
            if self.repeat and len(script.replies) == 1:
                return script.replies[0]
            return script.replies.pop(0)
