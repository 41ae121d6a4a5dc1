"""RecoveryMiddleware in agents of LangChain, seen from outside: messages, model calls, rows."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    ToolCallLimitMiddleware,
    hook_config,
)
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from recov_graph.agents import RecoveryMiddleware, Restart
from recov_graph.budget import Budget
from recov_graph.context import RecoveryContext
from recov_graph.errors import InvalidInputError, PolicyError
from recov_graph.interventions import (
    Attempt,
    Escalate,
    Intervention,
    Replan,
    Retry,
    TempLift,
    register,
    unregister,
)
from recov_graph.interventions.replan import INSTRUCTION
from recov_graph.models import Capability, OpenAIModel
from recov_graph.problem import Problem
from recov_graph.rollout import Rollout
from recov_graph.routing.decision import Decision
from recov_graph.store import TraceStore
from recov_graph.verifiers import Verdict
from tests.openai_server import OpenAIServer
from tests.recoveries import THREAD, assert_stored, questions
from tests.scripted_chat import ScriptedChat

Run = Callable[..., Any]
QUESTION = "6*7?"
ASKED = {"messages": [("user", QUESTION)]}


@pytest.fixture(params=["invoke", "ainvoke"])
def run(request: pytest.FixtureRequest) -> Run:
    """Invokes an agent, and again by the other of its two ways."""

    def invoked(agent: Any, given: Any = ASKED, config: Any = None, **options: Any) -> Any:
        if request.param == "invoke":
            return agent.invoke(given, config, **options)
        return asyncio.run(agent.ainvoke(given, config, **options))

    return invoked


class Answer(BaseModel):
    """An answer."""

    value: int


@dataclass
class AnswerRecord:
    """An answer."""

    value: int


class AnswerDict(TypedDict):
    """An answer."""

    value: int


JSON_SCHEMA = {
    "title": "Answer",
    "description": "An answer.",
    "type": "object",
    "properties": {"value": {"type": "integer"}},
    "required": ["value"],
}


class InTurn:
    """A router that chooses operators in turn, the last one over and over."""

    name = "in turn"
    content_hash = "0" * 16

    def __init__(self, *operators: str) -> None:
        self.operators = operators

    def decide(self, evidence: Any) -> Decision:
        left = [name for name in self.operators[len(evidence.tried) :] if name in evidence.costs]
        operator = (left or [*evidence.costs])[0]
        return Decision(operator, "sampling", 1.0, 0.5, (), "in turn")


def says_42(_: Problem, text: str) -> bool:
    return "42" in text


def closeness(_: Problem, text: str) -> Verdict:
    """Failed, with a hundredth of the number as its score; 100 passes."""
    number = int("".join(filter(str.isdigit, text)))
    return Verdict("passed" if number == 100 else "failed", score=number / 100)


def chat(*replies: Any, **fields: Any) -> ScriptedChat:
    return ScriptedChat(replies=list(replies), **fields)


def calling(name: str, call_id: str = "1", **args: Any) -> AIMessage:
    return AIMessage("", tool_calls=[tool_call(name, call_id, **args)])


def tool_call(name: str, call_id: str, **args: Any) -> Any:
    return {"name": name, "args": args, "id": call_id, "type": "tool_call"}


def recovering(*chosen: str | Intervention, verifier: Any = says_42, **options: Any) -> Any:
    """The middleware, trying these in turn."""
    names = [one if isinstance(one, str) else one.name for one in chosen]
    options = {"interventions": chosen, "router": InTurn(*names), "seed": 0, **options}
    return RecoveryMiddleware(verifier, **options)


class Tools:
    """Tools that note how often they were called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

        def look_up(what: str) -> str:
            """Look something up."""
            self.calls.append(what)
            return f"found {what}"

        self.tools = [look_up]


@pytest.fixture
def tools() -> Tools:
    return Tools()


def texts(result: Any) -> list[str]:
    return [str(message.text) for message in result["messages"]]


def kinds(result: Any) -> str:
    """A letter a message: human, ai or tool."""
    return "".join(message.type[0] for message in result["messages"])


def mark(result: Any) -> dict[str, Any]:
    """What the answer says of its recovery, wherever its first message is."""
    (found,) = [
        message.additional_kwargs["recovery"]
        for message in result["messages"]
        if "recovery" in message.additional_kwargs
    ]
    return dict(found)


def operators(result: Any) -> list[str]:
    return [attempt["operator"] for attempt in result["recovery"]["attempts"]]


def assert_sound(result: Any, model: ScriptedChat | None = None) -> None:
    """Ids are unique, every tool result follows its call, the model never saw a failed answer."""
    ids = [message.id for message in result["messages"]]
    assert None not in ids
    assert len(ids) == len(set(ids))
    called: set[str] = set()
    for message in result["messages"]:
        if isinstance(message, AIMessage):
            called |= {str(call["id"]) for call in message.tool_calls}
        if isinstance(message, ToolMessage):
            assert message.tool_call_id in called
    if model is not None:
        failed = {
            attempt["text"]
            for attempt in result["recovery"]["attempts"]
            if attempt["verdict"]["value"] == "failed"
        }
        shown = [str(m.text) for call in model.seen for m in call.messages if m.type == "ai"]
        assert not failed & set(shown)


# An answer that passes, and one that does not


def test_an_answer_that_passes_is_left_alone_but_for_its_mark(run: Run, store: TraceStore) -> None:
    model = chat("42")
    result = run(create_agent(model, middleware=[recovering("retry", store=store)]))
    assert texts(result) == [QUESTION, "42"]
    assert len(model.seen) == 1
    assert mark(result) == {
        "solved": True,
        "verdict": "passed",
        "stop_reason": "solved",
        "attempts": 1,
        "operator": "sample",
    }
    assert_stored(store, result["recovery"])
    assert store.query("SELECT kind, model, verifier FROM runs") == [
        {"kind": "agent", "model": "scripted", "verifier": "says_42"}
    ]
    assert "recovering" not in result


def test_retry_asks_again_from_where_the_agent_was(run: Run, store: TraceStore) -> None:
    model = chat("41", "42")
    agent = create_agent(
        model, system_prompt="You add.", middleware=[recovering("retry", store=store)]
    )
    result = run(agent)
    assert texts(result) == [QUESTION, "42"]
    assert [[m.text for m in call.messages] for call in model.seen] == [["You add.", QUESTION]] * 2
    assert mark(result)["operator"] == "retry"
    assert operators(result) == ["sample", "retry"]
    assert result["recovery"]["solved"] is True
    assert result["recovery"]["attempts"][1]["spent"] == len("You add." + QUESTION + "42")
    assert_stored(store, result["recovery"])
    assert_sound(result, model)


@pytest.mark.parametrize(("own", "lifted"), [(0.25, 1.0), (0.9, 1.0)])
def test_temp_lift_is_for_its_attempt_only(run: Run, own: float | None, lifted: float) -> None:
    model = chat("41", "40", "42", temperature=own)
    agent = create_agent(model, middleware=[recovering("temp_lift", "retry")])
    result = run(agent)
    assert [call.temperature for call in model.seen] == [own, lifted, own]
    assert result["recovery"]["attempts"][1]["details"] == {"temperature": lifted}


def test_replans_instruction_is_shown_to_the_model_and_does_not_stay(run: Run) -> None:
    model = chat("41", "40", "42")
    result = run(create_agent(model, middleware=[recovering("replan", "retry")]))
    asked = [call.messages[-1].text for call in model.seen]
    assert asked == [QUESTION, f"{QUESTION}\n\n{INSTRUCTION}", QUESTION]
    assert texts(result) == [QUESTION, "42"]


def test_replan_leaves_pictures_where_they_are(run: Run) -> None:
    picture = {"type": "image", "url": "http://localhost/picture.png"}
    model = chat("41", "42")
    asked = HumanMessage([{"type": "text", "text": QUESTION}, picture])
    result = run(create_agent(model, middleware=[recovering("replan")]), {"messages": [asked]})
    shown = model.seen[1].messages[-1].content
    assert isinstance(shown, list)
    assert picture in shown
    assert INSTRUCTION in str(shown[-1])
    assert result["messages"][0].content == asked.content


