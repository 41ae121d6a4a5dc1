"""The recovery graph as a node of other graphs, on checkpointers, and as invocations set it."""

import operator
import sqlite3
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.errors import GraphRecursionError
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from recov_graph import create_recovery_graph
from recov_graph.context import FIELDS, RecoveryContext
from recov_graph.errors import InvalidInputError, PolicyError
from recov_graph.policies import PolicyShelf
from recov_graph.routing import default_policy
from recov_graph.state import RecoveryOutput
from tests.recoveries import (
    QUESTION,
    SAMPLES,
    THREAD,
    assert_stored,
    methods,
    parent_of,
    questions,
    recovery,
)

SAMPLED = ["sample", "score"]


class Parent(RecoveryOutput, total=False):
    problem: dict[str, Any]
    log: Annotated[list[str], operator.add]


def pausing(child, *, checkpointer=None):
    """A parent that asks a person around a recovery."""
    nodes = {
        "before": lambda state: {"log": ["before"]},
        "recover": child,
        "after": lambda state: {"log": [f"after {state['answer']}"]},
    }
    return parent_of(Parent, nodes, checkpointer=checkpointer)


@pytest.fixture(params=["memory", "sqlite"])
def saver(request, tmp_path):
    if request.param == "memory":
        yield InMemorySaver()
    else:
        with SqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as opened:
            yield opened


# A problem in


def test_a_parent_takes_from_the_result_what_it_has_keys_for(scripted):
    class Own(TypedDict, total=False):
        problem: dict[str, Any]
        answer: str
        unrelated: int

    child = recovery(scripted([*SAMPLES, "42"]), "retry")
    result = parent_of(Own, {"recover": child}).invoke({**QUESTION, "unrelated": 7})
    assert result == {**QUESTION, "answer": "42", "unrelated": 7}


def test_a_parent_and_its_store_see_one_recovery(scripted, store, saver):
    child = recovery(scripted([*SAMPLES, "0", "42"]), "retry", store=store)
    result = pausing(child, checkpointer=saver).invoke({**QUESTION, "log": ["start"]}, THREAD)
    assert result["log"] == ["start", "before", "after 42"]
    assert_stored(store, result)


def test_a_parents_thread_takes_one_problem_after_another(scripted, store, saver):
    child = recovery(scripted([*SAMPLES, "42", *["1"] * 3, "2"]), "retry", store=store)
    parent = pausing(child, checkpointer=saver)
    first = parent.invoke(QUESTION, THREAD)
    second = parent.invoke({"problem": {"prompt": "1+1?", "answer": 2}}, THREAD)
    assert len(first["attempts"]) == 5
    assert len(second["attempts"]) == 4
    assert second["log"] == ["before", "after 42", "before", "after 2"]
    assert_stored(store, first, second)


# Messages in, one message out


HISTORY = [
    SystemMessage("Be brief.", id="system"),
    HumanMessage("hello", id="hello"),
    AIMessage("", id="calling", tool_calls=[{"name": "clock", "args": {}, "id": "c"}]),
    ToolMessage("noon", tool_call_id="c", id="tool"),
    AIMessage("hi", id="hi", additional_kwargs={"own": 1}, response_metadata={"cost": 2}),
    HumanMessage("6*7?", id="question"),
]


class Chat(TypedDict, total=False):
    messages: Annotated[list[Any], add_messages]
    mood: str


@pytest.mark.parametrize("schema", [MessagesState, Chat])
def test_each_turn_adds_one_message_and_touches_no_other(scripted, schema, saver):
    model = scripted(["40", "41", "43", "44", "42", *["2"] * 4, *["9"] * 4])
    right = {"42", "2", "9"}
    child = recovery(model, "retry", verifier=lambda text: text in right)
    parent = parent_of(schema, {"recover": child}, checkpointer=saver)
    result = parent.invoke({"messages": HISTORY}, THREAD)
    assert result["messages"][:-1] == HISTORY
    assert answers_of(result) == ["42"]
    for number, (prompt, answer) in enumerate({"1+1?": "2", "3*3?": "9"}.items(), 2):
        before = result["messages"]
        asked = HumanMessage(prompt, id=prompt)
        result = parent.invoke({"messages": [asked]}, THREAD)
        assert result["messages"][:-1] == [*before, asked]
        assert result["messages"][-1].text == answer
        assert len(answers_of(result)) == number
    ids = [message.id for message in result["messages"]]
    assert len(set(ids)) == len(ids)
    assert None not in ids
    prompts = [call.arguments["prompt"] for call in model.calls if call.method == "sample"]
    assert prompts == ["6*7?", "6*7?", "1+1?", "3*3?"]


