"""Any chat model of LangChain as a black box: how it is asked, and what its replies tell."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI

from recov_graph.budget import Budget
from recov_graph.errors import InvalidInputError, ModelReplyError, NotScorableError
from recov_graph.graph import build_recovery_graph, create_recovery_graph
from recov_graph.interventions.escalate import Escalate
from recov_graph.interventions.replan import INSTRUCTION
from recov_graph.models import Capability, Model, OpenAIModel, as_model
from recov_graph.models.base import UNLIMITED
from recov_graph.models.chat import (
    ChatModel,
    chat_of,
    finish_of,
    generation_of,
    name_of,
    temperature_of,
    with_decoding,
)
from recov_graph.problem import Problem
from recov_graph.routing.decision import Decision
from recov_graph.store import TraceStore
from tests.scripted_chat import ScriptedChat

ALL = {Capability.SAMPLE, Capability.INSTRUCT, Capability.TEMPERATURE}
QUESTION: Any = {"problem": {"prompt": "6*7?", "answer": 42}}


def chat(*replies: Any, **fields: Any) -> ScriptedChat:
    return ScriptedChat(replies=list(replies), **fields)


class InTurn:
    """A router that chooses operators in turn."""

    name = "in turn"
    content_hash = "0" * 16

    def __init__(self, *operators: str) -> None:
        self.operators = operators

    def decide(self, evidence: Any) -> Decision:
        left = self.operators[len(evidence.tried) :]
        return Decision(left[0] if left else None, "sampling", 1.0, 0.5, (), "in turn")


def sample(model: Model, **options: Any) -> Any:
    options = {"temperature": 1.0, "max_tokens": 100, "seed": 0, **options}
    return model.sample("6*7?", **options)


# What a chat model is as a model


def test_a_chat_model_is_a_model() -> None:
    model = as_model(chat("42", temperature=0.5))
    assert isinstance(model, Model)
    assert (model.name, model.capabilities) == ("scripted", ALL)
    assert as_model(model) is model
    generation = sample(model)
    assert (generation.rollouts[0].text, len(generation.rollouts[0])) == ("42", 2)
    assert (generation.usage.prompt_tokens, generation.usage.completion_tokens) == (4, 2)


def test_one_with_tools_bound_is_a_model_too() -> None:
    bare = chat("42", temperature=0.2)
    model = as_model(bare.bind_tools([lookup]))
    assert (model.name, model.capabilities) == ("scripted", ALL)
    sample(model, temperature=0.9)
    assert (bare.seen[0].tools, bare.seen[0].temperature) == (["lookup"], 0.9)
    assert bare.temperature == 0.2


def test_one_without_a_temperature_cannot_be_lifted() -> None:
    model = as_model(FakeListChatModel(responses=["42"]))
    assert (model.name, model.capabilities) == (
        "FakeListChatModel",
        ALL - {Capability.TEMPERATURE},
    )
    assert sample(model).rollouts[0].text == "42"


def test_a_model_of_openai_stays_what_it_was() -> None:
    assert isinstance(as_model(ChatOpenAI(model="gpt", api_key="x")), OpenAIModel)


@pytest.mark.parametrize("value", [None, "chat", RunnableLambda(str), ScriptedChat])
def test_what_is_no_chat_model_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInputError, match="chat is"):
        ChatModel(value)
    with pytest.raises(InvalidInputError, match="model is"):
        as_model(value)


def test_options_of_a_server_do_not_apply() -> None:
    with pytest.raises(InvalidInputError, match="base_url"):
        as_model(chat("42"), base_url="http://localhost")


def test_a_name_can_be_given() -> None:
    assert ChatModel(chat("42"), name="mine").name == "mine"
    assert name_of(chat("42", model_name="").bind(stop=["x"])) == "ScriptedChat"


# How it is asked


def test_other_decoding_is_a_copy_and_only_where_it_differs() -> None:
    own = chat("42", temperature=0.2, max_tokens=50)
    assert with_decoding(own, 0.2, UNLIMITED) is own
    bound = own.bind(stop=["x"])
    assert with_decoding(bound, 0.2, UNLIMITED) is bound
    changed = with_decoding(own, 0.7, 10)
    assert (changed.temperature, changed.max_tokens) == (0.7, 10)
    assert (own.temperature, own.max_tokens) == (0.2, 50)
    other = FakeListChatModel(responses=["42"])
    assert with_decoding(other, 0.7, 10) is other
    function = RunnableLambda(str)
    assert with_decoding(function, 0.7, 10) is function


@pytest.mark.parametrize(("given", "taken"), [(None, 1.0), (0, 0.001), (0.0, 0.001), (0.3, 0.3)])
def test_the_decoding_temperature(given: Any, taken: float) -> None:
    assert temperature_of(chat("42", temperature=given)) == taken


def test_several_samples_are_as_many_calls() -> None:
    own = chat("41", "42", "43")
    generation = sample(as_model(own), n=3)
    assert [rollout.text for rollout in generation.rollouts] == ["41", "42", "43"]
    assert generation.usage.tokens == 3 * (4 + 2)


def test_nothing_but_texts_is_seen() -> None:
    model = as_model(chat("42"))
    with pytest.raises(InvalidInputError, match="prefix of 2 tokens"):
        sample(model, prefix=[1, 2])
    with pytest.raises(NotScorableError, match="score a text"):
        model.score("6*7?", [], role="specialist")
    with pytest.raises(NotScorableError, match="be steered"):
        model.open("6*7?")
    with pytest.raises(NotScorableError, match="decode tokens"):
        model.decode([1])
    assert model.decode([]) == ""
    assert 0 < model.prompt_length("6*7?") < model.prompt_length("6*7?" * 100)


@pytest.mark.parametrize("given", [None, 1.0, 1.3])
def test_a_temperature_that_providers_take_no_higher_cannot_be_lifted(given: Any) -> None:
    assert Capability.TEMPERATURE not in as_model(chat("42", temperature=given)).capabilities


def test_a_stronger_model_keeps_its_own_decoding_and_need_be_no_chat_model(pair: Any) -> None:
    weak = chat("41", temperature=0, max_tokens=5)
    strong = chat("42", temperature=0.7, max_tokens=400)
    assert run(weak, "escalate", interventions=[Escalate(strong)])["solved"]
    assert [(call.temperature, call.max_tokens) for call in strong.seen] == [(0.7, 400)]
    graph = create_recovery_graph(
        chat("no", repeat=True), "numeric", samples=1, interventions=[Escalate(pair)], seed=0
    )
    result = graph.invoke({"problem": {"prompt": "37+48*2?", "answer": 133}})
    assert (result["solved"], result["best"]["operator"]) == (True, "escalate")


def test_samples_that_were_paid_before_one_that_fails_are_kept() -> None:
    model = chat("41", "42", RuntimeError("429"))
    result = create_recovery_graph(model, "numeric").invoke(QUESTION)
    assert (result["solved"], result["answer"], len(result["attempts"])) == (True, "42", 2)
    assert result["usage"]["tokens"] > 0


def test_every_sample_reads_the_prompt_and_the_budget_knows() -> None:
    model = chat("wrong 41", repeat=True)
    question: Any = {"problem": {"prompt": "x" * 600 + " 6*7?", "answer": 42}}
    for cap in (200, 700, 3000):
        graph = create_recovery_graph(model, "numeric", budget=Budget(max_tokens=cap))
        assert graph.invoke(question)["usage"]["tokens"] <= max(cap, 4 * 700)
    assert len(model.seen) < 12


def test_a_reply_that_only_calls_tools_is_verified_as_json() -> None:
    calls = [{"name": "f", "args": {"x": 42}, "id": "1"}]
    assert generation_of(AIMessage("", tool_calls=calls), []).rollouts[0].text == (
        '[{"name": "f", "args": {"x": 42}}]'
    )


def test_one_that_is_reached_by_no_chat_model_cannot(scripted: Any) -> None:
    with pytest.raises(InvalidInputError, match="reached by no chat model"):
        chat_of(scripted(["42"]))
    own = chat("42")
    assert chat_of(ChatModel(own)) is own
    assert isinstance(chat_of(as_model(ChatOpenAI(model="gpt", api_key="x"))), BaseChatModel)


def test_a_reply_that_is_no_message_of_a_model_is_named() -> None:
    class Odd(FakeListChatModel):
        def invoke(self, *_: Any, **__: Any) -> Any:
            return "42"

    with pytest.raises(ModelReplyError, match="replied '42', not an AIMessage"):
        sample(as_model(Odd(responses=["42"])))


# What replies tell


def test_a_reply_without_its_cost_has_it_estimated() -> None:
    generation = sample(as_model(chat("forty-two, I think", tells_usage=False)))
    assert generation.usage.prompt_tokens > 0
    assert len(generation.rollouts[0]) == generation.usage.completion_tokens > 0


def test_odd_costs_are_none() -> None:
    reply = AIMessage(
        "42", usage_metadata={"input_tokens": -1, "output_tokens": -5, "total_tokens": 0}
    )
    generation = generation_of(reply, [])
    assert (generation.usage.tokens, len(generation.rollouts[0])) == (0, 0)


def test_a_text_cut_in_half_can_be_stored() -> None:
    assert generation_of(AIMessage("4\ud83d"), []).rollouts[0].text.encode()


def test_blocks_of_content_are_one_text() -> None:
    blocks: list[Any] = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "42"}]
    assert generation_of(AIMessage(blocks), []).rollouts[0].text == "42"


@pytest.mark.parametrize(
    ("told", "ended"),
    [
        ({}, "stop"),
        ({"finish_reason": None}, "stop"),
        ({"finish_reason": "stop"}, "stop"),
        ({"finish_reason": "tool_calls"}, "stop"),
        ({"finish_reason": "length"}, "length"),  # OpenAI, Groq
        ({"finish_reason": "model_length"}, "length"),  # Mistral
        ({"finish_reason": "MAX_TOKENS"}, "length"),  # Gemini
        ({"stop_reason": "max_tokens"}, "length"),  # Anthropic, Bedrock
        ({"stop_reason": "end_turn"}, "stop"),
        ({"done_reason": "length"}, "length"),  # Ollama
        ({"done_reason": "stop"}, "stop"),
    ],
)
def test_how_a_reply_ended(told: dict[str, Any], ended: str) -> None:
    assert finish_of(AIMessage("42", response_metadata=told)) == ended


# The recovery graph on one


def run(model: Any, *operators: str, **options: Any) -> dict[str, Any]:
    graph = create_recovery_graph(
        model,
        "numeric",
        router=InTurn(*operators),
        samples=1,
        seed=0,
        **{"temperature": 0.5, "max_new_tokens": 40, **options},
    )
    return dict(graph.invoke(QUESTION))


def test_every_intervention_on_texts_is_carried_out(store: TraceStore) -> None:
    cut = AIMessage("41", response_metadata={"stop_reason": "max_tokens"})
    weak = chat(cut, "1", "2", "3", "4", temperature=0.5)
    strong = chat("it is 42", model_name="strong")
    result = run(
        weak,
        "retry",
        "temp_lift",
        "replan",
        "extend",
        "escalate",
        interventions=["retry", "temp_lift", "replan", "extend", Escalate(strong)],
        store=store,
        budget=Budget(max_attempts=6),
    )
    assert (result["solved"], result["answer"]) == (True, "42")
    operators = [attempt["operator"] for attempt in result["attempts"]]
    assert operators == ["sample", "retry", "temp_lift", "replan", "extend", "escalate"]
    assert [call.temperature for call in weak.seen] == [0.5, 0.5, 1.0, 0.5, 0.5]
    assert [call.max_tokens for call in weak.seen] == [40, 40, 40, 40, 80]
    assert [call.text.partition("\n\n")[2] for call in weak.seen] == ["", "", "", INSTRUCTION, ""]
    assert (strong.seen[0].text, strong.seen[0].temperature) == ("6*7?", None)
    assert (weak.temperature, weak.max_tokens) == (0.5, None)
    assert result["attempts"][-1]["details"]["model"] == "strong"
    stored = store.query("select operator from rollouts order by position")
    assert [row["operator"] for row in stored] == operators
    assert result["usage"]["tokens"] == sum(row["spent"] for row in result["attempts"])


def test_by_default_it_chooses_among_the_interventions_on_texts() -> None:
    graph = build_recovery_graph(
        chat("41", repeat=True),
        "numeric",
        samples=2,
        seed=0,
    ).compile()
    result = graph.invoke(QUESTION)
    considered = {c["operator"] for one in result["route"] for c in one["candidates"]}
    assert considered
    assert considered <= {"retry", "temp_lift", "replan", "extend"}
    assert result["features"] is not None


def test_one_without_a_temperature_is_never_lifted() -> None:
    graph = create_recovery_graph(
        FakeListChatModel(responses=["41"]),
        "numeric",
        samples=2,
        seed=0,
    )
    result = graph.invoke(QUESTION)
    assert "temp_lift" not in {attempt["operator"] for attempt in result["attempts"]}


def test_what_it_raises_ends_the_recovery() -> None:
    result = run(chat("41", RuntimeError("down")), "retry")
    assert result["stop_reason"] == "model_error"
    assert "RuntimeError: down" in result["error"]
    assert result["answer"] == "41"


async def test_it_runs_on_an_event_loop() -> None:
    graph = create_recovery_graph(chat("41", "42"), "numeric", samples=2)
    assert (await graph.ainvoke(QUESTION))["solved"]


def test_the_verifier_sees_the_text() -> None:
    seen: list[str] = []

    def note(_: Problem, text: str) -> bool:
        seen.append(text)
        return True

    create_recovery_graph(chat("it is 42"), note, samples=1).invoke(QUESTION)
    assert seen == ["it is 42"]


def lookup(word: str) -> str:
    """Look a word up."""
    return word