def test_extend_lengthens_what_the_model_was_given(run: Run) -> None:
    cut = AIMessage("41", response_metadata={"finish_reason": "length"})
    model = chat(cut, "40", "42", max_tokens=50)
    result = run(create_agent(model, middleware=[recovering("extend", "retry")]))
    assert operators(result) == ["sample", "extend", "retry"]
    assert [call.max_tokens for call in model.seen] == [50, 100, 50]


def test_extend_is_not_offered_where_nothing_was_cut(run: Run) -> None:
    result = run(create_agent(chat("41"), middleware=[recovering("extend")]))
    assert result["recovery"]["stop_reason"] == "out_of_reach"
    assert texts(result) == [QUESTION, "41"]


def test_escalate_gives_the_stronger_model_all_the_agent_has(run: Run, tools: Tools) -> None:
    model = chat(calling("look_up", what="six"), "41")
    stronger = chat(
        calling("look_up", "2", what="seven"), "42", model_name="stronger", temperature=0.125
    )
    agent = create_agent(
        model, tools.tools, system_prompt="You add.", middleware=[recovering(Escalate(stronger))]
    )
    result = run(agent)
    assert texts(result)[-1] == "42"
    assert tools.calls == ["six", "seven"]
    first, second = stronger.seen
    assert [m.type for m in first.messages] == ["system", "human", "ai", "tool"]
    assert [m.type for m in second.messages] == ["system", "human", "ai", "tool", "ai", "tool"]
    assert first.tools == second.tools == ["look_up"]
    assert {call.temperature for call in stronger.seen} == {0.125}
    assert len(model.seen) == 2
    assert result["recovery"]["attempts"][1]["details"]["model"] == "stronger"
    spent = [attempt["spent"] for attempt in result["recovery"]["attempts"]]
    assert sum(spent) == result["recovery"]["usage"]["tokens"]
    assert_sound(result, model)


def test_escalate_reaches_a_model_behind_a_server(run: Run, tools: Tools) -> None:
    with OpenAIServer() as server:
        stronger = OpenAIModel("openai:specialist", base_url=server.base_url)
        agent = create_agent(
            chat("no"),
            tools.tools,
            middleware=[recovering(Escalate(stronger), verifier=lambda text: text != "no")],
        )
        result = run(agent)
        assert result["recovery"]["solved"], result["recovery"]["error"]
        (asked,) = server.calls("/chat/completions")
    assert [message["content"] for message in asked.body["messages"]] == [QUESTION]
    assert [one["function"]["name"] for one in asked.body["tools"]] == ["look_up"]
    assert_sound(result)


class BestOfTwo:
    """Samples twice and takes the longer."""

    name = "best_of_two"
    needs = frozenset({Capability.SAMPLE})

    def expected_cost(self, lengths: Any) -> int:
        return int(2 * (lengths.prompt + lengths.completion))

    def apply(self, failure: Any, model: Any) -> Attempt:
        generation = model.sample(
            failure.problem.prompt,
            n=2,
            temperature=failure.temperature,
            max_tokens=failure.max_tokens,
            seed=failure.seed,
        )
        return Attempt(max(generation.rollouts, key=lambda one: len(one.text)), {"of": 2})


class Copied(BestOfTwo):
    """Gives a copy of what it chose."""

    name = "copied"

    def apply(self, failure: Any, model: Any) -> Attempt:
        return Attempt(replace(super().apply(failure, model).rollout))


class Known:
    """Asks nobody."""

    name = "known"
    needs: frozenset[Capability] = frozenset()

    def __init__(self, text: str = "it is 42") -> None:
        self.text = text

    def expected_cost(self, lengths: Any) -> int:
        return 1

    def apply(self, failure: Any, model: Any) -> Attempt:
        return Attempt(Rollout(self.text, np.zeros(0, np.int32), "stop"))


@pytest.mark.parametrize("own", [BestOfTwo(), Copied()])
@pytest.mark.parametrize("replies", [["42 it is", "40"], ["40", "42 it is"]])
def test_an_own_intervention_may_sample_several_times(
    run: Run, own: Any, replies: list[str]
) -> None:
    model = chat("41", *(AIMessage(text, additional_kwargs={"own": text}) for text in replies))
    result = run(create_agent(model, middleware=[recovering(own)]))
    assert texts(result) == [QUESTION, "42 it is"]
    assert result["messages"][-1].additional_kwargs["own"] == "42 it is"
    assert len(model.seen) == 3
    assert result["recovery"]["attempts"][1]["spent"] == 2 * len(QUESTION) + len("42 it is40")


def test_an_own_intervention_may_answer_without_a_model(run: Run) -> None:
    model = chat("41")
    result = run(create_agent(model, middleware=[recovering(Known())]))
    assert texts(result) == [QUESTION, "it is 42"]
    assert result["recovery"]["attempts"][1]["spent"] == 0
    assert len(model.seen) == 1


class Afresh(Replan):
    name = "afresh"
    from_start = True


@pytest.mark.parametrize("own", [Restart(), Afresh()])
def test_what_begins_again_calls_the_tools_anew(run: Run, tools: Tools, own: Any) -> None:
    model = chat(
        calling("look_up", what="six"), "41", calling("look_up", "2", what="seven"), "it is 42"
    )
    result = run(create_agent(model, tools.tools, middleware=[recovering(own)]))
    assert tools.calls == ["six", "seven"]
    assert texts(result) == [QUESTION, "", "found seven", "it is 42"]
    assert [len(call.messages) for call in model.seen] == [1, 3, 1, 3]
    instructed = [INSTRUCTION in call.text for call in model.seen]
    assert instructed == [False, False, own.name == "afresh", own.name == "afresh"]
    assert_sound(result, model)


def test_by_default_the_activated_policy_chooses_among_what_an_agent_can_do(run: Run) -> None:
    model = chat("41", repeat=True)
    result = run(create_agent(model, middleware=[RecoveryMiddleware(says_42, seed=0)]))
    assert set(operators(result)[1:]) <= {"retry", "temp_lift", "replan"}
    assert len(result["recovery"]["attempts"]) <= 5
    assert texts(result) == [QUESTION, "41"]
    assert_sound(result, model)


# Tools


def test_tools_that_were_called_are_not_called_again(run: Run, tools: Tools) -> None:
    model = chat(calling("look_up", what="six"), "41", "40", "42")
    result = run(create_agent(model, tools.tools, middleware=[recovering("retry")]))
    assert tools.calls == ["six"]
    assert texts(result) == [QUESTION, "", "found six", "42"]
    assert [len(call.messages) for call in model.seen] == [1, 3, 3, 3]
    assert_sound(result, model)


def test_an_attempt_may_call_tools_and_is_carried_out_throughout(run: Run, tools: Tools) -> None:
    model = chat(
        calling("look_up", what="six"),
        "41",
        calling("look_up", "2", what="seven"),
        calling("look_up", "3", what="eight"),
        "40",
        "42",
        temperature=0.5,
    )
    agent = create_agent(model, tools.tools, middleware=[recovering("temp_lift", "retry")])
    result = run(agent)
    assert tools.calls == ["six", "seven", "eight"]
    assert [call.temperature for call in model.seen] == [0.5, 0.5, 1.0, 1.0, 1.0, 0.5]
    assert kinds(result) == "hatatata"
    attempts = result["recovery"]["attempts"]
    assert len(attempts) == 3
    costs = [len(call.text.replace("\n", "")) for call in model.seen]
    written = [1, 2, 1, 1, 2, 2]
    totals = [read + wrote for read, wrote in zip(costs, written, strict=True)]
    assert [one["spent"] for one in attempts] == [sum(totals[:2]), sum(totals[2:5]), totals[5]]
    assert_sound(result, model)


def test_parallel_tool_calls_stay_together(run: Run, tools: Tools) -> None:
    both = AIMessage(
        "", tool_calls=[tool_call("look_up", "1", what="a"), tool_call("look_up", "2", what="b")]
    )
    model = chat(both, "41", both.model_copy(deep=True), "42")
    result = run(create_agent(model, tools.tools, middleware=[recovering("retry")]))
    assert sorted(tools.calls) == ["a", "a", "b", "b"]
    assert kinds(result) == "hattatta"
    assert len(model.seen) == 4