def answers_of(result):
    """What recoveries have answered, in order."""
    return [one.text for one in result["messages"] if (one.id or "").endswith("/answer")]


def test_messages_given_as_dictionaries_get_ids_once(scripted, saver):
    child = recovery(scripted(["42"] * 8), "retry", verifier=lambda text: True)
    parent = parent_of(Chat, {"recover": child}, checkpointer=saver)
    for _ in range(2):
        blocks = [{"type": "text", "text": "6*7?"}]
        said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": blocks}]
        result = parent.invoke({"messages": said}, THREAD)
    assert [one.type for one in result["messages"]] == ["system", "human", "ai"] * 2
    assert len({one.id for one in result["messages"]}) == 6


def test_nodes_around_may_add_messages_too(scripted, saver):
    model = scripted([*SAMPLES, "42", *["42"] * 4])
    nodes = {
        "before": lambda state: {"messages": [SystemMessage("be right")]},
        "recover": recovery(model, "retry", verifier=lambda text: text == "42"),
        "after": lambda state: {"messages": [AIMessage(f"so: {state['messages'][-1].text}")]},
    }
    parent = parent_of(Chat, nodes, checkpointer=saver)
    for turn in (1, 2):
        result = parent.invoke({"messages": [HumanMessage("6*7?")], "mood": "good"}, THREAD)
        said = [(one.type, one.text) for one in result["messages"]]
        assert said == turn * [
            ("human", "6*7?"),
            ("system", "be right"),
            ("ai", "42"),
            ("ai", "so: 42"),
        ]
    assert result["mood"] == "good"
    assert len({one.id for one in result["messages"]}) == 8


def test_a_recovery_with_a_memory_of_its_own_doubles_nothing(scripted):
    model = scripted([*SAMPLES, "42", *["42"] * 4])
    child = recovery(model, "retry", verifier=lambda text: text == "42", checkpointer=True)
    parent = parent_of(Chat, {"recover": child}, checkpointer=InMemorySaver())
    for turn in (1, 2):
        result = parent.invoke({"messages": [HumanMessage("6*7?")]}, THREAD)
        assert [one.type for one in result["messages"]] == ["human", "ai"] * turn
    assert methods(model) == [*SAMPLED, "sample", "sample"]


def test_two_recoveries_one_after_the_other_answer_once_each(scripted, store):
    verifier = {"verifier": lambda text: text == "42", "store": store}
    nodes = {
        "weak": recovery(scripted(SAMPLES, last="0"), "retry", **verifier),
        "strong": recovery(scripted([*SAMPLES, "42"]), "retry", **verifier),
    }
    result = parent_of(Chat, nodes, checkpointer=InMemorySaver()).invoke(
        {"messages": [HumanMessage("6*7?", id="h")]}, THREAD
    )
    assert [one.type for one in result["messages"]] == ["human", "ai", "ai"]
    assert answers_of(result)[1] == "42"
    assert len({one.id for one in result["messages"]}) == 3
    ended = store.query("SELECT stop_reason FROM outcomes ORDER BY finished_at")
    assert [one["stop_reason"] for one in ended] == ["budget_exhausted", "solved"]


@pytest.mark.parametrize("checkpointer", [None, InMemorySaver()], ids=["no saver", "saver"])
def test_two_recoveries_at_once_are_two(scripted, store, checkpointer):
    builder = StateGraph(Chat)
    for name in ("one", "two"):
        model = scripted([*SAMPLES, "42"], name=name)
        child = recovery(model, "retry", verifier=lambda text: text == "42", store=store)
        builder.add_node(name, child)
        builder.add_edge(START, name)
        builder.add_edge(name, END)
    parent = builder.compile(checkpointer=checkpointer)
    result = parent.invoke({"messages": [HumanMessage("6*7?", id="h")]}, THREAD)
    assert [one.type for one in result["messages"]] == ["human", "ai", "ai"]
    assert len({one.id for one in result["messages"]}) == 3
    assert len(store.query("SELECT * FROM outcomes WHERE solved = 1")) == 2
    assert len(store.query("SELECT * FROM rollouts")) == 10


