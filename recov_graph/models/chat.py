"""Any chat model of LangChain as a model: nothing but texts, and what they cost."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.runnables import Runnable, RunnableBinding

from recov_graph.conversation import text_of
from recov_graph.errors import InvalidInputError, ModelReplyError
from recov_graph.models.base import (
    UNLIMITED,
    Capability,
    Decoding,
    Generation,
    Model,
    decoding_of,
)
from recov_graph.models.black_box import BlackBox, Variation
from recov_graph.rollout import FinishReason, Rollout, Usage
from recov_graph.signals import COLDEST
from recov_graph.words import short

DEFAULT_TEMPERATURE = 1.0  # of the APIs, where a chat model leaves it to them
CUT = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})

LIMITS = ("max_tokens", "max_output_tokens", "num_predict")  # what chat models call the longest
DECODING = ("temperature", *LIMITS)

Chat = Runnable[Any, Any]


class ChatModel(BlackBox):
    """A chat model of LangChain, of any provider, with or without parameters or tools bound.

    Args:
        chat: the chat model.
        name: part of the cell that failures are compared within; by default the model's name.

    Raises:
        InvalidInputError: it is none.
    """

    def __init__(self, chat: Chat, *, name: str | None = None) -> None:
        if innermost(chat) is None:
            raise InvalidInputError(
                f"chat is {short(chat)}; it must be a chat model of LangChain, such as a ChatOpenAI"
            )
        super().__init__(name or name_of(chat), capabilities_of(chat))
        self.chat = settled(chat)
        self._scale = 1.0  # tokens as the provider counts them, to one of our estimate

    @property
    def decoding(self) -> Decoding:
        """What the chat model was set to."""
        return Decoding(temperature_of(self.chat), limit_of(self.chat))

    def call(self, variation: Variation) -> Generation:
        """One rollout of one human message."""
        varied = with_decoding(self.chat, variation.temperature, variation.max_tokens)
        messages = [HumanMessage(variation.prompt)]
        reply = varied.invoke(messages)
        if not isinstance(reply, AIMessage):
            raise ModelReplyError(f"model {self.name!r} replied {short(reply)}, not an AIMessage")
        generation = generation_of(reply, messages)
        self._scale = generation.usage.prompt_tokens / count_tokens_approximately(messages)
        return generation

    def prompt_length(self, prompt: str) -> int:
        """About as many tokens as the prompt has, by what the last reply told of its own."""
        return math.ceil(self._scale * count_tokens_approximately([HumanMessage(prompt)]))


def chat_of(model: Model) -> Chat:
    """The chat model that a model is reached by.

    Raises:
        InvalidInputError: it is reached by none.
    """
    chat = getattr(model, "chat", None)
    if chat is None:  # an OpenAIModel has one at each of its endpoints
        chat = getattr(getattr(model, "specialist", None), "chat", None)
    if not isinstance(chat, Runnable):
        raise InvalidInputError(
            f"model {model.name!r} is reached by no chat model, so it cannot stand in for one; "
            "give 'openai:NAME' or a chat model of LangChain"
        )
    return chat


def innermost(chat: Any) -> BaseChatModel | None:
    """The chat model inside what `bind` and `bind_tools` make; None where there is none."""
    while isinstance(chat, RunnableBinding):
        chat = chat.bound
    return chat if isinstance(chat, BaseChatModel) else None


def name_of(chat: Chat) -> str:
    """What a chat model calls its model, else its class."""
    model = innermost(chat)
    for attribute in ("model_name", "model"):
        name = getattr(model, attribute, None)
        if isinstance(name, str) and name:
            return name
    return type(model or chat).__name__


def capabilities_of(chat: Chat, temperature: float | None = None) -> frozenset[Capability]:
    """What can be varied of a chat model that is called at a temperature, by default its own."""
    temperature = temperature_of(chat) if temperature is None else temperature
    can = {Capability.SAMPLE, Capability.INSTRUCT}
    # Other providers than OpenAI refuse more than their usual temperature, so none is left to lift.
    known = sys.modules.get("langchain_openai.chat_models.base")
    openai = known is not None and isinstance(innermost(chat), known.BaseChatOpenAI)
    if "temperature" in _fields(innermost(chat)) and (openai or temperature < DEFAULT_TEMPERATURE):
        can.add(Capability.TEMPERATURE)
    return frozenset(can)


def temperature_of(chat: Chat) -> float:
    """The decoding temperature that a chat model was given, else that of the usual APIs."""
    given = getattr(innermost(chat), "temperature", None)
    # Those who are given 0 are greedy; below this a temperature is none to us.
    return DEFAULT_TEMPERATURE if given is None else max(float(given), COLDEST)


def limit_of(chat: Chat) -> int:
    """The longest completion that a chat model was given."""
    model = innermost(chat)
    given = (getattr(model, name, None) for name in LIMITS)
    return next((one for one in given if isinstance(one, int) and one > 0), UNLIMITED)


def scaled_limit(own: int, asked: int, usual: int) -> int:
    """The longest completion of a chat model that was given `own`, where `asked` is in place of
    the `usual`: no longer than is asked for, or as many times as long.
    """
    if asked < usual:
        return min(own, asked)
    return own if own >= UNLIMITED else math.ceil(own * asked / usual)


def settled(chat: Chat) -> Chat:
    """The chat model with a temperature and a length that are bound to it as its own.

    What is bound would have its way, whatever the chat model is set to.
    """
    if not isinstance(chat, RunnableBinding):
        return chat
    bound = settled(chat.bound)
    fields = _fields(innermost(bound))
    own = {
        name: value for name, value in chat.kwargs.items() if name in DECODING and name in fields
    }
    if own:
        bound = _changed(bound, own)
    if bound is chat.bound:
        return chat
    kwargs = {name: value for name, value in chat.kwargs.items() if name not in own}
    return chat.model_copy(update={"bound": bound, "kwargs": kwargs})


def _fields(model: BaseChatModel | None) -> Collection[str]:
    return () if model is None else type(model).model_fields


def _changed(chat: Chat, fields: dict[str, Any]) -> Chat:
    """A copy of the chat model, in what is bound around it, with other fields."""
    if isinstance(chat, RunnableBinding):
        return chat.model_copy(update={"bound": _changed(chat.bound, fields)})
    return chat.model_copy(update=fields) if isinstance(chat, BaseChatModel) else chat


def in_place_of(model: Model, temperature: float, max_tokens: int) -> Chat:
    """The chat model of a model that takes another's place, as it is to be sampled from.

    At its own temperature and length, unless others are asked for; no longer than it was set to.

    Raises:
        InvalidInputError: it is reached by no chat model.
    """
    chat, usual = settled(chat_of(model)), decoding_of(model)
    if usual is not None and temperature == usual.temperature:
        temperature = temperature_of(chat)
    if usual is not None and max_tokens == usual.max_tokens:
        max_tokens = UNLIMITED
    own = limit_of(chat)
    return with_decoding(chat, temperature, max_tokens if max_tokens < own else UNLIMITED)


def with_decoding(chat: Chat, temperature: float, max_tokens: int) -> Chat:
    """The chat model with another temperature and length, as far as these differ and it has them.

    A copy: whoever else uses the chat model does not see it.
    """
    fields = _fields(innermost(chat))
    changed: dict[str, Any] = {}
    if "temperature" in fields and temperature != temperature_of(chat):
        changed["temperature"] = temperature
    limit = next((name for name in LIMITS if name in fields), None)
    if limit and max_tokens < UNLIMITED:
        changed[limit] = max_tokens
    return _changed(chat, changed) if changed else chat


def generation_of(reply: AIMessage, asked: Sequence[BaseMessage]) -> Generation:
    """A reply as the one rollout of a call; where it does not tell its cost, about that."""
    told = reply.usage_metadata
    usage = (
        Usage(max(0, told["input_tokens"]), max(0, told["output_tokens"]))
        if told
        else Usage(count_tokens_approximately(asked), count_tokens_approximately([reply]))
    )
    nothing = np.zeros(0, np.int32)
    return Generation(
        [Rollout(text_of(reply), nothing, finish_of(reply), written=usage.completion_tokens)], usage
    )


def finish_of(reply: AIMessage) -> FinishReason:
    """How a reply ended, as the provider tells it: "length" where it was cut."""
    told = reply.response_metadata
    reasons = (told.get(name) for name in ("finish_reason", "stop_reason", "done_reason"))
    return "length" if any(str(reason).lower() in CUT for reason in reasons) else "stop"
