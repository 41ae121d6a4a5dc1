"""Recovery around any LangChain runnable: a chain, a chat model, a function, an agent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, cast

from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import coerce_to_runnable
from langchain_core.runnables.config import set_config_context
from langchain_core.runnables.utils import ConfigurableFieldSpec
from langgraph.errors import GraphBubbleUp, GraphInterrupt
from langgraph.runtime import get_runtime
from pydantic import BaseModel

from recov_graph.attempts import mark_of
from recov_graph.budget import Budget
from recov_graph.context import RecoveryContext
from recov_graph.errors import InvalidInputError
from recov_graph.graph import CompiledGraph, build_recovery_graph
from recov_graph.interventions import Intervention, resolve
from recov_graph.interventions.escalate import Escalate
from recov_graph.models.chat import chat_of
from recov_graph.models.runnables import prompt_of
from recov_graph.models.wrapped import UNDER_WAY, Invocation, Pauses, WrappedRunnable
from recov_graph.problem import Problem, as_problem
from recov_graph.routing import Policy, Router
from recov_graph.state import RecoveryOutput
from recov_graph.store import TraceStore
from recov_graph.threads import in_own_thread
from recov_graph.verifiers import Verdict, Verifier, as_verifier
from recov_graph.words import short, storable

STEPS_PER_ATTEMPT = 10  # more than the recovery graph takes

Ran = tuple[Invocation, RecoveryOutput]
ProblemOf = Callable[[Any], Problem | dict[str, Any] | str]


class Recovered(NamedTuple):
    """What a recovery ended with.

    Attributes:
        output: the best output of the runnable; None where none could be parsed.
        result: the recovery graph's output: solved, attempts, route, usage, stop_reason and more.
    """

    output: Any
    result: RecoveryOutput


def with_recovery(
    runnable: Any,
    verifier: Verifier | Any,
    *,
    router: Router | Policy | str | Path | None = None,
    interventions: Iterable[str | Intervention] | None = None,
    budget: Budget | None = None,
    store: TraceStore | str | Path | None = None,
    problem: ProblemOf | None = None,
    samples: int = 1,
    seed: int | None = None,
    name: str | None = None,
) -> Recovering:
    """A runnable with the recovery loop around it: same input, same output, fewer failures.

    The runnable is called and its output verified, as text. While it fails, the whole of it is
    called again: as it is (`retry`), or with the chat models inside it at a higher temperature
    (`temp_lift`), with a longer completion (`extend`), with an instruction after the last human
    message (`replan`), or with another chat model in their place (`escalate`). Chat models are
    found in sequences, parallel steps, branches, `assign`, bindings, `with_retry`, `map` and the
    first choice of fallbacks. What is inside a function, a compiled graph or a tool is not seen:
    a runnable without a chat model in sight is only retried.

    An output that its parser refuses is a failed attempt. Any other exception of the first call
    is raised as it was; one of a later call ends the recovery with the best output so far.

    An interrupt, of the runnable or of the verifier, passes to the graph around. When that
    resumes, its node is run again: calls made before are not made, nor paid, again, but give what
    they gave, so that an answer meets the output that the person was asked about. (A call that
    was itself interrupted is made again, and so is what the node does besides; the time that
    earlier calls took no longer counts.) They are kept in memory, of the latest 256 recoveries
    that were interrupted. In another process the recovery starts anew, and LangGraph hands the
    answers given so far to it: an output that nobody has seen may pass by the verdict on another.
    So resume in the same process, with the same input; or use `build_recovery_graph`'s graph as a
    node, whose attempts are in the checkpoint.

    Args:
        runnable: a runnable, or a function or dict that LangChain makes one of. What it does to
            the world, or to the thread of a checkpointer of its own, every attempt does again.
            Where LangChain keeps replies in a cache, a retry gets the one it got before.
        verifier: as for `recov_graph.graph.build_recovery_graph`, as are `router`,
            `interventions`, `budget`, `store` and `seed`.
        problem: makes what the verifier is asked about of an input: a `Problem`, a dict of its
            fields or a prompt. By default the prompt is the input's text: its last human message,
            its only text, or all of it as JSON.
        samples: calls before anything else is tried, one after the other, at least 1.
        name: what traces call it; by default the runnable's and its chat model's name.

    Raises:
        InvalidInputError: an argument of the wrong type or range, naming what is legal.
        PolicyError: the policy file cannot be used.
        StoreError: the store cannot be opened.
    """
    try:
        wrapped = coerce_to_runnable(runnable)
    except TypeError as error:
        raise InvalidInputError(
            f"runnable is {short(runnable)}; it must be a LangChain runnable such as a chain or "
            f"a chat model, a function, or a dict of these ({error})"
        ) from None
    if not (problem is None or callable(problem)):
        raise InvalidInputError(
            f"problem is {short(problem)}; it must be a function from an input to a problem"
        )
    if not (name is None or isinstance(name, str)):
        raise InvalidInputError(f"name is {name!r}; it must be text or None")
    model = WrappedRunnable(wrapped, name)
    graph = build_recovery_graph(
        model,
        _Judge(as_verifier(verifier)),
        router=router,
        interventions=_checked(interventions, model),
        budget=budget,
        store=store,
        samples=samples,
        temperature=model.temperature,
        max_new_tokens=model.max_tokens,
        seed=seed,
        kind="runnable",
    ).compile(checkpointer=False, name="recovery")
    steps = STEPS_PER_ATTEMPT * ((budget or Budget()).max_attempts + 1)
    return Recovering(wrapped, graph, steps, problem, name, seed)


class Recovering(Runnable[Any, Any]):
    """A runnable with the recovery loop around it; made by `with_recovery`."""

    def __init__(
        self,
        wrapped: Runnable[Any, Any],
        graph: CompiledGraph,
        steps: int,
        problem: ProblemOf | None,
        name: str | None,
        seed: int | None,
    ) -> None:
        self.wrapped = wrapped
        self.name = name
        self._graph = graph
        self._steps = steps
        self._problem_of = problem
        self._seed = seed
        self._pauses = Pauses()

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """The best output; an AIMessage tells in ``additional_kwargs["recovery"]`` how it ended.

        Raises:
            InvalidInputError: no problem can be made of the input, or the budget covers no call.
            Exception: what the first call raised, or why the best output cannot be parsed.
        """
        return self._call_with_config(cast(Any, self._output), input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As `invoke`; the runnable's own coroutines run on the caller's event loop."""
        return await self._acall_with_config(cast(Any, self._aoutput), input, config, **kwargs)

    def recover(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Recovered:
        """As `invoke`, with the recovery's own result; where no output can be parsed, with None."""
        done = self._call_with_config(cast(Any, self._recovered), input, config, **kwargs)
        return cast(Recovered, done)

    async def arecover(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Recovered:
        """As `ainvoke`, with the recovery's own result."""
        done = await self._acall_with_config(cast(Any, self._arecovered), input, config, **kwargs)
        return cast(Recovered, done)

    @property
    def InputType(self) -> type[Any]:  # noqa: N802 - LangChain's name
        """The wrapped runnable's."""
        return self.wrapped.InputType

    @property
    def OutputType(self) -> type[Any]:  # noqa: N802 - LangChain's name
        """The wrapped runnable's."""
        return self.wrapped.OutputType

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """The wrapped runnable's."""
        return self.wrapped.config_specs

    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """The wrapped runnable's."""
        return cast(type[BaseModel], self.wrapped.get_input_schema(config))

    def get_output_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """The wrapped runnable's."""
        return cast(type[BaseModel], self.wrapped.get_output_schema(config))

    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        """The name given, else the wrapped runnable's."""
        return self.wrapped.get_name(suffix, name=name or self.name)

    def _output(self, value: Any, config: RunnableConfig, **kwargs: Any) -> Any:
        return _parsed(*self._ran(value, config, **kwargs))

    async def _aoutput(self, value: Any, config: RunnableConfig, **kwargs: Any) -> Any:
        return _parsed(*await self._aran(value, config, **kwargs))

    def _recovered(self, value: Any, config: RunnableConfig, **kwargs: Any) -> Recovered:
        under_way, result = self._ran(value, config, **kwargs)
        return Recovered(_output(under_way, result), result)

    async def _arecovered(self, value: Any, config: RunnableConfig, **kwargs: Any) -> Recovered:
        under_way, result = await self._aran(value, config, **kwargs)
        return Recovered(_output(under_way, result), result)

    def _ran(self, value: Any, config: RunnableConfig, **kwargs: Any) -> Ran:
        under_way = Invocation(value, self._problem(value), config, kwargs)
        self._pauses.begin(under_way)
        return under_way, under_way.context().run(self._run, under_way)

    async def _aran(self, value: Any, config: RunnableConfig, **kwargs: Any) -> Ran:
        loop = asyncio.get_running_loop()
        under_way = Invocation(value, self._problem(value), config, kwargs, loop)
        self._pauses.begin(under_way)
        try:
            return under_way, await in_own_thread(under_way.context(), self._run, under_way)
        finally:
            under_way.stop()

    def _run(self, under_way: Invocation) -> RecoveryOutput:
        # The limit on steps is meant for the runnable; the budget is what ends the loop.
        config: RunnableConfig = {**under_way.config, "recursion_limit": self._steps}
        problem = {"problem": under_way.problem.model_dump()}
        context = self._context(under_way)
        try:
            result = self._graph.invoke(cast(Any, problem), config, context=context)
        except GraphInterrupt:
            under_way.paused = True
            raise
        finally:
            self._pauses.keep(under_way)
        return cast(RecoveryOutput, result)

    def _context(self, under_way: Invocation) -> RecoveryContext | None:
        """The context around, if meant for a recovery, and a seed: a router chooses as before."""
        if self._seed is not None or under_way.seed is None:
            return None
        around = get_runtime().context
        if not isinstance(around, RecoveryContext):
            return RecoveryContext(seed=under_way.seed)
        if around.seed is not None:
            return None
        return around.model_copy(update={"seed": under_way.seed})

    def _problem(self, value: Any) -> Problem:
        if self._problem_of is None:
            return as_problem(prompt_of(value) or " ")
        try:
            return as_problem(self._problem_of(value))
        except GraphBubbleUp:
            raise
        except Exception as error:
            raise InvalidInputError(
                f"problem={short(self._problem_of)} made no problem of the input {short(value)}: "
                f"{type(error).__name__}: {error}; it must return a Problem, a dict of its "
                "fields or a prompt"
            ) from error


class _Judge:
    """The verifier, spared what could not be parsed, and called from where the recovery was."""

    def __init__(self, verifier: Verifier) -> None:
        self.name = verifier.name
        self._verifier = verifier

    def __call__(self, problem: Problem, text: str) -> Verdict:
        """The verdict on an output's text."""
        under_way = UNDER_WAY.get()
        under_way.steps += 1
        if text in under_way.unparsed:
            return Verdict("failed", explanation=storable(str(under_way.unparsed[text])))
        with set_config_context(under_way.config) as context:
            return context.run(self._verifier, problem, text)


def _checked(
    interventions: Iterable[str | Intervention] | None, model: WrappedRunnable
) -> list[Intervention]:
    """The interventions to choose from, with a chat model in every one that is to be asked instead.

    Raises:
        InvalidInputError: one was chosen that has none, or has nothing to take the place of.
    """
    kept = []
    for one in resolve(interventions, model.capabilities).values():
        try:
            _check(one, model)
        except InvalidInputError:
            if interventions is not None:
                raise
            continue  # registered for other models
        kept.append(one)
    return kept


def _check(one: Intervention, model: WrappedRunnable) -> None:
    if not isinstance(one, Escalate):
        return
    if not model.chats:
        raise InvalidInputError(
            f"intervention {one.name!r} puts another model in the place of the chat models inside "
            f"the runnable, and none is in sight in {short(model.runnable)}; leave it out, or "
            "wrap a chain or a chat model"
        )
    chat_of(one.model)


def _parsed(under_way: Invocation, result: RecoveryOutput) -> Any:
    """The best attempt's output, or what was raised where that could not be parsed."""
    output, best = _output(under_way, result), result["best"]
    if best is not None and best["text"] in under_way.unparsed:
        raise under_way.unparsed[best["text"]]
    return output


def _output(under_way: Invocation, result: RecoveryOutput) -> Any:
    """The best attempt's output, which tells how the recovery ended where it can.

    None where it could not be parsed.
    """
    best = result["best"]
    if best is None:
        if under_way.raised is not None:
            raise under_way.raised
        raise InvalidInputError(
            f"the budget covers no call of the runnable: {result['error']}; give it a larger one"
        )
    text = best["text"]
    if text in under_way.unparsed:
        return None
    # An intervention of the user's may have changed the text.
    output = under_way.outputs.get(text, [*under_way.outputs.values(), None][-1])
    if isinstance(output, AIMessage):
        kwargs = {**output.additional_kwargs, "recovery": mark_of(result)}
        output = output.model_copy(update={"additional_kwargs": kwargs})
    return output