class Many(TypedDict, total=False):
    problems: list[dict[str, Any]]
    attempts: Annotated[list[Any], operator.add]
    messages: Annotated[list[Any], add_messages]


def spread_out(child, *, checkpointer=None):
    """A parent that sends each of its problems to the same recovery, at the same time."""
    builder = StateGraph(Many)
    builder.add_node("recover", child)
    builder.add_conditional_edges(
        START, lambda state: [Send("recover", one) for one in state["problems"]], ["recover"]
    )
    return builder.compile(checkpointer=checkpointer)


@pytest.mark.parametrize("checkpointer", [None, InMemorySaver()], ids=["no saver", "saver"])
def test_problems_sent_to_one_recovery_at_once_stay_apart(pair, store, checkpointer):
    problems = [{"problem": {"prompt": f"{n}+1?", "answer": n + 1, "id": str(n)}} for n in (2, 3)]
    problems += [{"messages": [HumanMessage("4+1?", id="h")]}]
    child = recovery(pair, "retry", store=store, verifier=lambda text: True)
    result = spread_out(child, checkpointer=checkpointer).invoke({"problems": problems}, THREAD)
    assert len(result["attempts"]) == 12
    assert len({one["id"] for one in result["attempts"]}) == 12
    assert [one.type for one in result["messages"]] == ["human", "ai"]
    prompts = store.query("SELECT prompt FROM problems JOIN outcomes USING (id) ORDER BY 1")
    assert [one["prompt"] for one in prompts] == ["2+1?", "3+1?", "4+1?"]


def test_problems_sent_at_once_are_approved_one_by_one(scripted, store, saver):
    problems = [{"problem": {"prompt": f"{n}?", "answer": 42, "id": str(n)}} for n in range(3)]
    model = scripted((), last="7")
    child = recovery(model, "retry", approve=["retry"], store=store, samples=1)
    parent = spread_out(child, checkpointer=saver)
    paused = parent.invoke({"problems": problems}, THREAD)
    assert sorted(one["prompt"] for one in questions(paused)) == ["0?", "1?", "2?"]
    assert sorted(methods(model)) == ["sample"] * 3 + ["score"] * 3
    answers = {one.id: one.value["prompt"] == "1?" for one in paused["__interrupt__"]}
    paused = parent.invoke(Command(resume=answers), THREAD)
    assert [one["prompt"] for one in questions(paused)] == ["1?"]
    assert sorted(methods(model)) == ["sample"] * 4 + ["score"] * 3
    result = parent.invoke(Command(resume=False), THREAD)
    assert len(result["attempts"]) == 4
    tried = store.query("SELECT key, attempts FROM problems JOIN outcomes USING (id) ORDER BY key")
    assert [one["attempts"] for one in tried] == [1, 2, 1]


# Pausing inside a parent


def test_a_pause_inside_a_parent_repeats_nothing(scripted, store, saver):
    model = scripted([*SAMPLES, "0", "42"])
    child = recovery(model, "retry", approve=["retry"], store=store)
    parent = pausing(child, checkpointer=saver)
    assert questions(parent.invoke(QUESTION, THREAD))[0]["operator"] == "retry"
    assert methods(model) == SAMPLED
    assert questions(parent.invoke(Command(resume=True), THREAD))
    assert methods(model) == [*SAMPLED, "sample"]
    result = parent.invoke(Command(resume=True), THREAD)
    assert result["log"] == ["before", "after 42"]
    assert methods(model) == [*SAMPLED, "sample", "sample"]
    assert_stored(store, result)


async def test_a_pause_inside_a_parent_repeats_nothing_asynchronously(scripted, store, tmp_path):
    model = scripted([*SAMPLES, "42"])
    child = recovery(model, "retry", approve=["retry"], store=store)
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
        parent = pausing(child, checkpointer=saver)
        assert questions(await parent.ainvoke(QUESTION, THREAD))
        resumed = parent.astream(
            Command(resume=True), THREAD, stream_mode=["custom", "values"], subgraphs=True
        )
        events = [event async for event in resumed]
    assert methods(model) == [*SAMPLED, "sample"]
    kinds = [event["type"] for _, mode, event in events if mode == "custom"]
    assert kinds == ["attempt", "finished"]
    result = events[-1][2]
    assert result["log"] == ["before", "after 42"]
    assert_stored(store, result)