def test_what_a_tool_returns_directly_is_left_alone(run: Run, store: TraceStore) -> None:
    @tool(return_direct=True)
    def hand_over(what: str) -> str:
        """Hand over."""
        return f"handed over {what}"

    model = chat(calling("hand_over", what="six"))
    agent = create_agent(model, [hand_over], middleware=[recovering("retry", store=store)])
    result = run(agent)
    assert texts(result) == [QUESTION, "", "handed over six"]
    assert result["recovery"] is None
    assert store.query("SELECT * FROM problems") == []


def test_a_tool_that_fails_fails_as_without_us(run: Run) -> None:
    def broken(what: str) -> str:
        """Break."""
        raise OSError(what)

    model = chat("41", calling("broken", what="disk"))
    agent = create_agent(model, [broken], middleware=[recovering("retry")])
    with pytest.raises(OSError, match="disk"):
        run(agent)


def test_tool_calls_that_cannot_be_read_are_an_answer_that_fails(run: Run, tools: Tools) -> None:
    garbled = AIMessage(
        "",
        invalid_tool_calls=[
            {
                "name": "look_up",
                "args": "{",
                "id": "1",
                "error": "no JSON",
                "type": "invalid_tool_call",
            }
        ],
    )
    model = chat(garbled, "42")
    result = run(create_agent(model, tools.tools, middleware=[recovering("retry")]))
    assert texts(result) == [QUESTION, "42"]


# Nothing passes


def test_the_best_comes_back_and_no_failed_answer_stays(run: Run, store: TraceStore) -> None:
    model = chat("10", "30", "20")
    middleware = recovering("retry", verifier=closeness, budget=Budget(max_attempts=3), store=store)
    result = run(create_agent(model, middleware=[middleware]))
    assert texts(result) == [QUESTION, "30"]
    assert mark(result)["verdict"] == "failed"
    recovery = result["recovery"]
    assert (recovery["stop_reason"], recovery["answer"]) == ("budget_exhausted", "30")
    assert [one["text"] for one in recovery["attempts"]] == ["10", "30", "20"]
    assert_stored(store, recovery)
    assert_sound(result, model)


def test_the_first_is_the_best_among_equals(run: Run) -> None:
    model = chat("41", "40", "39")
    middleware = recovering("retry", budget=Budget(max_attempts=3))
    result = run(create_agent(model, middleware=[middleware]))
    assert texts(result) == [QUESTION, "41"]


def test_the_best_of_an_agent_that_went_on_with_tools(run: Run, tools: Tools) -> None:
    model = chat("30", calling("look_up", what="six"), "20")
    middleware = recovering("retry", verifier=closeness, budget=Budget(max_attempts=2))
    result = run(create_agent(model, tools.tools, middleware=[middleware]))
    assert texts(result) == [QUESTION, "", "found six", "30"]
    assert_sound(result, model)


def test_turns_of_a_thread_start_afresh(run: Run) -> None:
    model = chat("10", "20", "100", "5", "6")
    middleware = recovering("retry", verifier=closeness, budget=Budget(max_attempts=2))
    agent = create_agent(model, middleware=[middleware], checkpointer=InMemorySaver())
    first = run(agent, ASKED, THREAD)
    second = run(agent, {"messages": [("user", "more?")]}, THREAD)
    third = run(agent, {"messages": [("user", "less?")]}, THREAD)
    assert texts(third) == [QUESTION, "20", "more?", "100", "less?", "6"]
    assert third["messages"][:4] == second["messages"]
    assert second["messages"][:2] == first["messages"]
    assert [len(one["recovery"]["attempts"]) for one in (first, second, third)] == [2, 1, 2]
    assert third["recovery"]["attempts"][0]["text"] == "5"
    assert [call.messages[-1].text for call in model.seen] == [
        *[QUESTION] * 2,
        "more?",
        *["less?"] * 2,
    ]


def test_turns_of_a_thread_in_sqlite(tmp_path: Path) -> None:
    model = chat("10", "20", "100")
    middleware = recovering("retry", verifier=closeness, budget=Budget(max_attempts=2))
    with SqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
        agent = create_agent(model, middleware=[middleware], checkpointer=saver)
        agent.invoke(ASKED, THREAD)
        result = agent.invoke({"messages": [("user", "more?")]}, THREAD)
    assert texts(result) == [QUESTION, "20", "more?", "100"]
    assert len(result["recovery"]["attempts"]) == 1


async def test_turns_of_a_thread_in_sqlite_asynchronously(tmp_path: Path) -> None:
    model = chat("10", "20", "100")
    middleware = recovering("retry", verifier=closeness, budget=Budget(max_attempts=2))
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
        agent = create_agent(model, middleware=[middleware], checkpointer=saver)
        await agent.ainvoke(ASKED, THREAD)
        result = await agent.ainvoke({"messages": [("user", "more?")]}, THREAD)
    assert texts(result) == [QUESTION, "20", "more?", "100"]
    assert len(result["recovery"]["attempts"]) == 1


# Budget


def test_no_more_tokens_are_spent_than_allowed(run: Run) -> None:
    model = chat("x" * 50, "y" * 50, "z" * 50, repeat=True, max_tokens=60)
    middleware = recovering("retry", budget=Budget(max_attempts=50, max_tokens=200))
    result = run(create_agent(model, middleware=[middleware]))
    recovery = result["recovery"]
    assert recovery["stop_reason"] == "budget_exhausted"
    assert recovery["usage"]["tokens"] <= 200
    assert all(call.max_tokens <= 60 for call in model.seen)  # type: ignore[operator]
    assert texts(result) == [QUESTION, "x" * 50]


def test_the_tokens_left_cap_a_call_but_never_lengthen_it(run: Run) -> None:
    given = []
    for most in (10_000, 60):
        model = chat("41", "40", max_tokens=50)
        budget = Budget(max_attempts=2, max_tokens=most)
        run(create_agent(model, middleware=[recovering("retry", budget=budget)]))
        given.append(model.seen[1].max_tokens)
    left = 60 - 2 * len(QUESTION) - 2
    assert given[0] == 50
    assert given[1] is not None
    assert given[1] <= left


def test_a_stronger_model_is_capped_by_the_tokens_left(run: Run) -> None:
    stronger = chat("42", max_tokens=4000)
    budget = Budget(max_tokens=100)
    agent = create_agent(
        chat("41", max_tokens=50), middleware=[recovering(Escalate(stronger), budget=budget)]
    )
    run(agent)
    assert stronger.seen[0].max_tokens is not None
    assert stronger.seen[0].max_tokens <= 100


def test_what_tools_told_in_mid_recovery_is_foreseen(run: Run) -> None:
    def tell(what: str) -> str:
        """Tell at length."""
        return "long " * 2000

    model = chat("41", calling("tell", what="all"), "never")
    middleware = recovering("retry", budget=Budget(max_tokens=2000))
    result = run(create_agent(model, [tell], middleware=[middleware]))
    assert len(model.seen) == 2
    assert texts(result)[-1] == "41"
    assert result["recovery"]["stop_reason"] == "budget_exhausted"


def test_the_agents_own_first_run_is_not_cut(run: Run) -> None:
    model = chat("41 " * 100)
    middleware = recovering("retry", budget=Budget(max_tokens=10))
    result = run(create_agent(model, middleware=[middleware]))
    assert mark(result)["stop_reason"] == "budget_exhausted"
    assert len(model.seen) == 1


def test_time_in_model_calls_is_limited(run: Run) -> None:
    model = chat("41", repeat=True, seconds=0.03)
    middleware = recovering("retry", budget=Budget(max_attempts=100, max_seconds=0.05))
    result = run(create_agent(model, middleware=[middleware]))
    assert result["recovery"]["stop_reason"] == "budget_exhausted"
    assert len(model.seen) == 2


# What goes wrong


