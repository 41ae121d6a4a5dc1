"""Recovery around a runnable, seen from outside: what goes in, what comes out, what is called."""

from __future__ import annotations

import asyncio
import contextvars
import json
import operator
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    UsageMetadataCallbackHandler,
)
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from pydantic import BaseModel, ValidationError
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from recov_graph.budget import Budget
from recov_graph.context import RecoveryContext
from recov_graph.errors import InvalidInputError
from recov_graph.interventions import Attempt, register
from recov_graph.interventions.escalate import Escalate
from recov_graph.interventions.registry import unregister
from recov_graph.interventions.replan import INSTRUCTION
from recov_graph.models.base import Capability
from recov_graph.models.wrapped import Pauses
from recov_graph.problem import Problem
from recov_graph.routing.decision import Decision
from recov_graph.store import TraceStore
from recov_graph.verifiers import Verdict
from recov_graph.wrapping import Recovered, with_recovery
from tests.scripted_chat import ScriptedChat

PROMPT = ChatPromptTemplate.from_messages([("system", "You add."), ("human", "{sum}?")])


def says_42(_: Problem, text: str) -> bool:
    return "42" in text


def chat(*replies: Any, **fields: Any) -> ScriptedChat:
    return ScriptedChat(replies=list(replies), **fields)


def solved_after(model: ScriptedChat, *chosen: Any, **options: Any) -> AIMessage:
    """The output for a question, of a model that fails first."""
    wrapped = with_recovery(model, says_42, interventions=chosen or None, seed=0, **options)
    reply = wrapped.invoke("6*7?")
    assert isinstance(reply, AIMessage)
    return reply


class InTurn:
    """A router that chooses operators in turn, the last one over and over."""

    name = "in turn"
    content_hash = "0" * 16

    def __init__(self, *operators: str) -> None:
        self.operators = operators

    def decide(self, evidence: Any) -> Decision:
        operator = self.operators[min(len(evidence.tried), len(self.operators) - 1)]
        return Decision(operator, "sampling", 1.0, 0.5, (), "in turn")


# What comes out


def test_a_chain_keeps_its_input_and_output() -> None:
    model = chat("41", "it is 42")
    chain = PROMPT | model | StrOutputParser()
    wrapped = with_recovery(chain, says_42)
    assert wrapped.invoke({"sum": "6*7"}) == "it is 42"
    assert [len(call.messages) for call in model.seen] == [2, 2]


def test_what_passes_at_once_is_called_once() -> None:
    model = chat("42")
    output, result = with_recovery(model, says_42).recover("6*7?")
    assert (output.text, result["solved"], result["route"]) == ("42", True, [])
    assert len(model.seen) == 1
    assert output.additional_kwargs["recovery"] == {
        "solved": True,
        "stop_reason": "solved",
        "attempts": 1,
        "operator": "sample",
        "verdict": "passed",
    }


def test_a_message_tells_how_it_was_recovered_and_the_models_own_is_left_alone() -> None:
    first, second = AIMessage("41", additional_kwargs={"own": 1}), AIMessage("42")
    model = chat(first, second)
    reply = solved_after(model, "retry")
    assert reply.additional_kwargs["recovery"]["operator"] == "retry"
    assert "recovery" not in second.additional_kwargs


def test_the_models_object_is_not_changed() -> None:
    made = AIMessage("42")
    reply = with_recovery(lambda _: made, says_42).invoke("6*7?")
    assert reply is not made
    assert made.additional_kwargs == {}


def test_what_was_never_solved_comes_back_as_the_best() -> None:
    def closer(_: Problem, text: str) -> Verdict:
        return Verdict("failed", score=float(text) / 100)

    model = chat("10", "30", "20")
    output, result = with_recovery(
        model, closer, router=InTurn("retry"), budget=Budget(max_attempts=3)
    ).recover("?")
    assert output.text == "30"
    assert output.additional_kwargs["recovery"]["solved"] is False
    assert (result["stop_reason"], len(result["attempts"])) == ("budget_exhausted", 3)


def test_a_verifier_that_raises_leaves_the_output_unscored() -> None:
    def broken(_: Problem, __: str) -> bool:
        raise RuntimeError("no")

    reply = with_recovery(chat("41"), broken).invoke("?")
    assert reply.text == "41"
    assert reply.additional_kwargs["recovery"]["verdict"] == "unscored"


def test_a_function_is_wrapped_and_only_retried() -> None:
    asked: list[str] = []

    def guess(question: str) -> str:
        asked.append(question)
        return str(40 + len(asked))

    output, result = with_recovery(guess, says_42).recover("6*7?")
    assert isinstance(with_recovery(guess, says_42).recover("?"), Recovered)
    assert output == "42"
    assert [attempt["operator"] for attempt in result["attempts"]] == ["sample", "retry"]


@dataclass
class Point:
    x: int


class Total(BaseModel):
    total: int


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("a \ud800", "a �"),
        (AIMessage("hi"), "hi"),
        (AIMessage([{"type": "text", "text": "hi"}]), "hi"),
        (
            AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "x"}]),
            '[{"name": "add", "args": {"a": 1}}]',
        ),
        (AIMessage(""), ""),
        (Total(total=3), '{"total":3}'),
        ({"é": [1, Total(total=2), Point(1)]}, '{"é": [1, {"total": 2}, {"x": 1}]}'),
        ({"messages": [HumanMessage("q"), AIMessage("a")]}, "a"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        (Point(4), '{"x": 4}'),
        ([1, 2.5], "[1, 2.5]"),
        (True, "true"),
        (None, "null"),
        (1 + 2j, "(1+2j)"),
    ],
)
def test_outputs_of_all_kinds_are_verified_as_text_and_come_back_as_they_are(
    output: Any, text: str
) -> None:
    seen: list[str] = []

    def note(_: Problem, shown: str) -> bool:
        seen.append(shown)
        return True

    back = with_recovery(lambda _: output, note).invoke("?")
    assert seen == [text]
    assert getattr(back, "content", back) == getattr(output, "content", output)


# What the verifier is asked about