def test_a_chat_that_pauses_answers_once(scripted, saver):
    model = scripted([*SAMPLES, "42"])
    child = recovery(model, "retry", verifier=lambda text: text == "42", approve=["retry"])
    parent = parent_of(Chat, {"recover": child}, checkpointer=saver)
    parent.invoke({"messages": HISTORY}, THREAD)
    result = parent.invoke(Command(resume=True), THREAD)
    assert result["messages"][:-1] == HISTORY
    assert answers_of(result) == ["42"]


def test_a_person_judges_inside_a_parent(scripted, store, saver):
    model = scripted(SAMPLES)
    child = recovery(model, "retry", verifier=lambda text: interrupt(text) == "right", store=store)
    parent = pausing(child, checkpointer=saver)
    asked, result = [], parent.invoke(QUESTION, THREAD)
    for answer in ("wrong", "right", "wrong", "wrong"):
        asked += questions(result)
        result = parent.invoke(Command(resume=answer), THREAD)
    assert asked == SAMPLES
    assert result["answer"] == "41"
    assert methods(model) == ["sample"]
    assert_stored(store, result)


def test_a_parent_in_another_process_goes_on_in_the_middle_of_a_recovery(scripted, store, tmp_path):
    paid = []
    for texts, given in ((SAMPLES, QUESTION), (["42"], Command(resume=True))):
        with SqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
            model = scripted(texts)
            child = recovery(model, "retry", approve=["retry"], store=store)
            result = pausing(child, checkpointer=saver).invoke(given, THREAD)
            paid.append(methods(model))
    assert paid == [SAMPLED, ["sample"]]
    assert result["log"] == ["before", "after 42"]
    assert_stored(store, result)


def test_a_parent_rewound_into_a_recovery_leaves_what_finished(scripted, store, saver):
    """LangGraph keeps a graph's own checkpoints past its end where it has `checkpointer=True`."""
    model = scripted([*SAMPLES, "0", "42"])
    child = recovery(model, "retry", approve=["retry"], store=store, checkpointer=True)
    parent = pausing(child, checkpointer=saver)
    parent.invoke(QUESTION, THREAD)
    inside = parent.get_state(THREAD, subgraphs=True).tasks[0].state.config
    parent.invoke(Command(resume=True), THREAD)
    assert len(store.query("SELECT * FROM rollouts")) == 5
    assert questions(parent.invoke(None, inside))
    result = parent.invoke(Command(resume=False), THREAD)
    assert result["stop_reason"] == "out_of_reach"
    assert methods(model) == [*SAMPLED, "sample"]
    assert_stored(store, result)


def test_a_parent_rewound_to_before_a_recovery_starts_another(scripted, store, saver):
    model = scripted([*SAMPLES, "42", *["42"] * 4])
    parent = pausing(recovery(model, "retry", store=store), checkpointer=saver)
    first = parent.invoke(QUESTION, THREAD)
    past = next(one for one in parent.get_state_history(THREAD) if one.next == ("recover",))
    second = parent.invoke(None, past.config)
    assert second["log"] == ["before", "after 42"]
    assert len(second["attempts"]) == 4
    assert_stored(store, first, second)


# Checkpointers, with no parent


async def test_a_file_written_asynchronously_is_read_by_the_next_process(scripted, store, tmp_path):
    path = str(tmp_path / "threads.db")
    async with AsyncSqliteSaver.from_conn_string(path) as saver:
        graph = recovery(scripted(SAMPLES), "retry", store=store, checkpointer=saver)
        await graph.ainvoke(QUESTION, THREAD, interrupt_before=["intervene"])
    model = scripted(["42"])
    with SqliteSaver.from_conn_string(path) as saver:
        graph = recovery(model, "retry", store=store, checkpointer=saver)
        result = graph.invoke(None, THREAD)
    assert methods(model) == ["sample"]
    assert_stored(store, result)


def test_a_checkpoint_holds_plain_data_only(scripted, tmp_path):
    """So that no version of a class, and no opt-in to unpickling, is needed to read it."""
    path = str(tmp_path / "threads.db")
    with SqliteSaver.from_conn_string(path) as saver:
        graph = recovery(scripted([*SAMPLES, "42"]), "retry", checkpointer=saver)
        graph.invoke(QUESTION, THREAD)
    blobs = sqlite3.connect(path).execute("SELECT type, checkpoint FROM checkpoints").fetchall()
    assert {kind for kind, _ in blobs} == {"msgpack"}
    assert not any(b"recov_graph" in blob or b"numpy" in blob for _, blob in blobs)