def test_a_model_that_fails_in_an_intervention_costs_no_answer(run: Run, store: TraceStore) -> None:
    model = chat("10", "30", RuntimeError("the server is gone"))
    middleware = recovering("retry", verifier=closeness, store=store)
    result = run(create_agent(model, middleware=[middleware]))
    assert texts(result) == [QUESTION, "30"]
    assert result["recovery"]["stop_reason"] == "model_error"
    assert "the server is gone" in result["recovery"]["error"]
    assert_stored(store, result["recovery"])
    assert_sound(result, model)


def test_a_model_that_fails_in_mid_attempt_costs_no_answer(run: Run, tools: Tools) -> None:
    model = chat("41", calling("look_up", what="six"), RuntimeError("the server is gone"))
    result = run(create_agent(model, tools.tools, middleware=[recovering("retry")]))
    assert texts(result) == [QUESTION, "", "found six", "41"]
    assert result["recovery"]["stop_reason"] == "model_error"


def test_the_agents_own_call_fails_as_without_us(run: Run) -> None:
    agent = create_agent(chat(RuntimeError("no")), middleware=[recovering("retry")])
    with pytest.raises(RuntimeError, match="no"):
        run(agent)


def broken(_: Problem, __: str) -> bool:
    raise RuntimeError("the verifier is broken")


@pytest.mark.parametrize("verifier", [broken, lambda text: "nonsense", lambda text: 7])
def test_a_verifier_at_fault_leaves_the_answer_unscored(
    run: Run, store: TraceStore, verifier: Any
) -> None:
    model = chat("41")
    result = run(
        create_agent(model, middleware=[recovering("retry", verifier=verifier, store=store)])
    )
    assert texts(result) == [QUESTION, "41"]
    assert (mark(result)["verdict"], mark(result)["solved"]) == ("unscored", False)
    assert result["recovery"]["stop_reason"] == "verifier_error"
    assert result["recovery"]["error"]
    assert_stored(store, result["recovery"])


def test_a_verifier_that_breaks_later_leaves_what_it_could_not_judge(run: Run) -> None:
    def once(_: Problem, text: str) -> bool:
        if text == "41":
            return False
        raise RuntimeError("no")

    result = run(create_agent(chat("41", "40"), middleware=[recovering("retry", verifier=once)]))
    assert texts(result) == [QUESTION, "40"]
    assert mark(result)["verdict"] == "unscored"


def test_a_store_that_fails_costs_no_answer(run: Run, tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "traces.db")
    middleware = recovering("retry", store=store)
    store.close()
    result = run(create_agent(chat("41"), middleware=[middleware]))
    assert texts(result) == [QUESTION, "41"]
    assert mark(result)["verdict"] == "unscored"
    assert "closed" in result["recovery"]["error"]


class Breaks(InTurn):
    """A router that decides a few times and then is at fault."""

    def __init__(self, after: int, error: Exception) -> None:
        super().__init__("retry")
        self.after, self.error = after, error

    def decide(self, evidence: Any) -> Decision:
        self.after -= 1
        if self.after < 0:
            raise self.error
        return super().decide(evidence)


@pytest.mark.parametrize("error", [PolicyError("no policy"), ValueError("no number")])
@pytest.mark.parametrize("after", [0, 1])
def test_a_router_at_fault_costs_no_answer(run: Run, error: Exception, after: int) -> None:
    middleware = recovering("retry", router=Breaks(after, error))
    result = run(create_agent(chat("41", "40"), middleware=[middleware]))
    assert texts(result) == [QUESTION, ["41", "40"][after]]
    assert mark(result)["verdict"] == "unscored"
    assert result["recovery"]["error"] == str(error)


def test_a_router_at_fault_after_a_refusal_costs_no_answer(run: Run) -> None:
    router = Breaks(1, PolicyError("gone"))
    middleware = recovering("retry", "replan", router=router, approve=["retry"])
    agent = create_agent(chat("41"), middleware=[middleware], checkpointer=InMemorySaver())
    run(agent, ASKED, THREAD)
    result = run(agent, Command(resume=False), THREAD)
    assert texts(result) == [QUESTION, "41"]
    assert result["recovery"]["error"] == "gone"


def test_a_router_that_chooses_what_there_is_not_costs_no_answer(run: Run) -> None:
    class Wild(InTurn):
        def decide(self, evidence: Any) -> Decision:
            return Decision("pray", "sampling", 1.0, 0.5, (), "wild")

    result = run(create_agent(chat("41"), middleware=[recovering("retry", router=Wild())]))
    assert texts(result) == [QUESTION, "41"]
    assert "pray" in result["recovery"]["error"]


# Structured output


def _formats() -> Iterator[Any]:
    for name, format_ in (
        ("tool", ToolStrategy(Answer)),
        ("auto", Answer),
        ("dataclass", AnswerRecord),
        ("typed dict", AnswerDict),
        ("json schema", JSON_SCHEMA),
    ):
        yield pytest.param(format_, False, id=name)
    yield pytest.param(ProviderStrategy(Answer), True, id="provider")
    yield pytest.param(Answer, True, id="auto provider")


FORMATS = list(_formats())


def structured(format_: Any, native: bool, *values: int, last: Any = None, **more: Any) -> Any:
    """A model that answers these values in the form wanted, and an agent's arguments."""
    name = getattr(format_, "__name__", "Answer")
    replies: list[Any] = []
    for position, value in enumerate(values):
        as_json = f'{{"value": {value}}}'
        replies.append(as_json if native else calling(name, f"s{position}", value=value))
    fields = {"profile": {"structured_output": True}} if native else {}
    return chat(*replies, *([] if last is None else [last]), **fields, **more)


def value_of(result: Any) -> int:
    given = result["structured_response"]
    return int(given["value"] if isinstance(given, dict) else given.value)


@pytest.mark.parametrize(("format_", "native"), FORMATS)
def test_structured_output_that_fails_and_then_passes(
    run: Run, tools: Tools, format_: Any, native: bool
) -> None:
    for own_tools in ([], tools.tools):
        model = structured(format_, native, 41, 40, 42)
        agent = create_agent(
            model, own_tools, response_format=format_, middleware=[recovering("retry")]
        )
        result = run(agent)
        assert value_of(result) == 42
        assert kinds(result) == ("ha" if native else "hat")
        assert result["recovery"]["attempts"][0]["text"] in ('{"value":41}', '{"value": 41}')
        assert [len(call.messages) for call in model.seen] == [1, 1, 1]
        assert mark(result)["operator"] == "retry"
        assert_sound(result)


@pytest.mark.parametrize(("format_", "native"), FORMATS)
def test_structured_output_that_never_passes(run: Run, format_: Any, native: bool) -> None:
    model = structured(format_, native, 10, 30, 20)
    middleware = recovering("retry", verifier=closeness, budget=Budget(max_attempts=3))
    agent = create_agent(model, response_format=format_, middleware=[middleware])
    result = run(agent)
    assert value_of(result) == 30
    assert kinds(result) == ("ha" if native else "hat")
    assert "30" in str(result["messages"][1].content) + str(result["messages"][1].tool_calls)
    assert "30" in str(result["messages"][-1].content)
    assert_sound(result)


@pytest.mark.parametrize(("format_", "native"), FORMATS)
def test_structured_output_and_a_model_that_fails(run: Run, format_: Any, native: bool) -> None:
    model = structured(format_, native, 41, last=RuntimeError("gone"))
    agent = create_agent(model, response_format=format_, middleware=[recovering("retry")])
    result = run(agent, ASKED, {"recursion_limit": 30})
    assert value_of(result) == 41
    assert kinds(result) == ("ha" if native else "hat")
    assert len(model.seen) == 2
    assert result["recovery"]["stop_reason"] == "model_error"


@pytest.mark.parametrize(("format_", "native"), FORMATS)
@pytest.mark.parametrize("text", ['{"value": 42}', "forty-two"])
def test_structured_output_and_an_intervention_without_a_model(
    run: Run, format_: Any, native: bool, text: str
) -> None:
    model = structured(format_, native, 41)
    agent = create_agent(model, response_format=format_, middleware=[recovering(Known(text))])
    result = run(agent, ASKED, {"recursion_limit": 30})
    assert value_of(result) == (42 if text.startswith("{") else 41)
    assert result["recovery"]["solved"] is text.startswith("{")
    if not result["recovery"]["solved"]:
        assert "is not the JSON of" in result["recovery"]["error"]
    assert_sound(result)


