"""A LangChain runnable as a model: nothing but its outputs is seen, of an input under way."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import Future
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs, set_config_context
from langgraph.errors import GraphBubbleUp
from pydantic import ValidationError

from recov_graph.conversation import text_of
from recov_graph.errors import ModelError
from recov_graph.models.base import UNLIMITED, Capability, Generation
from recov_graph.models.black_box import InnerModel, Variation
from recov_graph.models.chat import (
    DEFAULT_TEMPERATURE,
    capabilities_of,
    finish_of,
    in_place_of,
    innermost,
    limit_of,
    name_of,
    temperature_of,
    with_decoding,
)
from recov_graph.models.runnables import (
    Spending,
    asked_with,
    chats_in,
    instructed,
    varied,
)
from recov_graph.problem import Problem
from recov_graph.rollout import Rollout, Usage
from recov_graph.words import storable


@dataclass
class Invocation:
    """An input on its way through the recovery graph: nodes see it by a context variable.

    Attributes:
        value: the input.
        problem: what was made of it.
        config: of the invocation; every call of the runnable is given it.
        options: further arguments of every call.
        loop: whose event loop the runnable is awaited on; None where it is called.
        outputs: by the text that each is verified as; of those with equal texts the first.
        unparsed: likewise, why outputs could not be parsed.
        raised: what the first call raised, where it was neither output nor unparsed.
    """

    value: Any
    problem: Problem
    config: RunnableConfig
    options: dict[str, Any]
    loop: asyncio.AbstractEventLoop | None = None
    outputs: dict[str, Any] = field(default_factory=dict)
    unparsed: dict[str, Exception] = field(default_factory=dict)
    raised: Exception | None = None
    _waiting: Future[Any] | None = None
    _stopped: bool = False

    def context(self) -> Context:
        """The caller's context, in which this is the invocation under way."""
        context = copy_context()
        context.run(UNDER_WAY.set, self)
        return context

    def call(self, runnable: Runnable[Any, Any], value: Any, spending: Spending) -> Any:
        """The runnable's output, as if it was called from where the recovery was."""
        # Nothing is to find the recovery graph in the context: to an interrupt or to a graph
        # inside, what is around is what is around the recovery.
        with set_config_context(self.config) as context:
            config = context.run(merge_configs, self.config, {"callbacks": [spending]})
            if self.loop is None:
                return context.run(runnable.invoke, value, config, **self.options)
            if self._stopped:
                raise ModelError("the invocation was cancelled")
            coroutine = runnable.ainvoke(value, config, **self.options)
            self._waiting = context.run(asyncio.run_coroutine_threadsafe, coroutine, self.loop)
            if self._stopped:  # in the meantime
                self._waiting.cancel()
            return self._waiting.result()

    def stop(self) -> None:
        """Nobody waits for the outcome any more."""
        self._stopped = True
        if self._waiting is not None:
            self._waiting.cancel()


# What openai raises where a structured reply was cut; by name, since importing it takes a second.
CUT_REPLY = "LengthFinishReasonError"
UNDER_WAY: ContextVar[Invocation] = ContextVar("recov_graph_invocation")


class WrappedRunnable(InnerModel):
    """The runnable as a model: a prompt stands for the input under way.

    Attributes:
        temperature: what the first chat model inside samples at.
        max_tokens: the longest completion that any of them was given.
    """

    def __init__(self, runnable: Runnable[Any, Any], name: str | None) -> None:
        self.runnable = runnable
        self.chats = chats_in(runnable)
        sampled = [chat for chat in self.chats if Capability.TEMPERATURE in capabilities_of(chat)]
        self.temperature = temperature_of(sampled[0]) if sampled else DEFAULT_TEMPERATURE
        limits = [limit for limit in map(limit_of, self.chats) if limit < UNLIMITED]
        self.max_tokens = max(limits, default=UNLIMITED)
        default = runnable.get_name()
        if self.chats:  # one by itself goes by its own name, as it does elsewhere
            called = name_of(self.chats[0])
            default = called if innermost(runnable) else f"{default}({called})"
        can = frozenset({Capability.SAMPLE}).union(*map(capabilities_of, self.chats))
        super().__init__(storable(name or default), can)

    def call(self, variation: Variation) -> Generation:
        """The runnable's output for the input under way, as text."""
        under_way = UNDER_WAY.get()
        runnable, value = self._as_asked(variation, under_way)
        spending = Spending()
        try:
            output = under_way.call(runnable, value, spending)
        except GraphBubbleUp:
            raise
        except Exception as error:
            if not _unparsed(error):
                self._failed(error, under_way, spending)
            text = storable(str(getattr(error, "llm_output", None) or ""))
            if text not in under_way.outputs:
                under_way.unparsed.setdefault(text, error)
            output = text
            if type(error).__name__ == CUT_REPLY:
                spending.finish_reason = "length"
        else:
            text = text_of(output)
            under_way.outputs.setdefault(text, output)
            under_way.unparsed.pop(text, None)
        usage = spending.usage
        if not spending.calls:
            usage = Usage(self.prompt_length(variation.prompt), self.prompt_length(text))
        ended = finish_of(output) if isinstance(output, AIMessage) else spending.finish_reason
        tokens = np.zeros(0, np.int32)
        return Generation([Rollout(text, tokens, ended, written=usage.completion_tokens)], usage)

    def _failed(self, error: Exception, under_way: Invocation, spending: Spending) -> NoReturn:
        """Raise what the first call raised as it is, and of a later one what it had cost."""
        if not (under_way.outputs or under_way.unparsed):
            under_way.raised = error
            raise error
        raise ModelError(f"{type(error).__name__}: {error}", usage=spending.usage) from error

    def prompt_length(self, prompt: str) -> int:
        """About as many tokens as the text has; what else is sent is not known beforehand."""
        return count_tokens_approximately([HumanMessage(prompt)])

    def _as_asked(
        self, variation: Variation, under_way: Invocation
    ) -> tuple[Runnable[Any, Any], Any]:
        """The runnable and its input, changed as little as the variation wants."""
        usual = under_way.problem.prompt
        added = ""
        if variation.prompt != usual:
            added = variation.prompt.removeprefix(usual).strip()

        def change(chat: BaseChatModel) -> Runnable[Any, Any]:
            asked = self._decoded(chat, variation)
            return instructed(asked, added) if added else asked

        if self.chats:
            return varied(self.runnable, change), under_way.value
        return self.runnable, asked_with(under_way.value, added) if added else under_way.value

    def _decoded(self, chat: BaseChatModel, variation: Variation) -> Runnable[Any, Any]:
        """The chat model, or the one in its place, as it is to be sampled from."""
        if variation.model is not None:
            return in_place_of(variation.model, variation.temperature, variation.max_tokens)
        temperature = variation.temperature
        if temperature == self.temperature:
            temperature = temperature_of(chat)  # each its own, where there are several
        limit = own = limit_of(chat)
        if variation.max_tokens < self.max_tokens:
            limit = min(own, variation.max_tokens)
        elif own < UNLIMITED:
            limit = math.ceil(own * variation.max_tokens / self.max_tokens)
        return with_decoding(chat, temperature, UNLIMITED if limit == own else limit)


def _unparsed(error: Exception) -> bool:
    """Whether an error says that a reply could not be parsed: the attempt failed, not the call."""
    return (
        isinstance(error, OutputParserException | ValidationError)
        or type(error).__name__ == CUT_REPLY
    )