# Streams


def streamed(event):
    """Namespace, mode and the event's kind, or the nodes of an update."""
    namespace, mode, what = event
    return tuple(one.partition(":")[0] for one in namespace), mode, what.get("type", list(what))


STREAMED = [
    ((), "updates", ["before"]),
    (("recover",), "updates", ["generate"]),
    *[(("recover",), "custom", "attempt")] * 4,
    (("recover",), "updates", ["verify"]),
    (("recover",), "custom", "features"),
    (("recover",), "updates", ["featurize"]),
    (("recover",), "custom", "decision"),
    (("recover",), "updates", ["classify"]),
    (("recover",), "updates", ["intervene"]),
    (("recover",), "custom", "attempt"),
    (("recover",), "custom", "finished"),
    (("recover",), "updates", ["verify"]),
    ((), "updates", ["recover"]),
    ((), "updates", ["after"]),
]


def test_a_parent_streams_every_event_with_its_namespace(scripted):
    parent = pausing(recovery(scripted([*SAMPLES, "42"]), "retry"))
    events = parent.stream(QUESTION, stream_mode=["updates", "custom"], subgraphs=True)
    assert [streamed(event) for event in events] == STREAMED


async def test_a_parent_streams_every_event_asynchronously(scripted):
    parent = pausing(recovery(scripted([*SAMPLES, "42"]), "retry"))
    events = parent.astream(QUESTION, stream_mode=["updates", "custom"], subgraphs=True)
    assert [streamed(event) async for event in events] == STREAMED


def test_events_of_a_recovery_do_not_reach_who_streams_no_subgraphs(scripted):
    parent = pausing(recovery(scripted([*SAMPLES, "42"]), "retry"))
    events = list(parent.stream(QUESTION, stream_mode=["updates", "custom"]))
    assert [list(event) for mode, event in events] == [["before"], ["recover"], ["after"]]


# Contexts of others


@dataclass
class Tenant:
    max_attempts: int = 1


@pytest.mark.parametrize(
    ("schema", "given"),
    [
        (Tenant, Tenant()),
        (Tenant, {"max_attempts": 1}),
        (dict, {"max_attempts": 1}),
        (None, {"max_attempts": 1}),
        (None, "anything"),
    ],
    ids=repr,
)
def test_the_context_of_a_parent_is_none_of_the_recoverys(scripted, schema, given):
    child = recovery(scripted([*SAMPLES, "42"]), "retry")
    parent = parent_of(Parent, {"recover": child}, context_schema=schema)
    assert len(parent.invoke(QUESTION, context=given)["attempts"]) == 5


@pytest.mark.parametrize(
    ("schema", "given"),
    [
        (RecoveryContext, {"max_attempts": 2}),
        (RecoveryContext, RecoveryContext(max_attempts=2)),
        (None, RecoveryContext(max_attempts=2)),
    ],
    ids=repr,
)
def test_a_parent_may_hand_on_a_context(scripted, schema, given):
    child = recovery(scripted(SAMPLES), "retry")
    parent = parent_of(Parent, {"recover": child}, context_schema=schema)
    assert len(parent.invoke(QUESTION, context=given)["attempts"]) == 2


def test_a_node_that_invokes_a_recovery_gives_it_a_context(scripted):
    child = recovery(scripted(SAMPLES), "retry")
    nodes = {"ask": lambda state: child.invoke(QUESTION, context={"max_attempts": 2})}
    parent = parent_of(Parent, nodes, context_schema=Tenant)
    assert len(parent.invoke({"log": []}, context=Tenant())["attempts"]) == 2