def test_escalate_and_structured_output(run: Run) -> None:
    """The stronger model may give it in another way."""
    stronger = chat('{"value": 42}', profile={"structured_output": True})
    model = structured(Answer, False, 41)
    agent = create_agent(model, response_format=Answer, middleware=[recovering(Escalate(stronger))])
    result = run(agent)
    assert value_of(result) == 42
    assert kinds(result) == "ha"


def test_the_json_schema_verifier_sees_structured_output(run: Run) -> None:
    schema = {"type": "object", "properties": {"value": {"minimum": 42}}}
    agent = create_agent(
        structured(Answer, False, 41, 43),
        response_format=Answer,
        middleware=[recovering("retry", verifier="json_schema")],
    )
    result = run(agent, {**ASKED, "problem": {"answer": schema}})
    assert (value_of(result), result["recovery"]["solved"]) == (43, True)


def test_what_langchain_has_corrected_is_no_answer(run: Run) -> None:
    wrong = calling("Answer", value="many")
    model = chat(wrong, calling("Answer", "2", value=41), wrong, calling("Answer", "3", value=42))
    agent = create_agent(
        model, response_format=ToolStrategy(Answer), middleware=[recovering("retry")]
    )
    result = run(agent)
    assert value_of(result) == 42
    assert [one["text"] for one in result["recovery"]["attempts"]] == [
        '{"value":41}',
        '{"value":42}',
    ]
    assert_sound(result)


def test_what_langchain_does_not_correct_is_paid_all_the_same(run: Run) -> None:
    model = chat(calling("Answer", value=41), calling("Answer", "2", value="many"))
    agent = create_agent(
        model,
        response_format=ToolStrategy(Answer, handle_errors=False),
        middleware=[recovering("retry")],
    )
    result = run(agent)
    assert value_of(result) == 41
    assert result["recovery"]["stop_reason"] == "model_error"
    assert result["recovery"]["usage"]["tokens"] == 2 * (len(QUESTION) + 1)


def test_a_tool_and_the_answer_called_at_once(run: Run, tools: Tools) -> None:
    both = AIMessage(
        "", tool_calls=[tool_call("look_up", "1", what="a"), tool_call("Answer", "2", value=41)]
    )
    model = chat(both, calling("Answer", "3", value=42))
    agent = create_agent(
        model, tools.tools, response_format=ToolStrategy(Answer), middleware=[recovering("retry")]
    )
    result = run(agent)
    assert value_of(result) == 42
    assert kinds(result) == "hat"
    assert_sound(result)


def test_structured_output_turn_by_turn(run: Run) -> None:
    model = structured(Answer, False, 10, 30, 20, 100)
    middleware = recovering("retry", verifier=closeness, budget=Budget(max_attempts=2))
    agent = create_agent(
        model, response_format=Answer, middleware=[middleware], checkpointer=InMemorySaver()
    )
    assert value_of(run(agent, ASKED, THREAD)) == 30
    result = run(agent, {"messages": [("user", "more?")]}, THREAD)
    assert value_of(result) == 100
    assert kinds(result) == "hathat"
    assert_sound(result)


# Interrupts


def gate(**options: Any) -> Any:
    return HumanInTheLoopMiddleware(interrupt_on={"look_up": True}, **options)


APPROVED = Command(resume={"decisions": [{"type": "approve"}]})


@pytest.mark.parametrize("ours_last", [True, False])
def test_tool_approval_passes_through(run: Run, tools: Tools, ours_last: bool) -> None:
    model = chat(calling("look_up", what="six"), "41", calling("look_up", "2", what="seven"), "42")
    stack = [gate(), recovering("retry")]
    agent = create_agent(
        model,
        tools.tools,
        middleware=stack if ours_last else stack[::-1],
        checkpointer=InMemorySaver(),
    )
    before = run(agent, ASKED, THREAD)
    assert (len(questions(before)), tools.calls, len(model.seen)) == (1, [], 1)
    during = run(agent, APPROVED, THREAD)
    assert (len(questions(during)), tools.calls, len(model.seen)) == (1, ["six"], 3)
    result = run(agent, APPROVED, THREAD)
    assert not questions(result)
    assert (tools.calls, len(model.seen)) == (["six", "seven"], 4)
    assert texts(result)[-1] == "42"
    assert operators(result) == ["sample", "retry"]
    assert_sound(result, model)


def test_approval_of_an_intervention(run: Run, store: TraceStore) -> None:
    stronger = chat("42")
    model = chat("41")
    middleware = recovering(Escalate(stronger), approve=["escalate"], store=store)
    agent = create_agent(model, middleware=[middleware], checkpointer=InMemorySaver())
    asked = run(agent, ASKED, THREAD)
    assert questions(asked)[0]["operator"] == "escalate"
    assert (len(model.seen), len(stronger.seen)) == (1, 0)
    again = run(agent, Command(resume="perhaps"), THREAD)
    assert questions(again)[0]["not_understood"] == "'perhaps'"
    result = run(agent, Command(resume=True), THREAD)
    assert texts(result) == [QUESTION, "42"]
    assert (len(model.seen), len(stronger.seen)) == (1, 1)
    assert_stored(store, result["recovery"])


def test_what_is_refused_is_not_tried(run: Run) -> None:
    stronger, model = chat("42"), chat("41", "40", "39")
    middleware = recovering(
        Escalate(stronger), "retry", approve=["escalate"], budget=Budget(max_attempts=3)
    )
    agent = create_agent(model, middleware=[middleware], checkpointer=InMemorySaver())
    run(agent, ASKED, THREAD)
    result = run(agent, Command(resume=False), THREAD)
    assert (len(model.seen), len(stronger.seen)) == (3, 0)
    assert operators(result) == ["sample", "retry", "retry"]
    assert texts(result) == [QUESTION, "41"]


def test_where_all_is_refused_the_best_comes_back(run: Run) -> None:
    model = chat("41")
    middleware = recovering("retry", approve=["retry"])
    agent = create_agent(model, middleware=[middleware], checkpointer=InMemorySaver())
    run(agent, ASKED, THREAD)
    result = run(agent, Command(resume=False), THREAD)
    assert texts(result) == [QUESTION, "41"]
    assert mark(result)["stop_reason"] == "out_of_reach"


@pytest.mark.parametrize("answer", [True, False])
def test_what_the_context_had_approved_is_so_for_whoever_goes_on(run: Run, answer: bool) -> None:
    model = chat("41", "42")
    agent = create_agent(
        model,
        middleware=[recovering("retry")],
        context_schema=RecoveryContext,
        checkpointer=InMemorySaver(),
    )
    assert questions(run(agent, ASKED, THREAD, context={"approve": ["retry"]}))
    result = run(agent, Command(resume=answer), THREAD)
    assert texts(result) == [QUESTION, "42" if answer else "41"]
    assert len(model.seen) == (2 if answer else 1)


def person(_: Problem, text: str) -> bool:
    return bool(interrupt({"judge": text}))


def test_a_verifier_may_ask_a_person(run: Run, store: TraceStore) -> None:
    model = chat("41", "42")
    middleware = recovering("retry", verifier=person, store=store)
    agent = create_agent(model, middleware=[middleware], checkpointer=InMemorySaver())
    assert questions(run(agent, ASKED, THREAD)) == [{"judge": "41"}]
    assert questions(run(agent, Command(resume=False), THREAD)) == [{"judge": "42"}]
    result = run(agent, Command(resume=True), THREAD)
    assert texts(result) == [QUESTION, "42"]
    assert len(model.seen) == 2
    assert_stored(store, result["recovery"])


class Asks(BestOfTwo):
    """Samples, asks a person which of them it shall be, samples once more."""

    name = "asks"

    def apply(self, failure: Any, model: Any) -> Attempt:
        first = super().apply(failure, model)
        return super().apply(failure, model) if interrupt("again?") else first