@pytest.mark.parametrize(
    ("value", "prompt"),
    [
        ("6*7?", "6*7?"),
        ("", " "),
        ("\ud800", "�"),
        (HumanMessage("hi"), "hi"),
        ([("system", "s"), ("human", "h"), ("ai", "a")], "h"),
        ({"messages": [HumanMessage("first"), HumanMessage("last")]}, "last"),
        ({"messages": "text"}, "text"),
        (PROMPT.invoke({"sum": "1+1"}), "1+1?"),
        ({"topic": "bears"}, "bears"),
        ({"question": "q", "history": []}, "q"),
        ({"a": "x", "b": "y"}, '{"a": "x", "b": "y"}'),
        ([1, 2], "[1, 2]"),
        ([], "[]"),
        (7, "7"),
        (HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}]), " "),
    ],
)
def test_the_prompt_of_an_input(value: Any, prompt: str) -> None:
    asked: list[str] = []

    def note(problem: Problem, _: str) -> bool:
        asked.append(problem.prompt)
        return True

    with_recovery(lambda _: "x", note).invoke(value)
    assert asked == [prompt]


@pytest.mark.parametrize(
    "made", ["6*7?", {"prompt": "6*7?", "answer": 42}, Problem(prompt="6*7?", answer=42)]
)
def test_a_problem_can_be_made_of_the_input(made: Any) -> None:
    asked: list[Problem] = []

    def note(problem: Problem, _: str) -> bool:
        asked.append(problem)
        return True

    with_recovery(lambda _: "x", note, problem=lambda _: made).invoke({"a": 1})
    assert asked[0].prompt == "6*7?"


def _raises(_: Any) -> Any:
    raise KeyError("sum")


@pytest.mark.parametrize("function", [_raises, lambda _: None, lambda _: "", lambda _: {"x": 1}])
def test_a_function_that_makes_no_problem_is_named(function: Callable[[Any], Any]) -> None:
    wrapped = with_recovery(lambda _: "x", says_42, problem=function)
    with pytest.raises(InvalidInputError, match=r"problem=<function .* made no problem"):
        wrapped.invoke("?")


def test_a_named_verifier_judges_against_the_problems_answer() -> None:
    wrapped = with_recovery(
        PROMPT | chat("41", "42") | StrOutputParser(),
        "numeric",
        problem=lambda value: {"prompt": value["sum"], "answer": value["answer"]},
    )
    assert wrapped.invoke({"sum": "6*7", "answer": 42}) == "42"


# What is varied


def test_retry_calls_the_runnable_as_it_is() -> None:
    model = chat("41", "42", temperature=0.25, max_tokens=100)
    solved_after(model, "retry")
    assert model.seen[0][1:] == model.seen[1][1:]
    assert (model.seen[1].temperature, model.seen[1].max_tokens) == (0.25, 100)


def test_temp_lift_reaches_the_chat_model_and_leaves_the_users_alone() -> None:
    model = chat("41", "42", temperature=0.2)
    reply = solved_after(model, "temp_lift")
    assert [call.temperature for call in model.seen] == [0.2, 1.0]
    assert model.temperature == 0.2
    assert reply.additional_kwargs["recovery"]["operator"] == "temp_lift"


def test_each_of_several_chat_models_keeps_its_own_temperature_until_it_is_lifted() -> None:
    cool, hot = chat("a", "b", "c", temperature=0.1), chat("41", "41", "42", temperature=0.7)
    wrapped = with_recovery(
        cool | StrOutputParser() | hot,
        says_42,
        interventions=["retry", "temp_lift"],
        budget=Budget(max_attempts=3),
        seed=1,
    )
    result = wrapped.recover("?").result
    hotter = [a["operator"] == "temp_lift" for a in result["attempts"]]
    assert [call.temperature for call in cool.seen] == [1.0 if h else 0.1 for h in hotter]
    assert [call.temperature for call in hot.seen] == [1.0 if h else 0.7 for h in hotter]


def test_extend_lengthens_what_the_chat_model_was_given() -> None:
    cut = AIMessage("41", response_metadata={"finish_reason": "length"})
    model = chat(cut, "42", max_tokens=50)
    chain = model | StrOutputParser()
    assert with_recovery(chain, says_42, interventions=["extend"]).invoke("?") == "42"
    assert [call.max_tokens for call in model.seen] == [50, 100]


def test_a_budget_of_tokens_shortens_completions() -> None:
    model = chat("42")
    with_recovery(model, says_42, budget=Budget(max_tokens=60)).invoke("?")
    assert model.seen[0].max_tokens is not None
    assert model.seen[0].max_tokens < 60


def test_replan_instructs_after_the_last_human_message() -> None:
    model = chat("41", "42")
    bound = model.bind_tools([add])
    reply = with_recovery(PROMPT | bound, says_42, interventions=["replan"]).invoke({"sum": "6*7"})
    assert reply.text == "42"
    assert [message.text for message in model.seen[1].messages] == [
        "You add.",
        f"6*7?\n\n{INSTRUCTION}",
    ]
    assert [call.tools for call in model.seen] == [["add"], ["add"]]


@pytest.mark.parametrize(
    ("value", "last"),
    [
        ("6*7?", f"6*7?\n\n{INSTRUCTION}"),
        ([("human", "6*7?"), ("ai", "well")], f"6*7?\n\n{INSTRUCTION}"),
        (
            [HumanMessage([{"type": "text", "text": "6*7?"}])],
            [{"type": "text", "text": "6*7?"}, {"type": "text", "text": INSTRUCTION}],
        ),
        ([SystemMessage("6*7?")], INSTRUCTION),
        (PROMPT.invoke({"sum": "6*7"}), f"6*7?\n\n{INSTRUCTION}"),
    ],
)
def test_replan_takes_every_input_of_a_chat_model_and_changes_none(value: Any, last: Any) -> None:
    model = chat("41", "42")
    before = repr(value)
    with_recovery(model, says_42, interventions=["replan"]).invoke(value)
    human = [m for m in model.seen[1].messages if isinstance(m, HumanMessage)]
    assert human[-1].content == last
    assert repr(value) == before


def test_escalate_puts_another_chat_model_in_the_place_and_keeps_what_is_bound() -> None:
    weak, strong = chat("41", model_name="weak"), chat("42", model_name="strong")
    chain = PROMPT | weak.bind_tools([add]) | StrOutputParser()
    output, result = with_recovery(chain, says_42, interventions=[Escalate(strong)]).recover(
        {"sum": "6*7"}
    )
    assert output == "42"
    assert [call.tools for call in strong.seen] == [["add"]]
    assert [message.text for message in strong.seen[0].messages] == ["You add.", "6*7?"]
    best = result["best"]
    assert best is not None
    assert best["details"]["model"] == "strong"