HAS = r"retry, dense_steer"


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ("fast", rf"'fast'.*{', '.join(FIELDS)}"),
        (5, rf"5.*{', '.join(FIELDS)}"),
        ([("max_attempts", 5)], rf"max_attempts.*{', '.join(FIELDS)}"),
        (Tenant(), rf"Tenant.*{', '.join(FIELDS)}"),
        ({"max_attempt": 5}, rf"max_attempt\b.*{', '.join(FIELDS)}"),
        ({"max_attempts": "5"}, r"max_attempts.*integer"),
        ({"max_attempts": True}, r"max_attempts.*integer"),
        ({"max_attempts": 0}, r"max_attempts.*greater than 0"),
        ({"max_tokens": 1.5}, r"max_tokens.*integer"),
        ({"max_seconds": -1}, r"max_seconds.*greater than 0"),
        ({"max_seconds": float("nan")}, r"max_seconds.*less than"),
        ({"temperature": 0}, r"temperature.*greater than or equal to 0\.001"),
        ({"temperature": "hot"}, r"temperature.*number"),
        ({"seed": 2**63}, r"seed.*less than"),
        ({"interventions": "retry"}, r"interventions.*list"),
        ({"interventions": ["retyr"]}, r"interventions.*'retry' or 'dense_steer'"),
        ({"approve": ["escalate"]}, r"approve.*'retry' or 'dense_steer'"),
        (RecoveryContext(interventions=["retyr"]), rf"'retyr'.*{HAS}"),
        (RecoveryContext(approve=["escalate"]), rf"'escalate'.*{HAS}"),
    ],
    ids=repr,
)
def test_a_wrong_context_is_refused_before_anything_is_paid(scripted, store, context, message):
    model = scripted(SAMPLES)
    graph = recovery(model, "retry", "dense_steer", store=store)
    with pytest.raises(InvalidInputError, match=f"(?s){message}"):
        graph.invoke(QUESTION, context=context)
    assert model.calls == []
    assert store.query("SELECT * FROM problems") == []


def test_an_unknown_policy_is_refused_before_anything_is_paid(scripted, shelf):
    model = scripted(SAMPLES)
    with pytest.raises(PolicyError, match=r"'nosuch'"):
        recovery(model, "retry").invoke(QUESTION, context={"policy": "nosuch"})
    assert model.calls == []


# What one invocation may set


@pytest.fixture
def shelf(monkeypatch, tmp_path):
    """An empty shelf of policies, which is that of the environment."""
    monkeypatch.setenv("RECOV_GRAPH_POLICIES", str(tmp_path / "policies"))
    return PolicyShelf()


def test_limits_and_temperature_hold_for_one_invocation_only(scripted):
    model = scripted(SAMPLES * 3, last="0")
    graph = recovery(model, "retry")
    context = {"max_attempts": 5, "temperature": 0.9}
    result = graph.invoke(QUESTION, context=context)
    assert len(result["attempts"]) == 5
    asked = [call.arguments for call in model.calls if call.method == "sample"]
    assert [call["temperature"] for call in asked] == [0.9, 0.9]
    assert len(graph.invoke(QUESTION)["attempts"]) == 12
    assert model.calls[-1].arguments["temperature"] == 0.6


def test_a_limit_on_tokens_holds_for_one_invocation_only(scripted):
    graph = recovery(scripted(SAMPLES * 2, last="0"), "retry")
    limited = graph.invoke(QUESTION, context={"max_tokens": 30})
    assert limited["stop_reason"] == "budget_exhausted"
    assert limited["usage"]["tokens"] <= 30
    assert graph.invoke(QUESTION)["usage"]["tokens"] > 30


def test_the_interventions_of_one_invocation_are_all_that_is_tried(scripted):
    graph = recovery(scripted((), last="0"), "retry", "dense_steer")
    context = {"interventions": ["dense_steer"], "max_attempts": 6}
    result = graph.invoke(QUESTION, context=context)
    assert [one["operator"] for one in result["attempts"][4:]] == ["dense_steer"] * 2
    again = graph.invoke(QUESTION, context={"max_attempts": 5})
    assert again["attempts"][4]["operator"] == "retry"


def test_approval_may_be_asked_for_in_one_invocation(scripted):
    graph = recovery(scripted([*SAMPLES, *SAMPLES, "42"]), "retry", checkpointer=InMemorySaver())
    assert questions(graph.invoke(QUESTION, THREAD, context={"approve": ["retry"]}))
    other = {"configurable": {"thread_id": "2"}}
    assert graph.invoke(QUESTION, other)["solved"]


def test_lists_that_a_form_leaves_empty_change_nothing(scripted):
    options = {"approve": ["retry"], "checkpointer": InMemorySaver()}
    graph = recovery(scripted([*SAMPLES, "42"]), "retry", **options)
    asked = graph.invoke(QUESTION, THREAD, context={"approve": [], "interventions": []})
    assert asked["__interrupt__"][0].value["operator"] == "retry"