@pytest.mark.parametrize("again", [True, False])
def test_an_own_intervention_may_ask_a_person(run: Run, again: bool) -> None:
    model = chat("41", "42 first", "40", "42 again", "39")
    agent = create_agent(model, middleware=[recovering(Asks())], checkpointer=InMemorySaver())
    assert questions(run(agent, ASKED, THREAD)) == ["again?"]
    assert len(model.seen) == 3
    result = run(agent, Command(resume=again), THREAD)
    assert texts(result) == [QUESTION, "42 again" if again else "42 first"]
    assert len(model.seen) == (5 if again else 3)
    read = result["recovery"]["usage"]["prompt_tokens"]
    assert read == len(model.seen) * len(QUESTION)


def test_another_agent_over_the_same_file_goes_on(tmp_path: Path, store: TraceStore) -> None:
    path = str(tmp_path / "threads.db")

    def made(model: ScriptedChat, stronger: ScriptedChat, saver: Any) -> Any:
        middleware = recovering(Escalate(stronger), approve=["escalate"], store=store)
        return create_agent(model, middleware=[middleware], checkpointer=saver)

    with SqliteSaver.from_conn_string(path) as saver:
        paused = made(chat("41"), chat(), saver).invoke(ASKED, THREAD)
        assert questions(paused)
    later, stronger = chat(), chat("42")
    with SqliteSaver.from_conn_string(path) as saver:
        result = made(later, stronger, saver).invoke(Command(resume=True), THREAD)
    assert texts(result) == [QUESTION, "42"]
    assert (len(later.seen), len(stronger.seen)) == (0, 1)
    assert_stored(store, result["recovery"])


def test_a_thread_can_be_taken_back(run: Run, store: TraceStore) -> None:
    model = chat("41", "40", "39", "42")
    middleware = recovering("retry", store=store, budget=Budget(max_attempts=3))
    agent = create_agent(model, middleware=[middleware], checkpointer=InMemorySaver())
    first = run(agent, ASKED, THREAD)
    assert texts(first) == [QUESTION, "41"]
    judged = [
        snapshot
        for snapshot in agent.get_state_history(THREAD)
        if snapshot.next and snapshot.next[0].endswith("before_model")
    ]
    again = run(agent, None, judged[0].config)  # before the last attempt
    assert texts(again) == [QUESTION, "42"]
    assert [one["text"] for one in again["recovery"]["attempts"]] == ["41", "40", "42"]
    assert_stored(store, again["recovery"])
    assert len(model.seen) == 4


def test_checkpoints_hold_plain_data() -> None:
    """A checkpointer need not know our types."""
    middleware = recovering("retry", approve=["retry"])
    agent = create_agent(chat("41"), middleware=[middleware], checkpointer=InMemorySaver())
    agent.invoke(ASKED, THREAD)
    state = agent.get_state(THREAD).values["recovering"]

    def types(value: Any) -> set[type]:
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        found = set().union(*map(types, inner)) if isinstance(value, dict | list) else set()
        return found | {type(value)}

    assert types(state) <= {str, int, float, bool, type(None), list, dict, AIMessage}


# With other middleware


@pytest.mark.parametrize("ours_last", [True, False])
def test_a_limit_of_model_calls_in_mid_recovery(run: Run, ours_last: bool) -> None:
    model = chat("10", "30", "20", repeat=True)
    stack = [
        ModelCallLimitMiddleware(run_limit=3),
        recovering("retry", verifier=closeness, budget=Budget(max_attempts=50)),
    ]
    agent = create_agent(model, middleware=stack if ours_last else stack[::-1])
    result = run(agent)
    assert texts(result) == [QUESTION, "30"]
    assert result["recovery"]["stop_reason"] == "budget_exhausted"
    assert len(model.seen) == 3
    assert_sound(result, model)


def test_a_limit_of_tool_calls_in_mid_recovery(run: Run, tools: Tools) -> None:
    model = chat("41", calling("look_up", what="a"), calling("look_up", "2", what="b"))
    stack = [ToolCallLimitMiddleware(run_limit=1, exit_behavior="end"), recovering("retry")]
    result = run(create_agent(model, tools.tools, middleware=stack))
    assert tools.calls == ["a"]
    assert texts(result)[-1] == "41"
    assert_sound(result, model)


def test_a_limit_before_any_answer_stands_as_it_is(run: Run, store: TraceStore) -> None:
    stack = [ModelCallLimitMiddleware(thread_limit=1), recovering("retry", store=store)]
    agent = create_agent(chat("42"), middleware=stack, checkpointer=InMemorySaver())
    run(agent, ASKED, THREAD)
    result = run(agent, ASKED, THREAD)
    assert "limit" in texts(result)[-1]
    assert result["recovery"] is None


def test_redaction_comes_before_the_verdict(run: Run) -> None:
    seen = []

    def verifier(_: Problem, text: str) -> bool:
        seen.append(text)
        return "42" in text

    model = chat("ask a@b.example", "42, says a@b.example")
    stack = [
        PIIMiddleware("email", apply_to_output=True),
        recovering("retry", verifier=verifier),
    ]
    result = run(create_agent(model, middleware=stack))
    assert seen == ["ask [REDACTED_EMAIL]", "42, says [REDACTED_EMAIL]"]
    assert texts(result) == [QUESTION, "42, says [REDACTED_EMAIL]"]
    assert_sound(result, model)


def test_summaries_of_what_was_before(run: Run, tools: Tools) -> None:
    model = chat(calling("look_up", what="x" * 400), "41", "40", "42")
    summary = SummarizationMiddleware(
        chat("it was long", repeat=True), trigger=("messages", 3), keep=("messages", 1)
    )
    agent = create_agent(
        model, tools.tools, middleware=[summary, recovering("replan", "retry", "retry")]
    )
    result = run(agent)
    assert texts(result)[-1] == "42"
    assert operators(result) == ["sample", "replan", "retry"]
    assert [INSTRUCTION in call.text for call in model.seen] == [False, False, True, False]
    assert_sound(result, model)


@pytest.mark.parametrize("ours_last", [True, False])
def test_a_fallback_model(run: Run, ours_last: bool) -> None:
    model = chat(RuntimeError("down"), "41", "40", "42")
    spare = chat("41", repeat=True, model_name="spare")
    stack = [ModelFallbackMiddleware(spare), recovering("retry")]
    agent = create_agent(model, middleware=stack if ours_last else stack[::-1])
    result = run(agent)
    assert (len(spare.seen), len(model.seen)) == (1, 4)
    assert texts(result) == [QUESTION, "42"]


def test_a_fallback_inside_an_intervention(run: Run) -> None:
    model = chat("41", RuntimeError("down"))
    spare = chat("42", model_name="spare")
    agent = create_agent(model, middleware=[recovering("retry"), ModelFallbackMiddleware(spare)])
    assert texts(run(agent)) == [QUESTION, "42"]


