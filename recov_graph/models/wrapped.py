"""A LangChain runnable as a model: nothing but its outputs is seen, of an input under way."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import numpy as np
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs, set_config_context
from langgraph.errors import GraphBubbleUp
from langgraph.runtime import get_runtime
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
    scaled_limit,
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
from recov_graph.recent import Recent
from recov_graph.rollout import Rollout, Usage
from recov_graph.seeds import SEEDS
from recov_graph.words import storable

KEPT_PAUSES = 256
COUNTED_NODES = 4096
# Of LangGraph, for what runs inside a node: by them a graph or a task finds its checkpoint again.
SCRATCHPAD = "__pregel_scratchpad"
COUNTERS = ("subgraph_counter", "call_counter")

Key = tuple[Any, ...]


class Made(NamedTuple):
    """A call of the runnable: how it was asked, and what it gave.

    One without spending gave nothing that can be given again: it was itself interrupted.
    """

    asked: tuple[Any, ...]
    spending: Spending | None = None
    output: Any = None
    error: Exception | None = None
    counted: tuple[int, ...] = ()


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
        key: which recovery it is of a node with a checkpointer around; None outside of one.
        seed: of the router's choices, the same when that node is run again; likewise.
        calls: of the runnable, in order, those before an interrupt included.
        paused: whether it was ever interrupted.
        steps: calls and verdicts so far.
    """

    value: Any
    problem: Problem
    config: RunnableConfig
    options: dict[str, Any]
    loop: asyncio.AbstractEventLoop | None = None
    outputs: dict[str, Any] = field(default_factory=dict)
    unparsed: dict[str, Exception] = field(default_factory=dict)
    raised: Exception | None = None
    key: Key | None = None
    seed: int | None = None
    calls: list[Made] = field(default_factory=list)
    paused: bool = False
    steps: int = 0
    _called: int = 0
    _waiting: Future[Any] | None = None
    _stopped: bool = False

    def context(self) -> Context:
        """The caller's context, in which this is the invocation under way."""
        context = copy_context()
        context.run(UNDER_WAY.set, self)
        return context

    @property
    def stopped(self) -> bool:
        """Whether nobody waits for the outcome."""
        return self._stopped

    def made(self, asked: tuple[Any, ...], call: Callable[[Spending], Any]) -> Made:
        """A call and what it gave: the same again where it was made before an interrupt."""
        self.steps += 1
        at, self._called = self._called, self._called + 1
        before = self.calls[at] if at < len(self.calls) else None
        if before is not None and before.asked != asked:
            del self.calls[at:]  # this time it went another way
            before = None
        if before is not None and before.spending is not None:
            self._count_on(before.counted)
            return before
        if before is None:
            self.calls.append(Made(asked))
        started, spending = self._counts(), Spending()
        output, error = None, None
        try:
            output = call(spending)
        except GraphBubbleUp:
            raise
        except Exception as raised:
            error = raised
        used = tuple(b - a + 1 for a, b in zip(started, self._counts(), strict=True))
        made = Made(asked, spending, output, error, used)
        # Where a person is asked, the answer has to be taken again whenever the node is run again:
        # LangGraph hands answers out by their order.
        if before is None:
            self.calls[at] = made
        return made

    def _counters(self) -> list[Callable[[], int]]:
        pad = None if self.key is None else self.config.get("configurable", {}).get(SCRATCHPAD)
        counters = (getattr(pad, name, None) for name in COUNTERS)
        return [counter for counter in counters if counter is not None]

    def _counts(self) -> tuple[int, ...]:
        """Where LangGraph's counters are; to ask moves them on by one."""
        return tuple(counter() for counter in self._counters())

    def _count_on(self, counted: tuple[int, ...]) -> None:
        """As if a call was made: what a later one runs is to find its own checkpoints."""
        for counter, times in zip(self._counters(), counted, strict=False):
            for _ in range(times):
                counter()

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


class Paused(NamedTuple):
    """What is kept of a recovery that was interrupted."""

    seed: int | None
    calls: tuple[Made, ...]


class Pauses:
    """What interrupted recoveries have paid for, to be had again when their nodes are run again.

    It is kept beyond a recovery's end: what comes after it in the node may be interrupted too,
    and then the node is run again from its start, with the answers that persons gave. Only the
    latest are kept.
    """

    def __init__(self, capacity: int = KEPT_PAUSES) -> None:
        self._paused: Recent[Key, Paused] = Recent(capacity)
        self._begun: Recent[Key, int] = Recent(COUNTED_NODES)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._paused)

    def begin(self, under_way: Invocation) -> None:
        """Give an invocation its place in the node around, and what it has paid for before."""
        place = _place()
        if place is None:
            return
        node, run = place
        recovery = (node, under_way.problem.id, under_way.problem.prompt)
        with self._lock:
            number = self._begun.get((recovery, run)) or 0  # of equal ones in the node
            self._begun.put((recovery, run), number + 1)
        under_way.key = (recovery, number)
        paused = self._paused.get(under_way.key)
        under_way.paused = paused is not None
        under_way.seed = secrets.randbelow(SEEDS)
        if paused is not None:
            under_way.seed, under_way.calls = paused.seed, list(paused.calls)

    def keep(self, under_way: Invocation) -> None:
        """Keep what an invocation has paid for, if it was ever interrupted.

        Of one that was cancelled, whose thread may end later than the next run of its node, what
        was kept before stays.
        """
        if under_way.key is None or not under_way.paused or under_way.stopped:
            return
        self._paused.put(under_way.key, Paused(under_way.seed, tuple(under_way.calls)))


def _place() -> tuple[Key, Key] | None:
    """What names the place in a checkpointed graph around, and the current run of its node.

    The first is the same when the node is run again after an interrupt.
    """
    execution = getattr(get_runtime(), "execution_info", None)
    if execution is None or execution.thread_id is None or not execution.checkpoint_ns:
        return None
    outer = UNDER_WAY.get(None)
    # A recovery inside another one: calls that the other does not repeat are not counted.
    within = None if outer is None or outer.key is None else (outer.key, outer.steps)
    node = (execution.thread_id, execution.checkpoint_ns, within)
    return node, (execution.node_first_attempt_time, execution.node_attempt)


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
        other = None if variation.model is None else variation.model.name
        made = under_way.made(
            (variation.prompt, variation.temperature, variation.max_tokens, other),
            lambda spending: under_way.call(runnable, value, spending),
        )
        output, error = made.output, made.error
        spending = made.spending or Spending()
        if error is not None:
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
        own = limit_of(chat)
        limit = scaled_limit(own, variation.max_tokens, self.max_tokens)
        return with_decoding(chat, temperature, UNLIMITED if limit == own else limit)


def _unparsed(error: Exception) -> bool:
    """Whether an error says that a reply could not be parsed: the attempt failed, not the call."""
    return (
        isinstance(error, OutputParserException | ValidationError)
        or type(error).__name__ == CUT_REPLY
    )