def test_approval_without_a_checkpointer_is_refused_before_anything_is_paid(scripted):
    model = scripted([*SAMPLES, "42"])
    graph = recovery(model, "retry", approve=["retry"])
    with pytest.raises(InvalidInputError, match="no checkpointer to wait with: give"):
        graph.invoke(QUESTION)
    assert model.calls == []


@pytest.mark.parametrize("limit", [3, *range(4, 40)])
def test_a_limit_on_steps_ends_the_recovery_and_not_the_run(scripted, limit):
    graph = recovery(scripted(SAMPLES, last="0"), "retry")
    if limit < 5:
        with pytest.raises(GraphRecursionError):
            graph.invoke(QUESTION, {"recursion_limit": limit})
        return
    result = graph.invoke(QUESTION, {"recursion_limit": limit})
    assert result["stop_reason"] == "budget_exhausted"
    few = len(result["attempts"]) < 12
    assert ("recursion_limit" in (result["error"] or "")) == few
    assert len(result["attempts"]) == min(12, 4 + (limit - 5) // 4)


def test_a_batch_comes_to_an_end_as_well(scripted):
    graph = recovery(scripted(SAMPLES * 9, last="0"), "retry")
    (result,) = graph.batch([QUESTION])
    assert (result["stop_reason"], len(result["attempts"])) == ("budget_exhausted", 9)
    (result,) = graph.batch([QUESTION], {"recursion_limit": 100})
    assert len(result["attempts"]) == 12


def test_one_invocation_may_go_by_another_policy(scripted, shelf):
    own = default_policy().model_copy(update={"name": "own"})
    shelf.save(own)
    shipped, other = default_policy().content_hash, own.content_hash
    assert shipped != other
    graph = recovery(scripted((), last="0"), "retry", "dense_steer", "sparse_steer")

    def went_by(policy):
        result = graph.invoke(QUESTION, context={"policy": policy, "max_attempts": 5})
        return result["route"][0]["policy_hash"]

    assert went_by("shipped") == shipped
    assert went_by("active") == shipped  # where none was activated
    assert went_by(other) == other
    assert went_by(other[:6]) == other
    assert went_by(None) == "0" * 16
    shelf.activate(own, why="a test")
    again = recovery(scripted((), last="0"), "retry", "dense_steer", "sparse_steer")
    result = again.invoke(QUESTION, context={"policy": "active", "max_attempts": 5})
    assert result["route"][0]["policy_hash"] == other


# What forms are made of


def any_of(schema, kind):
    """The branch of an optional field's schema that is not null."""
    return next(one for one in schema["anyOf"] if one.get("type") == kind)


def test_the_schema_of_the_context_names_ranges_and_choices(scripted):
    fields = recovery(scripted(), "retry", "dense_steer").get_context_jsonschema()["properties"]
    assert list(fields) == list(FIELDS)
    assert all(field["title"] and field["description"] for field in fields.values())
    attempts = any_of(fields["max_attempts"], "integer")
    assert attempts["exclusiveMinimum"] == 0
    assert attempts["exclusiveMaximum"] == 2**53
    assert any_of(fields["max_seconds"], "number")["exclusiveMinimum"] == 0
    temperature = any_of(fields["temperature"], "number")
    assert (temperature["minimum"], temperature["maximum"]) == (0.001, 1e6)
    for name in ("interventions", "approve"):
        assert any_of(fields[name], "array")["items"]["enum"] == ["retry", "dense_steer"]
    assert any_of(fields["policy"], "string")["enum"] == ["active", "shipped"]


@pytest.mark.parametrize(
    ("inputs", "keys"),
    [("either", {"problem", "messages"}), ("problem", {"problem"}), ("messages", {"messages"})],
)
def test_the_schema_of_the_input_is_a_problems_form(scripted, inputs, keys):
    schema = recovery(scripted(), "retry", inputs=inputs).get_input_jsonschema()
    assert set(schema["properties"]) == keys
    if "problem" in keys:
        problem = schema["properties"]["problem"]
        assert problem["required"] == ["prompt"]
        assert problem["properties"]["prompt"]["title"]


def test_the_schema_of_the_output_is_that_of_the_result(scripted):
    graph = create_recovery_graph(scripted(["42"] * 4), "numeric")
    schema = graph.get_output_jsonschema()
    assert set(schema["properties"]) == set(RecoveryOutput.__annotations__)
    assert set(graph.invoke(QUESTION)) <= set(schema["properties"])