class Ends(AgentMiddleware[Any, Any, Any]):
    """Counts how often the agent ends, and blocks a question when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.ended, self.blocks = 0, False

    @hook_config(can_jump_to=["end"])
    def before_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        return {"messages": [AIMessage("blocked")], "jump_to": "end"} if self.blocks else None

    def after_agent(self, state: Any, runtime: Any) -> None:
        self.ended += 1


def test_put_last_what_others_do_at_the_end_they_do_once(run: Run) -> None:
    counts = []
    for ours_last in (True, False):
        ends, model = Ends(), chat("41", "42")
        stack = [ends, recovering("retry")]
        result = run(create_agent(model, middleware=stack if ours_last else stack[::-1]))
        assert texts(result) == [QUESTION, "42"]
        counts.append(ends.ended)
    assert counts == [1, 2]


def test_what_a_failed_run_left_behind_is_not_taken_for_the_next_answer(run: Run) -> None:
    def broken_tool(what: str) -> str:
        """Break."""
        raise OSError(what)

    ends, model = Ends(), chat("41", calling("broken_tool", what="disk"))
    agent = create_agent(
        model, [broken_tool], middleware=[ends, recovering("retry")], checkpointer=InMemorySaver()
    )
    with pytest.raises(OSError, match="disk"):
        run(agent, ASKED, THREAD)
    ends.blocks = True
    result = run(agent, {"messages": [("user", "something bad")]}, THREAD)
    assert texts(result)[-2:] == ["something bad", "blocked"]
    assert result["recovery"] is None


class Nags(AgentMiddleware[Any, Any, Any]):
    """Has the agent answer once more, now and then."""

    def __init__(self, *when: int) -> None:
        super().__init__()
        self.when, self.calls = when, 0

    @hook_config(can_jump_to=["model"])
    def after_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        self.calls += 1
        if self.calls not in self.when:
            return None
        return {"messages": [HumanMessage("be brief")], "jump_to": "model"}


@pytest.mark.parametrize("when", [1, 2])
def test_what_others_have_the_agent_asked_besides(run: Run, when: int) -> None:
    stack = [ModelCallLimitMiddleware(run_limit=4), Nags(when), recovering("retry")]
    result = run(create_agent(chat("10", "20", "30", "40"), middleware=stack))
    assert texts(result)[-1] == ("20" if when == 1 else "10")
    assert len([text for text in texts(result) if "limit" in text]) == 0
    assert_sound(result)


def test_calls_are_tried_again_by_what_comes_after_ours(run: Run) -> None:
    model = chat("41", RuntimeError("once"), "42")
    again = ModelRetryMiddleware(max_retries=1, initial_delay=0.0)
    result = run(create_agent(model, middleware=[recovering("retry"), again]))
    assert texts(result) == [QUESTION, "42"]
    assert len(model.seen) == 3


def test_a_model_that_others_put_in_is_varied_as_well(run: Run) -> None:
    class PutsIn(AgentMiddleware[Any, Any, Any]):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(self.changed(request))

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            return await handler(self.changed(request))

        def changed(self, request: Any) -> Any:
            settings = {"temperature": 0.25, "max_tokens": 70}
            return request.override(model=other, model_settings=settings)

    cut = AIMessage("41", response_metadata={"finish_reason": "length"})
    model, other = chat("never"), chat(cut, "40", "39", "42")
    agent = create_agent(model, middleware=[PutsIn(), recovering("extend", "temp_lift", "retry")])
    result = run(agent)
    assert texts(result) == [QUESTION, "42"]
    assert [call.kwargs["max_tokens"] for call in other.seen] == [70, 140, 70, 70]
    assert [call.kwargs["temperature"] for call in other.seen] == [0.25, 0.25, 1.0, 0.25]
    assert model.seen == []


class Removes(AgentMiddleware[Any, Any, Any]):
    """Takes the model's answer away."""

    def after_model(self, state: Any, runtime: Any) -> dict[str, Any]:
        return {"messages": [RemoveMessage(id=state["messages"][-1].id)]}


def test_an_answer_that_others_take_away_is_none(run: Run) -> None:
    agent = create_agent(chat("41"), middleware=[Removes(), recovering("retry")])
    assert texts(run(agent)) == [QUESTION]


def test_agents_in_threads_share_the_middleware(store: TraceStore) -> None:
    middleware = recovering(BestOfTwo(), "temp_lift", store=store)

    def reply(messages: Any) -> str:
        return f"about {messages[-1].text}"

    def verifier(problem: Problem, text: str) -> Verdict:
        tries[problem.prompt] = tries.get(problem.prompt, 0) + 1
        assert problem.prompt in text
        return Verdict("passed" if tries[problem.prompt] == 3 else "failed")

    tries: dict[str, int] = {}
    middleware = recovering(BestOfTwo(), "temp_lift", verifier=verifier, store=store)
    agents = [
        create_agent(
            chat(reply, repeat=True, model_name=name, temperature=0.5), middleware=[middleware]
        )
        for name in ("one", "other")
    ]

    def asked(number: int) -> Any:
        return agents[number % 2].invoke({"messages": [("user", f"question {number:02}")]})

    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(asked, range(20)))
    for number, result in enumerate(results):
        assert texts(result) == [f"question {number:02}", f"about question {number:02}"]
        assert operators(result) == ["sample", "best_of_two", "temp_lift"]
    assert_stored(store, *(result["recovery"] for result in results))
    assert len(store.query("SELECT id FROM runs")) == 2


def test_an_agent_as_a_node_of_another_graph(run: Run) -> None:
    model = chat("41", "42")
    builder = StateGraph(MessagesState)
    builder.add_node("agent", create_agent(model, middleware=[recovering("retry")]))
    builder.add_edge(START, "agent")
    builder.add_edge("agent", END)
    result = run(builder.compile(checkpointer=InMemorySaver()), ASKED, THREAD)
    assert texts(result) == [QUESTION, "42"]
    assert mark(result)["solved"] is True


def test_an_agent_as_a_tool_of_another(run: Run) -> None:
    inner_model = chat("6*7 is 41", "6*7 is 42")
    shared = recovering("retry")
    inner = create_agent(inner_model, middleware=[shared])

    def add(question: str) -> str:
        """Add."""
        return str(inner.invoke({"messages": [("user", question)]})["messages"][-1].text)

    model = chat(calling("add", question="6*7"), "it is 41", "it is 42")
    result = run(create_agent(model, [add], middleware=[shared]))
    assert texts(result) == [QUESTION, "", "6*7 is 42", "it is 42"]
    assert (len(inner_model.seen), len(model.seen)) == (2, 3)


@dataclass
class Tenant:
    name: str


def test_an_agents_own_context_is_left_to_it(run: Run) -> None:
    agent = create_agent(chat("41", "42"), middleware=[recovering("retry")], context_schema=Tenant)
    assert texts(run(agent, ASKED, context=Tenant("one"))) == [QUESTION, "42"]


def test_a_context_of_ours_changes_the_settings(run: Run) -> None:
    model = chat("41", "40", "39", repeat=True, temperature=0.5)
    agent = create_agent(
        model, middleware=[recovering("retry", "temp_lift")], context_schema=RecoveryContext
    )
    result = run(agent, context={"max_attempts": 2, "interventions": ["temp_lift"]})
    assert operators(result) == ["sample", "temp_lift"]
    assert len(run(agent)["recovery"]["attempts"]) == 5
    with pytest.raises(InvalidInputError, match=r"'pray'.*retry, temp_lift"):
        run(agent, context={"interventions": ["pray"]})


# Streaming and cancelling


def test_events_are_streamed() -> None:
    model = chat("41", "42")
    agent = create_agent(model, middleware=[recovering("retry")])
    events = list(agent.stream(ASKED, stream_mode="custom"))
    assert [one["type"] for one in events] == [
        "attempt",
        "features",
        "decision",
        "attempt",
        "finished",
    ]


async def test_events_are_streamed_asynchronously() -> None:
    model = chat("41", "42")
    agent = create_agent(model, middleware=[recovering("retry")])
    modes: dict[str, list[Any]] = {"custom": [], "updates": [], "messages": []}
    async for mode, part in agent.astream(ASKED, stream_mode=[*modes]):
        modes[mode].append(part)
    assert [one["type"] for one in modes["custom"]][-2:] == ["attempt", "finished"]
    nodes = [name for update in modes["updates"] for name in update]
    assert nodes.count("model") == 2
    told = [
        part.text for part, _ in modes["messages"] if isinstance(part, AIMessageChunk | AIMessage)
    ]
    assert {"41", "42"} <= set(told)


async def test_cancelling_leaves_nothing_behind() -> None:
    model = chat("41", "40", "39", "38", seconds=0.2)
    agent = create_agent(model, middleware=[recovering(BestOfTwo())])
    before = set(threading.enumerate())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await agent.ainvoke(ASKED)
    await asyncio.sleep(0.5)
    assert len(model.seen) == 2
    assert len(asyncio.all_tasks()) == 1
    started = [one for one in threading.enumerate() if one not in before]
    assert all(one.daemon or one.name.startswith(("asyncio_", "recov-graph")) for one in started)