def as_text(value: Any) -> str:
    return str(getattr(value, "text", value))


SHAPES: list[Callable[[Any], Any]] = [
    lambda model: model,
    lambda model: model.bind(stop=["."]),
    lambda model: model.bind_tools([add]) | StrOutputParser(),
    lambda model: model.with_retry().bind(stop=["."]).with_config(tags=["t"]),
    lambda model: RunnableParallel(answer=model) | (lambda made: as_text(made["answer"])),
    lambda model: (
        RunnableParallel(q=RunnablePassthrough())
        | RunnablePassthrough.assign(a=(lambda made: made["q"]) | model)
        | (lambda made: as_text(made["a"]))
    ),
    lambda model: model.with_fallbacks([RunnableLambda(lambda _: "fallback")]),
    lambda model: RunnableBranch((lambda _: True, model), lambda _: "no"),
    lambda model: RunnableBranch((lambda _: False, lambda _: "no"), model),
    lambda model: (
        RunnableLambda(lambda value: [value]) | model.map() | (lambda made: as_text(made[0]))
    ),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("how", ["temp_lift", "replan", "escalate"])
async def test_chat_models_are_found_inside(shape: Callable[[Any], Any], how: str) -> None:
    strong = chat("42", "42")
    model = chat(*(["41"] * 2 if how == "escalate" else ["41", "42"] * 2), temperature=0.2)
    chosen = Escalate(strong) if how == "escalate" else how
    wrapped = with_recovery(shape(model), says_42, interventions=[chosen])
    assert as_text(wrapped.invoke("6*7?")) == "42"
    assert as_text(await wrapped.ainvoke("6*7?")) == "42"
    if how == "temp_lift":
        assert [call.temperature for call in model.seen] == [0.2, 1.0] * 2
    if how == "replan":
        assert [INSTRUCTION in call.text for call in model.seen] == [False, True] * 2
    if how == "escalate":
        assert [call.temperature for call in strong.seen] == [None] * 2  # its own
        assert {"stop", "tools"} & model.seen[0].kwargs.keys() == (
            {"stop", "tools"} & strong.seen[0].kwargs.keys()
        )


def test_structured_output_keeps_its_shape_while_the_model_is_varied() -> None:
    def call(total: int) -> AIMessage:
        return AIMessage("", tool_calls=[{"name": "Total", "args": {"total": total}, "id": "1"}])

    model = chat(call(41), call(42), temperature=0.2)
    chain = PROMPT | model.with_structured_output(Total)
    wrapped = with_recovery(chain, says_42, interventions=["temp_lift"])
    assert wrapped.invoke({"sum": "6*7"}) == Total(total=42)
    assert [call.temperature for call in model.seen] == [0.2, 1.0]


def test_what_is_bound_by_the_caller_is_passed_on() -> None:
    model = chat("41", "42")
    with_recovery(model, says_42, interventions=["replan"]).bind(stop=["x"]).invoke("?")
    assert [call.kwargs.get("stop", ["x"]) for call in model.seen] == [["x"], ["x"]]


class Rewrite:
    """A user's intervention that asks something else altogether."""

    name = "rewrite"
    needs = frozenset({Capability.SAMPLE})

    def expected_cost(self, lengths: Any) -> int:
        return 1

    def apply(self, failure: Any, model: Any) -> Attempt:
        made = model.sample("What is 6*7?", temperature=1.0, max_tokens=10, seed=0)
        return Attempt(made.rollouts[0])


@pytest.mark.parametrize(
    ("value", "second"),
    [
        ("?", "?\n\nWhat is 6*7?"),
        ({"messages": [HumanMessage("?")]}, [HumanMessage("?\n\nWhat is 6*7?")]),
        (HumanMessage("?"), HumanMessage("?\n\nWhat is 6*7?")),
        (7, 7),
    ],
)
def test_an_intervention_of_ones_own_reaches_the_input_where_no_chat_model_is_in_sight(
    value: Any, second: Any
) -> None:
    asked: list[Any] = []

    def say(given: Any) -> str:
        asked.append(given["messages"] if isinstance(given, dict) else given)
        return str(40 + len(asked))

    with_recovery(say, says_42, interventions=[Rewrite()]).invoke(value)
    assert asked[1] == second


# What goes wrong


def test_a_parser_that_refuses_is_a_failed_attempt() -> None:
    model = chat("no JSON", '{"answer": 42}')
    output, result = with_recovery(
        model | JsonOutputParser(), says_42, interventions=["retry"]
    ).recover("?")
    assert output == {"answer": 42}
    verdict = result["attempts"][0]["verdict"]
    assert verdict is not None
    assert (verdict["value"], result["attempts"][0]["text"]) == ("failed", "no JSON")
    assert "Invalid json output" in verdict["explanation"]


def test_the_verifier_is_not_asked_about_what_cannot_be_parsed() -> None:
    asked: list[str] = []

    def note(_: Problem, text: str) -> bool:
        asked.append(text)
        return True

    chain = chat("x", '{"total": 1}') | PydanticOutputParser(pydantic_object=Total)
    assert with_recovery(chain, note, interventions=["retry"]).invoke("?") == Total(total=1)
    assert asked == ['{"total":1}']


def test_where_nothing_can_be_parsed_the_parsers_exception_is_raised() -> None:
    from langchain_core.exceptions import OutputParserException

    chain = chat("no JSON", repeat=True) | JsonOutputParser()
    wrapped = with_recovery(chain, says_42, budget=Budget(max_attempts=2))
    with pytest.raises(OutputParserException, match="Invalid json output"):
        wrapped.invoke("?")


def test_where_something_fits_no_schema_the_validation_error_is_raised() -> None:
    wrapped = with_recovery(
        lambda _: Total.model_validate({"total": "x"}), says_42, budget=Budget(max_attempts=2)
    )
    with pytest.raises(ValidationError):
        wrapped.invoke("?")


def test_an_empty_output_after_an_unparsed_one_is_judged_for_itself() -> None:
    calls: list[int] = []

    def say(_: str) -> str:
        calls.append(1)
        if len(calls) == 1:
            Total.model_validate({})
        return ""

    assert with_recovery(say, lambda _, text: text == "").invoke("?") == ""


class OutOfMilkError(Exception):
    pass


@pytest.mark.parametrize("samples", [1, 3])
def test_what_the_first_call_raises_is_raised_as_it_was(samples: int) -> None:
    error = OutOfMilkError("none left")
    wrapped = with_recovery(chat(error), says_42, samples=samples)
    with pytest.raises(OutOfMilkError) as caught:
        wrapped.invoke("?")
    assert caught.value is error


async def test_what_the_first_call_raises_is_raised_as_it_was_async() -> None:
    error = OutOfMilkError("none left")
    with pytest.raises(OutOfMilkError) as caught:
        await with_recovery(chat(error), says_42).ainvoke("?")
    assert caught.value is error


def test_what_a_later_call_raises_ends_the_recovery_with_the_best_so_far() -> None:
    model = chat("41", OutOfMilkError("none left"))
    output, result = with_recovery(model, says_42, interventions=["retry"]).recover("?")
    assert output.text == "41"
    assert output.additional_kwargs["recovery"]["stop_reason"] == "model_error"
    assert "OutOfMilkError: none left" in str(result["error"])


def test_samples_drawn_before_one_that_fails_are_kept() -> None:
    model = chat("42", OutOfMilkError("none left"))
    assert with_recovery(model, says_42, samples=3).invoke("?").text == "42"
    assert len(model.seen) == 2


def test_a_budget_that_covers_no_call_is_named() -> None:
    wrapped = with_recovery(chat("42"), says_42, budget=Budget(max_tokens=1))
    with pytest.raises(InvalidInputError, match="covers no call of the runnable"):
        wrapped.invoke("six times seven, if you please?")


# What it costs


def test_tokens_of_all_chat_models_count() -> None:
    first, second = chat("abc"), chat("42")
    result = with_recovery(first | StrOutputParser() | second, says_42).recover("six").result
    usage = result["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3 + 3, 3 + 2)


def test_where_no_cost_is_told_it_is_estimated() -> None:
    told_by_none = with_recovery(chat("42", tells_usage=False), says_42).recover("?").result
    no_model = with_recovery(lambda _: "42", says_42).recover("?").result
    assert told_by_none["usage"]["tokens"] > 0
    assert no_model["usage"]["tokens"] > 0


def test_an_attempt_that_fails_half_way_has_its_cost_counted() -> None:
    def fussy(message: AIMessage) -> AIMessage:
        if message.text == "bad":
            raise OutOfMilkError
        return message

    model = chat("41", "bad")
    result = with_recovery(model | fussy, says_42, interventions=["retry"]).recover("6*7?").result
    assert result["stop_reason"] == "model_error"
    assert result["usage"]["tokens"] == (4 + 2) + (4 + 3)


# What is passed on


class Names(BaseCallbackHandler):
    def __init__(self) -> None:
        self.started: list[tuple[str, Any, Any]] = []

    def on_chain_start(self, serialized: Any, inputs: Any, **told: Any) -> None:
        self.started.append((told["name"], told["run_id"], told["parent_run_id"]))


class AsyncNames(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.started: list[tuple[str, Any, Any]] = []

    async def on_chain_start(self, serialized: Any, inputs: Any, **told: Any) -> None:
        self.started.append((told["name"], told["run_id"], told["parent_run_id"]))


async def test_the_config_reaches_every_call_and_runs_nest() -> None:
    configs: list[RunnableConfig] = []

    def step(_: str, config: RunnableConfig) -> str:
        configs.append(config)
        return str(40 + len(configs))

    config: RunnableConfig = {
        "tags": ["t"],
        "metadata": {"m": 1},
        "configurable": {"user": "u", "thread_id": "1"},
        "recursion_limit": 7,
        "run_name": "outer",
    }
    for names in (Names(), AsyncNames()):
        configs.clear()
        called: RunnableConfig = {**config, "callbacks": [names]}
        wrapped = with_recovery(RunnableLambda(step).with_config(run_name="step"), says_42)
        if isinstance(names, Names):
            assert wrapped.invoke("?", called) == "42"
        else:
            assert await wrapped.ainvoke("?", called) == "42"
        assert [one["tags"] for one in configs] == [["t"]] * 2
        assert [one["metadata"]["m"] for one in configs] == [1, 1]
        assert [one["configurable"]["user"] for one in configs] == ["u", "u"]
        assert [one["recursion_limit"] for one in configs] == [7, 7]
        outer = names.started[0]
        assert (outer[0], outer[2]) == ("outer", None)
        parents = {name: parent for name, _, parent in names.started}
        assert parents["step"] == parents["recovery"] == outer[1]


def test_the_users_usage_callback_counts_every_call() -> None:
    counted = UsageMetadataCallbackHandler()
    model = chat("41", "42")
    with_recovery(model, says_42).invoke("6*7?", {"callbacks": [counted]})
    assert counted.usage_metadata["scripted"]["output_tokens"] == 4


def test_many_attempts_are_not_ended_by_a_limit_on_steps() -> None:
    wrapped = with_recovery(
        chat(*["41"] * 30, "42"), says_42, router=InTurn("retry"), budget=Budget(max_attempts=40)
    )
    result = wrapped.recover("?", {"recursion_limit": 5}).result
    assert (result["solved"], len(result["attempts"])) == (True, 31)


# Many at a time


def test_invocations_in_threads_do_not_mix() -> None:
    wrapped = with_recovery(echo_at_last(), names_input, interventions=["retry"])
    questions = [f"question {i}" for i in range(20)]
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(wrapped.invoke, questions)) == [f"{q}: right" for q in questions]
    assert wrapped.batch(questions) == [f"{q}: right" for q in questions]


async def test_invocations_on_one_event_loop_do_not_mix() -> None:
    wrapped = with_recovery(echo_at_last(), names_input, interventions=["retry"])
    questions = [f"question {i}" for i in range(60)]
    made = await asyncio.wait_for(asyncio.gather(*map(wrapped.ainvoke, questions)), 30)
    assert made == [f"{q}: right" for q in questions]
    assert await wrapped.abatch(questions) == made


def echo_at_last() -> Any:
    """A chain that answers what it was asked, wrongly at first, by a model that blocks."""

    def answer(messages: list[Any]) -> str:
        return f"{messages[-1].text}: {'right' if tries(messages[-1].text) else 'wrong'}"

    seen: dict[str, int] = {}

    def tries(question: str) -> bool:
        seen[question] = seen.get(question, 0) + 1
        return seen[question] % 2 == 0

    return chat(answer, repeat=True, seconds=0.005) | StrOutputParser()


def names_input(problem: Problem, text: str) -> bool:
    return text == f"{problem.prompt}: right"


async def test_what_is_async_only_works_on_the_callers_event_loop() -> None:
    loops: set[Any] = set()
    calls: list[str] = []

    async def step(question: str) -> str:
        loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0)
        calls.append(question)
        return str(40 + len(calls))

    wrapped = with_recovery(RunnableLambda(step), says_42)
    assert await wrapped.ainvoke("?") == "42"
    assert loops == {asyncio.get_running_loop()}
    with pytest.raises(TypeError):  # LangChain's own, as without recovery
        wrapped.invoke("?")


async def test_context_variables_of_the_caller_are_seen() -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")
    who.set("me")
    wrapped = with_recovery(lambda _: who.get(), lambda _, text: text == who.get() == "me")
    assert wrapped.recover("?").result["solved"]
    assert (await wrapped.arecover("?")).result["solved"]


async def test_a_cancelled_invocation_calls_no_more() -> None:
    calls: list[str] = []
    begun = asyncio.Event()

    async def slow(question: str) -> str:
        calls.append(question)
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            calls.append("ended")
        return "41"

    task = asyncio.create_task(with_recovery(RunnableLambda(slow), says_42).ainvoke("?"))
    await asyncio.wait_for(begun.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(500):
        if "ended" in calls:
            break
        await asyncio.sleep(0.01)
    assert calls == ["?", "ended"]


def test_a_recovery_inside_a_recovery() -> None:
    inner = with_recovery(
        chat("1", "2", "3", "4") | StrOutputParser(), lambda _, t: int(t) % 2 == 0
    )
    outer = with_recovery(inner | (lambda text: text * 2), lambda _, t: t == "44")
    assert outer.invoke("?") == "44"


# As any other runnable


async def test_it_streams_one_chunk_and_composes() -> None:
    wrapped = with_recovery(PROMPT | chat("41", "42", "42") | StrOutputParser(), says_42)
    assert list(wrapped.stream({"sum": "1"})) == ["42"]
    assert [chunk async for chunk in wrapped.astream({"sum": "1"})] == ["42"]
    chain = RunnableLambda(lambda text: {"sum": text}) | with_recovery(
        PROMPT | chat("41", "42") | StrOutputParser(), says_42
    )
    assert (chain | int).invoke("6*7") == 42


def test_it_looks_like_what_it_wraps() -> None:
    chain = PROMPT | chat("42") | StrOutputParser()
    wrapped = with_recovery(chain, says_42)
    assert wrapped.InputType == chain.InputType
    assert wrapped.OutputType is str
    assert wrapped.get_input_jsonschema() == chain.get_input_jsonschema()
    assert wrapped.get_output_jsonschema() == chain.get_output_jsonschema()
    assert wrapped.config_specs == chain.config_specs
    assert wrapped.get_name() == chain.get_name()
    assert with_recovery(chain, says_42, name="adder").get_name() == "adder"
    assert wrapped.get_graph().nodes


class Sum(TypedDict):
    a: int
    b: int


async def test_it_is_a_tool_for_text_and_for_typed_dicts() -> None:
    def shout(text: str) -> str:
        return text.upper()

    total = RunnableLambda(lambda given: given["a"] + given["b"]).with_types(input_type=Sum)
    loud = with_recovery(shout, lambda _, __: True, name="shout").as_tool(description="Shouts.")
    adder = with_recovery(total, lambda _, __: True).as_tool(name="total", description="Adds.")
    assert (loud.name, loud.invoke("a"), await loud.ainvoke("a")) == ("shout", "A", "A")
    assert (adder.invoke({"a": 1, "b": 2}), await adder.ainvoke({"a": 1, "b": 2})) == (3, 3)
    assert set(adder.args) == {"a", "b"}


# In a graph


class State(TypedDict, total=False):
    question: str
    answer: str
    log: Annotated[list[str], operator.add]


def parent(node: Any) -> Any:
    """A graph with a checkpointer and one node."""
    builder = StateGraph(State)
    builder.add_node("work", node)
    builder.add_edge(START, "work")
    builder.add_edge("work", END)
    return builder.compile(checkpointer=InMemorySaver())


def thread(name: str) -> RunnableConfig:
    return {"configurable": {"thread_id": name}}


async def test_it_works_in_a_node_of_a_graph_with_a_checkpointer() -> None:
    wrapped = with_recovery(
        chat("41", "42", "41", "42", "41", "42", "41", "42") | StrOutputParser(), says_42
    )

    def node(state: State) -> State:
        return {"answer": wrapped.invoke(state["question"]), "log": ["done"]}

    async def async_node(state: State) -> State:
        return {"answer": await wrapped.ainvoke(state["question"]), "log": ["done"]}

    graph, async_graph = parent(node), parent(async_node)
    for _ in range(2):  # the same thread again
        assert graph.invoke({"question": "6*7?"}, thread("a"))["answer"] == "42"
        made = await async_graph.ainvoke({"question": "6*7?"}, thread("a"))
        assert made["answer"] == "42"
    assert made["log"] == ["done", "done"]


def asks_a_person(question: str) -> str:
    first = interrupt(f"first of {question}")
    second = interrupt(f"second of {question}")
    return f"{first} and {second}"


async def asks_a_person_async(question: str) -> str:
    return asks_a_person(question)


async def resumed(graph: Any, *, sync: bool) -> list[Any]:
    """What a graph asks, answered by numbers, and its last state."""

    async def go(value: Any) -> dict[str, Any]:
        made: dict[str, Any] = (
            graph.invoke(value, thread("a")) if sync else await graph.ainvoke(value, thread("a"))
        )
        return made

    asked = []
    state = await go({"question": "it"})
    while "__interrupt__" in state and len(asked) < 5:
        asked.append(state["__interrupt__"][0].value)
        state = await go(Command(resume=f"answer {len(asked)}"))
    return [asked, state["answer"]]


@pytest.mark.parametrize("sync", [True, False])
async def test_interrupts_of_the_runnable_reach_the_graph_around(sync: bool) -> None:
    step: Any = asks_a_person if sync else asks_a_person_async
    wrapped = with_recovery(RunnableLambda(step), lambda _, __: True)

    def node(state: State) -> State:
        return {"answer": wrapped.invoke(state["question"])}

    async def async_node(state: State) -> State:
        return {"answer": await wrapped.ainvoke(state["question"])}

    made = await resumed(parent(node if sync else async_node), sync=sync)
    assert made == [["first of it", "second of it"], "answer 1 and answer 2"]


@pytest.mark.parametrize("sync", [True, False])
async def test_interrupts_of_the_verifier_reach_the_graph_around(sync: bool) -> None:
    def person(_: Problem, text: str) -> bool:
        return bool(interrupt(f"is {text} right?") == "answer 2")

    calls: list[int] = []

    def guess(_: str) -> str:
        calls.append(1)
        return ["a", "b"][len(calls) - 1]

    wrapped = with_recovery(guess, person)

    def node(state: State) -> State:
        return {"answer": wrapped.invoke(state["question"])}

    async def async_node(state: State) -> State:
        return {"answer": await wrapped.ainvoke(state["question"])}

    made = await resumed(parent(node if sync else async_node), sync=sync)
    assert made == [["is a right?", "is b right?"], "b"]
    assert len(calls) == 2


def test_an_interrupt_of_a_graph_inside_reaches_the_graph_around() -> None:
    calls: list[int] = []

    def work(_: State) -> State:
        calls.append(1)
        return {"answer": "41" if len(calls) == 1 else interrupt("which?")}

    builder = StateGraph(State)
    builder.add_node("work", work)
    builder.add_edge(START, "work")
    wrapped = with_recovery(builder.compile(), lambda _, text: '"42"' in text)
    graph = parent(lambda state: {"answer": wrapped.invoke(state)["answer"]})
    asked = graph.invoke({"question": "it"}, thread("a"))["__interrupt__"]
    assert [one.value for one in asked] == ["which?"]
    assert graph.invoke(Command(resume="42"), thread("a"))["answer"] == "42"


def works(wrapped: Any, *, sync: bool = True, inputs: int = 1) -> Any:
    """A graph around, of one node that recovers its question so many times."""

    def told(made: list[Recovered]) -> State:
        texts = [as_text(output) for output, _ in made]
        tokens = sum(result["usage"]["tokens"] for _, result in made)
        return {"answer": " ".join(texts), "log": [str(tokens)]}

    def node(state: State) -> State:
        return told([wrapped.recover(state["question"]) for _ in range(inputs)])

    async def async_node(state: State) -> State:
        return told([await wrapped.arecover(state["question"]) for _ in range(inputs)])

    return parent(node if sync else async_node)


def asks_until(*right: str) -> Callable[[str], bool]:
    """A verifier that asks a person about every text; `resumed`'s says yes by such an answer."""
    return lambda text: interrupt(text) in right


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("refused", range(5))
async def test_a_person_judges_what_comes_back_and_no_call_is_made_again(
    refused: int, sync: bool
) -> None:
    model = chat(*[f"reply {i}" for i in range(20)])
    wrapped = with_recovery(model, asks_until(f"answer {refused + 1}"))
    graph = works(wrapped, sync=sync)
    asked, answer = await resumed(graph, sync=sync)
    assert asked == [f"reply {i}" for i in range(refused + 1)]
    assert answer == asked[-1]
    assert len(model.seen) == len(asked)
    spent = sum(len(call.text) for call in model.seen) + sum(map(len, asked))
    assert graph.get_state(thread("a")).values["log"] == [str(spent)]


@pytest.mark.parametrize("sync", [True, False])
async def test_several_samples_are_made_once_and_each_is_judged(sync: bool) -> None:
    model = chat("a", "b", "c", "d", "e")
    wrapped = with_recovery(model, asks_until("answer 4"), samples=3)
    assert await resumed(works(wrapped, sync=sync), sync=sync) == [["a", "b", "c", "d"], "d"]
    assert len(model.seen) == 4


@pytest.mark.parametrize("sync", [True, False])
async def test_a_runnable_that_asked_takes_its_answer_whenever_the_node_is_run_again(
    sync: bool,
) -> None:
    calls: list[str] = []

    def step(question: str) -> str:
        calls.append(question)
        return str(interrupt(f"draft for {question}")) if len(calls) > 1 else "mine"

    async def async_step(question: str) -> str:
        return step(question)

    wrapped = with_recovery(
        RunnableLambda(step if sync else async_step),
        asks_until("answer 5"),
        interventions=["retry"],
    )
    asked, answer = await resumed(works(wrapped, sync=sync), sync=sync)
    assert asked == ["mine", "draft for it", "answer 2", "draft for it", "answer 4"]
    assert answer == "answer 4"


@pytest.mark.parametrize("sync", [True, False])
async def test_two_recoveries_in_a_node_are_told_apart(sync: bool) -> None:
    model = chat("a", "b", "c", "d", "e", "f")
    wrapped = with_recovery(model, asks_until("answer 2", "answer 3"))
    asked, answer = await resumed(works(wrapped, sync=sync, inputs=2), sync=sync)
    assert (asked, answer) == (["a", "b", "c"], "b c")
    assert len(model.seen) == 3


async def test_a_recovery_that_asks_nobody_does_not_take_the_next_ones_calls() -> None:
    model = chat("sure", "a", "sure", "b", "sure", "sure")
    wrapped = with_recovery(model, lambda text: text == "sure" or interrupt(text) == "answer 2")
    asked, answer = await resumed(works(wrapped, inputs=2), sync=True)
    assert (asked, answer) == (["a", "b"], "sure b")


async def test_a_node_that_is_interrupted_later_has_the_same_recovery_again() -> None:
    model = chat("good", "AWFUL", repeat=True)
    wrapped = with_recovery(model, asks_until("answer 1"))

    def node(state: State) -> State:
        text = wrapped.invoke(state["question"]).text
        return {"answer": f"{text}, {interrupt('sure?')}"}

    assert await resumed(parent(node), sync=True) == [["good", "sure?"], "good, answer 2"]
    assert len(model.seen) == 1


async def test_what_could_not_be_parsed_or_called_before_an_interrupt_is_so_again() -> None:
    model = chat("not JSON", '"a"', RuntimeError("down"), '"never"')

    def person(text: str) -> Verdict:
        return Verdict("failed", score=0.5 if interrupt(text) else None)

    first = with_recovery(model | JsonOutputParser(), person, router=InTurn("retry"))
    second = with_recovery(chat("b", "c"), asks_until("answer 2"))

    def node(state: State) -> State:
        output, result = first.recover(state["question"])
        assert (len(result["attempts"]), result["stop_reason"]) == (2, "model_error")
        return {"answer": f"{output} {second.invoke(state['question']).text}"}

    assert await resumed(parent(node), sync=True) == [["a", "b"], "a b"]
    assert len(model.seen) == 3


async def test_why_it_could_not_be_parsed_is_raised_after_an_interrupt() -> None:
    chain = chat("not JSON", '"a"', repeat=True) | JsonOutputParser()
    wrapped = with_recovery(chain, asks_until("never"), budget=Budget(max_attempts=2))
    graph = parent(lambda state: {"answer": wrapped.invoke(state["question"])})
    with pytest.raises(OutputParserException, match="not JSON"):
        await resumed(graph, sync=True)


@pytest.mark.parametrize("sync", [True, False])
async def test_many_threads_of_the_graph_around_are_kept_apart(sync: bool) -> None:
    def answer(messages: list[Any]) -> str:
        with lock:
            made[messages[-1].text] = made.get(messages[-1].text, 0) + 1
            return f"{messages[-1].text}, try {made[messages[-1].text]}"

    made: dict[str, int] = {}
    lock = threading.Lock()
    wrapped = with_recovery(
        chat(answer, repeat=True, seconds=0.005),
        lambda text: interrupt(text),
        router=InTurn("retry"),
    )
    graph = works(wrapped, sync=sync)

    async def go(value: Any, name: str) -> Any:
        if sync:
            return await asyncio.to_thread(graph.invoke, value, thread(name))
        return await graph.ainvoke(value, thread(name))

    async def one(name: str) -> str:
        await go({"question": name}, name)
        await go(Command(resume=False), name)
        return str((await go(Command(resume=True), name))["answer"])

    names = [f"thread {i}" for i in range(40)]
    answers = await asyncio.wait_for(asyncio.gather(*map(one, names)), 60)
    assert answers == [f"{name}, try 2" for name in names]


async def test_a_recovery_inside_a_recovery_is_found_again() -> None:
    model = chat("a", "b", "c", "d")
    inner = with_recovery(
        model | StrOutputParser(), lambda text: text == "a" or interrupt(text) == "answer 2"
    )
    outer = with_recovery(inner, lambda text: text != "a", interventions=["retry"])
    assert await resumed(works(outer), sync=True) == [["b", "c"], "c"]
    assert len(model.seen) == 3


async def test_a_graph_inside_finds_its_own_checkpoints_after_calls_that_are_not_made_again() -> (
    None
):
    calls: list[int] = []

    def work(_: State) -> State:
        calls.append(1)
        return {"answer": "first" if len(calls) == 1 else interrupt("which?")}

    builder = StateGraph(State)
    builder.add_node("work", work)
    builder.add_edge(START, "work")
    chain = builder.compile() | (lambda state: state["answer"])
    wrapped = with_recovery(
        RunnableLambda(lambda text: {"question": text}) | chain,
        asks_until("answer 3"),
        interventions=["retry"],
    )
    assert await resumed(works(wrapped), sync=True) == [
        ["first", "which?", "answer 2"],
        "answer 2",
    ]


async def test_a_context_of_the_graph_around_still_reaches_the_recovery() -> None:
    builder = StateGraph(State, context_schema=RecoveryContext)
    wrapped = with_recovery(chat("a", "b", "c", repeat=True), asks_until("never"))
    builder.add_node("work", lambda state: {"answer": wrapped.invoke(state["question"]).text})
    builder.add_edge(START, "work")
    graph = builder.compile(checkpointer=InMemorySaver())
    context = RecoveryContext(max_attempts=2)
    for value in ({"question": "?"}, Command(resume=0), Command(resume=0)):
        state = graph.invoke(value, thread("a"), context=context)
    assert state["answer"] == "a"


async def test_a_routers_chances_are_the_same_when_the_node_is_run_again() -> None:
    class Noted(InTurn):
        def decide(self, evidence: Any) -> Decision:
            draws.setdefault(len(evidence.tried), set()).add(evidence.draw)
            return super().decide(evidence)

    draws: dict[int, set[float]] = {}
    wrapped = with_recovery(chat("a", repeat=True), asks_until("answer 4"), router=Noted("retry"))
    await resumed(works(wrapped), sync=True)
    assert [len(drawn) for drawn in draws.values()] == [1, 1, 1]
    assert len(set.union(*draws.values())) == 3


def test_what_is_kept_of_interrupted_recoveries_is_bounded() -> None:
    wrapped = with_recovery(chat("a", repeat=True), asks_until("yes"))
    wrapped._pauses = Pauses(3)
    graph = works(wrapped)
    for name in "abcdef":
        graph.invoke({"question": "?"}, thread(name))
    assert len(wrapped._pauses) == 3
    assert graph.invoke(Command(resume="yes"), thread("f"))["answer"] == "a"
    assert len(wrapped._pauses) == 3


def test_nothing_is_kept_where_nothing_is_interrupted() -> None:
    wrapped = with_recovery(chat("41", "42", repeat=True), says_42)
    works(wrapped).invoke({"question": "?"}, thread("a"))
    wrapped.invoke("?")
    assert len(wrapped._pauses) == 0


async def test_a_cancelled_resumption_is_as_if_it_had_not_been() -> None:
    begun = asyncio.Event()
    calls: list[str] = []

    async def step(question: str) -> str:
        calls.append(question)
        if len(calls) == 2:
            begun.set()
            await asyncio.sleep(60)
        return f"try {len(calls)}"

    wrapped = with_recovery(RunnableLambda(step), asks_until("yes"), interventions=["retry"])
    graph = works(wrapped, sync=False)
    await graph.ainvoke({"question": "?"}, thread("a"))
    task = asyncio.create_task(graph.ainvoke(Command(resume="no"), thread("a")))
    await asyncio.wait_for(begun.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    state = await graph.ainvoke(Command(resume="no"), thread("a"))
    assert [one.value for one in state["__interrupt__"]] == ["try 3"]
    state = await graph.ainvoke(Command(resume="yes"), thread("a"))
    assert (state["answer"], len(calls)) == ("try 3", 3)


async def test_the_graph_around_streams_the_models_messages_and_the_recoverys_events() -> None:
    wrapped = with_recovery(chat("41", "42"), says_42)

    async def node(state: State) -> State:
        return {"answer": (await wrapped.ainvoke(state["question"])).text}

    modes = ["messages", "custom"]
    question = {"question": "6*7?"}
    stream = parent(node).astream(question, thread("a"), stream_mode=modes, subgraphs=True)
    parts = [(mode, part) async for _, mode, part in stream]
    assert [part[0].text for mode, part in parts if mode == "messages"] == ["41", "42"]
    events = [part["type"] for mode, part in parts if mode == "custom"]
    assert (events.count("attempt"), events[-1]) == (2, "finished")


def test_it_can_be_a_node_itself() -> None:
    wrapped = with_recovery(lambda state: {"answer": state["question"] + "42"}, says_42)
    assert parent(wrapped).invoke({"question": "x"}, thread("a"))["answer"] == "x42"


@pytest.mark.parametrize("checkpointer", [None, InMemorySaver()])
def test_a_graph_can_be_wrapped(checkpointer: Any) -> None:
    counted: list[int] = []

    def work(state: State) -> State:
        counted.append(1)
        return {"answer": str(40 + len(counted))}

    builder = StateGraph(State)
    builder.add_node("work", work)
    builder.add_edge(START, "work")
    graph = builder.compile(checkpointer=checkpointer)
    wrapped = with_recovery(graph, lambda _, text: json.loads(text)["answer"] == "42")
    assert wrapped.invoke({"question": "?"}, thread("a"))["answer"] == "42"


# What is stored


async def test_every_invocation_is_stored_once(store: TraceStore) -> None:
    model = chat("41", "42", "42", "42")
    wrapped = with_recovery(PROMPT | model, says_42, store=store, name="adder", seed=3)
    wrapped.invoke({"sum": "6*7"})
    await wrapped.ainvoke({"sum": "6*7"})
    wrapped.invoke({"sum": "5*7"})
    [run] = store.query("select * from runs")
    assert (run["kind"], run["model"], run["verifier"]) == ("runnable", "adder", "says_42")
    prompts = [row["prompt"] for row in store.query("select prompt from problems")]
    assert sorted(prompts) == ["5*7", "6*7", "6*7"]
    assert len(store.query("select * from outcomes")) == 3
    assert len(store.query("select * from rollouts")) == 4


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((7, says_42), "runnable is 7"),
        ((None, says_42), "runnable is None"),
        (({"a": 7}, says_42), "runnable is {'a': 7}"),
        ((chat("42"), "no_such_verifier"), "no_such_verifier"),
        ((chat("42"), 7), "7"),
    ],
)
def test_what_cannot_be_wrapped_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        with_recovery(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interventions": ["no_such"]}, "no_such"),
        ({"interventions": ["dense_steer"]}, "can carry out none"),
        ({"interventions": []}, "no intervention was chosen"),
        ({"problem": "x"}, "problem is 'x'"),
        ({"name": 7}, "name is 7"),
        ({"samples": 0}, "samples is 0"),
        ({"budget": 7}, "budget is 7"),
        ({"store": 7}, "store is 7"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"interventions": [Escalate("embedded")]}, "reached by no chat model"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        with_recovery(chat("42"), says_42, **options)


def test_escalating_a_runnable_without_a_chat_model_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="none is in sight"):
        with_recovery(lambda _: "x", says_42, interventions=["retry", Escalate(chat("42"))])


def test_an_escalation_registered_for_others_is_left_out() -> None:
    register(Escalate(chat("42")))
    try:
        wrapped = with_recovery(lambda _: "x", says_42, budget=Budget(max_attempts=3))
        operators = {one["operator"] for one in wrapped.recover("?").result["attempts"]}
    finally:
        unregister("escalate")
    assert operators == {"sample", "retry"}


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.mark.parametrize(
    ("runnable", "name"),
    [
        (chat("42"), "scripted"),
        (chat("42").bind(stop=["x"]), "scripted"),
        (PROMPT | chat("42"), "RunnableSequence(scripted)"),
        (RunnableLambda(lambda _: "42", name="guess"), "guess"),
    ],
)
def test_what_traces_call_it(runnable: Any, name: str, store: TraceStore) -> None:
    wrapped = with_recovery(runnable, says_42, store=store)
    wrapped.invoke({"sum": "1"} if "Sequence" in name else "6*7?")
    assert [row["model"] for row in store.query("select model from runs")] == [name]


def test_a_temperature_that_is_bound_can_be_lifted_all_the_same() -> None:
    model = chat("no", "yes")
    bound = model.bind(temperature=0.2, max_tokens=50, stop=["#"])
    recovering = with_recovery(bound, lambda text: text == "yes", interventions=["temp_lift"])
    assert recovering.invoke("?").text == "yes"
    assert [seen.temperature for seen in model.seen] == [0.2, 1.0]
    assert [seen.max_tokens for seen in model.seen] == [50, 50]
    assert all("temperature" not in seen.kwargs for seen in model.seen)


def test_where_nothing_can_be_parsed_recover_still_tells_what_was_tried() -> None:
    chain = chat("not JSON", "nor this", repeat=True) | JsonOutputParser()
    output, result = with_recovery(chain, says_42, budget=Budget(max_attempts=3)).recover("?")
    assert output is None
    assert not result["solved"]
    assert len(result["attempts"]) >= 2
    assert result["usage"]["tokens"] > 0


class LengthFinishReasonError(Exception):
    """As openai raises it where a structured reply was cut."""


def test_a_structured_reply_that_was_cut_is_a_failed_attempt_and_can_be_extended() -> None:
    model = chat(LengthFinishReasonError("cut"), "42", max_tokens=10)
    wrapped = with_recovery(model, says_42, interventions=["extend"], seed=0)
    output, result = wrapped.recover("6*7?")
    assert output.text == "42"
    assert [attempt["operator"] for attempt in result["attempts"]] == ["sample", "extend"]
    assert [seen.max_tokens for seen in model.seen] == [10, 20]