async def test_many_at_once_do_not_wait_for_each_other() -> None:
    """The model runs in threads of the loop; those who wait for it must not take them all."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    middleware = recovering("retry")

    async def asked() -> Any:
        agent = create_agent(chat("41", "40", "42", seconds=0.01), middleware=[middleware])
        return await agent.ainvoke(ASKED)

    async with asyncio.timeout(10):
        results = await asyncio.gather(*(asked() for _ in range(8)))
    assert {texts(result)[-1] for result in results} == {"42"}


class Ponders(BestOfTwo):
    """Takes its time between two calls."""

    name = "ponders"

    def apply(self, failure: Any, model: Any) -> Attempt:
        super().apply(failure, model)
        time.sleep(0.2)
        return super().apply(failure, model)


async def test_nothing_is_paid_after_cancelling() -> None:
    model = chat("41", "40", repeat=True)
    agent = create_agent(model, middleware=[recovering(Ponders())])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await agent.ainvoke(ASKED)
    await asyncio.sleep(0.3)
    assert len(model.seen) == 3


# What is asked


def test_a_problem_tells_the_verifier_what_is_right(run: Run) -> None:
    seen: list[Problem] = []

    def verifier(problem: Problem, text: str) -> bool:
        seen.append(problem)
        return text == str(problem.answer)

    agent = create_agent(
        chat("41", "42"),
        middleware=[recovering("retry", verifier=verifier)],
        checkpointer=InMemorySaver(),
    )
    given = {"answer": 42, "task": "sums", "metadata": {"level": 1}}
    result = run(agent, {**ASKED, "problem": given}, THREAD)
    assert result["recovery"]["solved"]
    assert (seen[0].prompt, seen[0].task, seen[0].metadata["level"]) == (QUESTION, "sums", 1)
    assert "problem" not in result
    agent = create_agent(
        chat("6"), middleware=[recovering("retry", verifier=verifier)], checkpointer=InMemorySaver()
    )
    run(agent, {"messages": [("user", "5+1?")], "problem": {"prompt": "", "answer": 6}}, THREAD)
    assert (seen[-1].prompt, seen[-1].answer) == ("5+1?", 6)


def test_a_problem_is_for_its_question_only(run: Run) -> None:
    model = chat("42", "7")
    agent = create_agent(
        model,
        middleware=[recovering("retry", verifier="numeric")],
        checkpointer=InMemorySaver(),
    )
    first = run(agent, {**ASKED, "problem": {"answer": 42}}, THREAD)
    second = run(agent, {"messages": [("user", "and 7?")]}, THREAD)
    assert first["recovery"]["solved"]
    assert second["messages"][-1].additional_kwargs["recovery"]["verdict"] == "unscored"


def test_a_problem_that_is_none_is_refused(run: Run) -> None:
    agent = create_agent(chat("42"), middleware=[recovering("retry")])
    with pytest.raises(InvalidInputError, match="unknown field 'answr'"):
        run(agent, {**ASKED, "problem": {"answr": 42}})


@pytest.mark.parametrize(
    "messages", [[], [("user", "")], [("user", "  ")], [("system", "add")], [("ai", "hello")]]
)
def test_without_a_question_the_agent_is_left_alone(run: Run, messages: Any) -> None:
    model = chat("41")
    result = run(create_agent(model, middleware=[recovering("retry")]), {"messages": messages})
    assert texts(result)[-1] == "41"
    assert len(model.seen) == 1
    assert result["recovery"] is None


@pytest.mark.parametrize("text", ["", "\ud800 lone", "x" * 100_000, "\x00"])
def test_odd_answers(run: Run, store: TraceStore, text: str) -> None:
    model = chat(text, "42")
    result = run(create_agent(model, middleware=[recovering("retry", store=store)]))
    assert texts(result) == [QUESTION, "42"]
    assert len(result["recovery"]["attempts"]) == 2
    assert_stored(store, result["recovery"])


def test_answers_in_blocks(run: Run) -> None:
    blocks = [{"type": "text", "text": "it is "}, {"type": "text", "text": "42"}]
    result = run(create_agent(chat("41", AIMessage(blocks)), middleware=[recovering("retry")]))
    assert result["messages"][-1].content == blocks
    assert result["recovery"]["answer"] == "it is 42"


def test_the_system_prompt_is_not_touched(run: Run) -> None:
    model = chat("41", "42")
    prompt = SystemMessage([{"type": "text", "text": "You add."}])
    run(create_agent(model, system_prompt=prompt, middleware=[recovering("replan")]))
    assert [call.messages[0] for call in model.seen] == [prompt, prompt]


# Refused at once


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"interventions": ["sparse_steer"]}, "'sparse_steer' needs .*retry, temp_lift, replan"),
        ({"interventions": [Escalate("embedded")]}, "reached by no chat model"),
        ({"interventions": ["pray"]}, "'pray'.*retry"),
        ({"interventions": ["escalate"]}, "'escalate'.*Escalate\\(model\\)"),
        ({"interventions": []}, "no intervention was chosen"),
        ({"interventions": [7]}, "7 is no intervention"),
        ({"budget": 5}, "budget is 5; it must be a Budget"),
        ({"approve": ["pray"]}, "approve names 'pray'.*retry"),
        ({"approve": "retry"}, "approve is 'retry'"),
        ({"router": 7}, "7"),
        ({"store": 7}, "store is 7"),
        ({"seed": "x"}, "seed is 'x'"),
    ],
)
def test_bad_settings_are_refused_when_it_is_made(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        RecoveryMiddleware(says_42, **options)


async def async_verifier(text: str) -> bool:
    return True


@pytest.mark.parametrize(
    "verifier", ["pray", 7, lambda: True, lambda a, b, c: True, async_verifier, Verdict]
)
def test_a_bad_verifier_is_refused_when_it_is_made(verifier: Any) -> None:
    with pytest.raises(InvalidInputError):
        RecoveryMiddleware(verifier)


def test_what_others_registered_for_other_models_does_not_matter() -> None:
    class Scored(TempLift):
        name = "scored"
        needs = frozenset({Capability.SAMPLE, Capability.SCORE})

    class Mine(Retry):
        name = "mine"

    for one in (Scored(), Mine()):
        register(one)
    try:
        assert "mine" in RecoveryMiddleware(says_42).settings.interventions
        assert "scored" not in RecoveryMiddleware(says_42).settings.interventions
        with pytest.raises(InvalidInputError, match=r"'scored' needs score.*mine"):
            RecoveryMiddleware(says_42, interventions=["scored"])
    finally:
        unregister("scored")
        unregister("mine")


def test_without_langchain_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['langchain'] = None\n"
        "import recov_graph\n"
        "from recov_graph.errors import MissingExtraError\n"
        "try:\n"
        "    import recov_graph.agents\n"
        "except MissingExtraError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'recov-graph[agents]'" in done.stdout


def test_a_verifier_sees_the_conversation_with_the_tools_results(run: Run) -> None:
    def as_the_tool_said(problem: Problem, text: str) -> bool:
        said = [m.text for m in problem.metadata["messages"] if m.type == "tool"]
        return said == [text]

    def add(a: int, b: int) -> int:
        """The sum."""
        return a + b

    call = {"name": "add", "args": {"a": 40, "b": 2}, "id": "1"}
    model = chat(AIMessage("", tool_calls=[call]), "41", "42")
    middleware = RecoveryMiddleware(as_the_tool_said, interventions=["retry"], seed=0)
    result = run(create_agent(model, [add], middleware=[middleware]))
    assert texts(result)[-1] == "42"
    assert operators(result) == ["sample", "retry"]


def test_an_answer_without_the_structure_asked_for_has_failed(run: Run) -> None:
    reached: list[str] = []

    def verifier(text: str) -> bool:
        reached.append(text)
        return True

    def look(what: str) -> str:
        """Looks it up; with a tool of its own an agent ends on a plain text."""
        return what

    call = {"name": "Answer", "args": {"value": 42}, "id": "1"}
    model = chat("I cannot.", AIMessage("", tool_calls=[call]))
    middleware = RecoveryMiddleware(verifier, interventions=["retry"], seed=0)
    agent = create_agent(
        model, [look], middleware=[middleware], response_format=ToolStrategy(Answer)
    )
    result = run(agent)
    assert result["structured_response"].value == 42
    assert operators(result) == ["sample", "retry"]
    assert reached == ['{"value":42}']
    assert "lacks the structure" in result["recovery"]["attempts"][0]["verdict"]["explanation"]
