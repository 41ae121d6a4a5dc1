"""The recovery graph end to end: what it returns, streams, stores and survives."""

import json
import operator
from functools import lru_cache
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from recov_graph import Budget, TraceStore, build_recovery_graph, create_recovery_graph
from recov_graph.context import RecoveryContext
from recov_graph.errors import InvalidInputError, ModelError
from recov_graph.interventions import Retry
from recov_graph.models import Capability, Generation
from recov_graph.models.embedded import bundled_problems
from recov_graph.rollout import Usage
from recov_graph.routing import Candidate, Decision, RuleRouter
from recov_graph.state import RecoveryOutput

QUESTION = {"problem": {"prompt": "6*7?", "answer": 42, "id": "q"}}
SAMPLES = ["40", "41", "43", "44"]
# Tokens, where all are of two characters and an end: of the samples, of scoring them, of a retry.
SAMPLING, SCORING, ATTEMPT = 4 + 4 * 3, 4 * (4 + 3), 4 + 3


def outcome(model, verifier="numeric", *, question=QUESTION, **options):
    return create_recovery_graph(model, verifier, seed=0, **options).invoke(question)


@lru_cache
def hard_problem(rule=False):
    """A bundled problem that the pair fails at first but then rescues, and what came of it."""
    graph = create_recovery_graph("embedded", "numeric", seed=0, router=router_of(rule))
    for problem in bundled_problems():
        result = graph.invoke({"problem": problem.model_dump()})
        if result["route"] and result["solved"]:
            return problem, result
    raise AssertionError("no bundled problem was rescued")


def router_of(rule):
    """The cold-start rule, or None for the shipped policy."""
    return RuleRouter() if rule else None


def retried(model, verifier="numeric"):
    return create_recovery_graph(model, verifier, seed=0, router=Always("retry"))


def test_a_first_sample_that_passes_ends_it(scripted):
    model = scripted(["41", "42", "43", "44"])
    result = outcome(model)
    assert result["solved"]
    assert result["answer"] == "42"
    assert result["stop_reason"] == "solved"
    assert result["best"]["position"] == 1
    assert result["route"] == []
    assert result["regime"] is None
    assert [call.method for call in model.calls] == ["sample"]


def test_a_failure_is_measured_routed_and_rescued(scripted, store):
    result = outcome(
        scripted([*SAMPLES, "45", "42"]), store=store, interventions=["retry", "dense_steer"]
    )
    assert result["solved"]
    assert result["stop_reason"] == "solved"
    assert len(result["route"]) == 2
    assert result["best"]["operator"] == result["route"][-1]["operator"]
    assert set(result["features"]) == {"spread", "concentration", "logit_dispersion"}
    first = result["route"][0]["operator"]
    assert result["route"][1]["reason"].startswith(f"{first} failed; ")
    assert all(decision["reason"] for decision in result["route"])


def test_nothing_passes_and_the_best_attempt_comes_back(scripted):
    def closeness(problem, text):
        return 0.9 if text == "43" else 0.1

    result = outcome(
        scripted(SAMPLES, last="0"),
        closeness,
        budget=Budget(max_attempts=6),
        router=Always("retry"),
    )
    assert not result["solved"]
    assert result["stop_reason"] == "budget_exhausted"
    assert len(result["attempts"]) == 6
    assert result["best"]["text"] == "43"
    assert result["answer"] == "43"


class Always:
    """A router that has made up its mind."""

    name = "always"
    content_hash = "0" * 16

    def __init__(self, choice):
        self.choice = choice
        self.seen = []

    def decide(self, evidence):
        self.seen.append(evidence)
        regime = "out_of_reach" if self.choice is None else "sampling"
        return Decision(self.choice, regime, 1.0, 0.5, (), "always")


def test_the_router_is_told_what_is_known(scripted):
    router = Always("retry")
    outcome(scripted(SAMPLES, last="0"), router=router, budget=Budget(max_attempts=7))
    assert [evidence.tried for evidence in router.seen] == [[], ["retry"], ["retry", "retry"]]
    assert [evidence.attempts_left for evidence in router.seen] == [3, 2, 1]
    assert all(evidence.failed_samples == 4 for evidence in router.seen)
    assert router.seen[0].costs["retry"] == len("6*7?") + 3
    assert router.seen[0].model == "scripted"
    assert router.seen[0].task == "default"


def test_the_router_may_stop(scripted):
    result = outcome(scripted(SAMPLES), router=Always(None))
    assert result["stop_reason"] == "out_of_reach"
    assert result["regime"] == "out_of_reach"
    assert result["route"][0]["operator"] is None
    assert len(result["attempts"]) == 4


def test_a_router_that_chooses_the_impossible_is_refused(scripted):
    model = scripted(SAMPLES, capabilities=[Capability.SAMPLE])
    with pytest.raises(InvalidInputError, match="'always' chose 'dense_steer'; possible here"):
        outcome(model, router=Always("dense_steer"))


def test_a_model_that_only_samples_is_only_retried(scripted):
    model = scripted([*SAMPLES, "45", "42"], capabilities=[Capability.SAMPLE])
    result = outcome(model, router=RuleRouter())
    assert result["solved"]
    assert result["features"]["agreement"] == 0.25
    assert {decision["operator"] for decision in result["route"]} == {"retry"}
    assert "no feature stands out" in result["route"][0]["reason"]


def test_a_model_that_only_samples_is_only_retried_by_the_shipped_policy(scripted):
    model = scripted([*SAMPLES, "45", "42"], capabilities=[Capability.SAMPLE])
    result = outcome(model)
    assert result["solved"]
    assert result["features"]["agreement"] == 0.25
    assert [decision["operator"] for decision in result["route"]] == ["retry", "retry"]
    assert [decision["measured"] for decision in result["route"]] == [True, True]
    assert "stored failures of other cells, retry has the best" in result["route"][0]["reason"]


def test_features_are_the_mean_over_the_failed_samples(pair):
    from recov_graph.features import problem_features
    from recov_graph.rollout import Rollout
    from recov_graph.trace import measure

    problem, result = hard_problem(rule=True)
    first = [attempt for attempt in result["attempts"] if attempt["operator"] == "sample"]
    rollouts = pair.sample(
        problem.prompt, n=4, temperature=0.6, max_tokens=160, seed=first[0]["seed"]
    ).rollouts
    assert [rollout.text for rollout in rollouts] == [attempt["text"] for attempt in first]
    topk = pair.score(problem.prompt, [r.token_ids for r in rollouts], role="ancestor").topk
    traces = [
        measure(Rollout(r.text, r.token_ids, r.finish_reason, r.specialist, a), 0.6).features
        for r, a in zip(rollouts, topk, strict=True)
    ]
    assert result["features"] == pytest.approx(problem_features(traces)._asdict())


def test_the_ancestor_is_paid_once_a_problem(scripted):
    model = scripted(SAMPLES, last="0")
    result = outcome(model, router=Always("sparse_steer"), budget=Budget(max_attempts=8))
    assert [call.method for call in model.calls].count("score") == 1
    assert result["usage"]["scored_tokens"] == 4 * (len("6*7?") + 3)


class Planned(Always):
    """Chooses what it was told to, one after the other; measures only where told to."""

    def __init__(self, *choices, wants=False):
        super().__init__(None)
        self.choices, self.wants = choices, wants
        self.asked = 0

    def wants_features(self, evidence):
        self.asked += 1
        return self.wants

    def decide(self, evidence):
        self.choice = self.choices[len(evidence.tried)]
        return super().decide(evidence)


REPAIRS = {"sparse_steer", "sparse_steer_random", "local_temp"}


@lru_cache
def repaired():
    """What the shipped policy streams of a bundled problem that it tries to repair midway."""
    graph = create_recovery_graph("embedded", "numeric", seed=0)
    for problem in bundled_problems():
        events = list(graph.stream({"problem": problem.model_dump()}, stream_mode="custom"))
        chosen = [event["operator"] for event in events if event["type"] == "decision"]
        if REPAIRS & set(chosen[:-1]):
            return problem, events
    raise AssertionError("no bundled problem was repaired midway")


def test_the_shipped_policy_measures_only_what_it_repairs(store):
    problem, events = repaired()
    kinds = [event["type"] for event in events]
    decisions = [event for event in events if event["type"] == "decision"]
    repair = next(d for d in decisions if d["operator"] in REPAIRS)
    assert kinds.count("features") == 1
    assert kinds.index("features") == events.index(repair) + 1
    before = decisions[: decisions.index(repair) + 1]
    assert [d["measured"] for d in decisions] == [d not in before for d in decisions]
    assert all(set(d["once"]) == REPAIRS for d in before)
    assert all(d["once"] == {} for d in decisions if d not in before)
    assert len(before) < len(decisions)

    graph = create_recovery_graph("embedded", "numeric", seed=0, store=store)
    result = graph.invoke({"problem": problem.model_dump()})
    assert result["features"] == events[kinds.index("features")]["features"]
    # Once, for as much as was foreseen, and on the bill of the attempt that needed it.
    (scoring,) = store.query("SELECT scored_tokens FROM calls WHERE purpose = 'score'")
    assert scoring["scored_tokens"] == repair["once"][repair["operator"]]
    assert result["usage"]["scored_tokens"] >= scoring["scored_tokens"]
    assert sum(a["spent"] for a in result["attempts"]) == result["usage"]["tokens"]
    assert result["attempts"][4 + before.index(repair)]["spent"] > scoring["scored_tokens"]
    traced = [a["id"] for a in result["attempts"] if a["operator"] == "sample"]
    assert all(store.read_trace(name) is not None for name in traced)


def test_the_shipped_policy_measures_nothing_without_a_repair(store):
    graph = create_recovery_graph(
        "embedded", "numeric", seed=0, store=store, interventions=["retry", "dense_steer"]
    )
    problem, _ = hard_problem()
    result = graph.invoke({"problem": problem.model_dump()})
    assert result["route"]
    assert result["features"] is None
    assert not any(decision["measured"] for decision in result["route"])
    assert store.query("SELECT * FROM calls WHERE purpose = 'score'") == []


def test_the_shipped_policy_measures_a_model_that_it_does_not_know(scripted):
    model = scripted([*SAMPLES, "42"])
    result = outcome(model, interventions=["retry", "dense_steer"])
    assert [call.method for call in model.calls][:2] == ["sample", "score"]
    assert result["route"][0]["measured"]
    assert result["features"] is not None


def test_a_repair_that_comes_late_is_measured_for_once_and_charged_once(scripted, store):
    model = scripted(SAMPLES, last="0")
    router = Planned("retry", "sparse_steer", "retry", "local_temp", "sparse_steer")
    result = outcome(model, router=router, store=store, budget=Budget(max_attempts=9))
    methods = [call.method for call in model.calls]
    assert methods[:4] == ["sample", "sample", "score", "sample"]
    assert methods.count("score") == 1
    assert result["usage"]["scored_tokens"] == SCORING
    assert [evidence.features is None for evidence in router.seen] == [True, True, *[False] * 3]
    for evidence in router.seen[:2]:
        assert evidence.once == dict.fromkeys(REPAIRS, SCORING)
    assert [evidence.once for evidence in router.seen[2:]] == [{}] * 3
    spent = [attempt["spent"] for attempt in result["attempts"]]
    assert sum(spent) == result["usage"]["tokens"]
    assert spent[5] > SCORING > max(spent[4], *spent[6:])
    in_calls = store.query("SELECT purpose, scored_tokens FROM calls WHERE scored_tokens > 0")
    assert in_calls == [{"purpose": "score", "scored_tokens": SCORING}]


def test_a_router_that_does_not_say_gets_features_first(scripted):
    model, router = scripted([*SAMPLES, "42"]), Always("retry")
    result = outcome(model, router=router)
    assert [call.method for call in model.calls] == ["sample", "score", "sample"]
    assert router.seen[0].features is not None
    assert router.seen[0].once == {}
    assert result["route"][0]["measured"]
    assert result["features"] == router.seen[0].features._asdict()


@pytest.mark.parametrize("wants", [True, False])
def test_a_router_that_says_so_gets_features_or_none(scripted, wants):
    model, router = scripted([*SAMPLES, "45", "42"]), Planned("retry", "retry", wants=wants)
    result = outcome(model, router=router)
    assert [call.method for call in model.calls].count("score") == wants
    assert [evidence.features is not None for evidence in router.seen] == [wants, wants]
    assert [decision["measured"] for decision in result["route"]] == [wants, wants]
    assert (result["features"] is not None) == wants
    assert bool(result["usage"]["scored_tokens"]) == wants
    assert router.asked == 1, "only before the first choice"


@pytest.mark.parametrize(
    ("tokens", "repairs"),
    [(SAMPLING + SCORING - 1, False), (SAMPLING + SCORING + ATTEMPT, True)],
)
def test_a_repair_that_cannot_be_measured_gives_way_to_what_needs_no_trace(
    scripted, store, tokens, repairs
):
    class Lazy(Ranked):
        def wants_features(self, evidence):
            return False

    model = scripted([*SAMPLES, "42"])
    result = outcome(model, router=Lazy(), budget=Budget(max_tokens=tokens), store=store)
    methods = ["sample", "score", "sample"] if repairs else ["sample", "sample"]
    assert [call.method for call in model.calls] == methods
    assert result["solved"] is not repairs  # a repair keeps part of what failed
    assert result["route"][0]["operator"] == "sparse_steer"
    operator = "sparse_steer" if repairs else "retry"
    assert result["attempts"][4]["operator"] == operator
    assert (result["features"] is not None) == repairs
    assert result["usage"]["tokens"] <= tokens
    assert store.query("SELECT operator FROM interventions") == [{"operator": operator}]


def test_a_verifier_that_crashes_gives_unscored_never_failed(scripted):
    def broken(problem, text):
        raise RuntimeError("no database")

    result = outcome(scripted(SAMPLES), broken)
    assert result["stop_reason"] == "verifier_error"
    assert {a["verdict"]["value"] for a in result["attempts"]} == {"unscored"}
    assert "RuntimeError" in result["error"]
    assert not result["solved"]
    assert result["answer"] == "40", "the best so far still comes back"


def test_samples_that_cannot_be_judged_do_not_hide_those_that_failed(scripted):
    def picky(problem, text):
        if text == "40":
            raise RuntimeError("cannot judge")
        return text == "42"

    result = outcome(scripted([*SAMPLES, "42"]), picky, router=Always("retry"))
    assert result["solved"]
    assert [a["verdict"]["value"] for a in result["attempts"]].count("unscored") == 1


@pytest.mark.parametrize("texts", [[ConnectionError("down")], [*SAMPLES, ConnectionError("down")]])
def test_a_model_that_breaks_ends_the_problem_cleanly(texts, scripted, store):
    result = outcome(scripted(texts), store=store, router=Always("retry"))
    assert result["stop_reason"] == "model_error"
    assert "ConnectionError: down" in result["error"]
    assert len(result["attempts"]) == len(texts) - 1
    assert store.query("SELECT stop_reason FROM outcomes") == [{"stop_reason": "model_error"}]
    assert len(store.query("SELECT * FROM rollouts")) == len(texts) - 1


def test_a_scorer_that_breaks_ends_the_problem_cleanly(scripted, store):
    class Deaf(scripted):
        def score(self, *args, **options):
            raise ModelError("no logprobs today")

    graph = create_recovery_graph(Deaf(SAMPLES), "numeric", seed=0, store=store)
    events = list(graph.stream(QUESTION, stream_mode=["custom", "values"]))
    result = events[-1][1]
    assert result["stop_reason"] == "model_error"
    assert result["route"] == []
    assert len(result["attempts"]) == 4
    assert [event["type"] for mode, event in events if mode == "custom"][-1] == "finished"
    assert len(store.query("SELECT * FROM outcomes")) == 1


def test_a_model_without_rollouts_is_a_model_error(scripted):
    class Empty(scripted):
        def sample(self, *args, **options):
            return Generation([], Usage(prompt_tokens=4))

    result = outcome(Empty())
    assert result["stop_reason"] == "model_error"
    assert "returned no rollouts, asked for 4" in result["error"]


def test_a_budget_too_small_for_the_first_call_says_so(scripted):
    result = outcome(scripted(SAMPLES), budget=Budget(max_tokens=5))
    assert result["stop_reason"] == "budget_exhausted"
    assert result["attempts"] == []
    assert result["error"] == "5 tokens are left and the next call needs 8"


def test_attempts_end_at_the_budget(scripted):
    result = outcome(scripted(SAMPLES), budget=Budget(max_attempts=2))
    assert len(result["attempts"]) == 2
    assert result["stop_reason"] == "budget_exhausted"


def test_the_output_has_every_field_and_no_more(scripted):
    expected = set(RecoveryOutput.__annotations__)
    for texts in (["42"] * 4, [*SAMPLES, "42"], [ConnectionError()]):
        assert set(outcome(scripted(texts), router=Always("retry"))) == expected


def test_the_same_seed_repeats_the_run(pair):
    problem, first = hard_problem()
    second = create_recovery_graph("embedded", "numeric", seed=0).invoke(
        {"problem": problem.model_dump()}
    )
    other = create_recovery_graph("embedded", "numeric", seed=1).invoke(
        {"problem": problem.model_dump()}
    )
    assert [a["text"] for a in first["attempts"]] == [a["text"] for a in second["attempts"]]
    assert [a["seed"] for a in first["attempts"]] != [a["seed"] for a in other["attempts"]]


def test_the_context_overrides_budget_temperature_and_seed(scripted):
    graph = create_recovery_graph(scripted(SAMPLES, last="0"), "numeric", router=Always("retry"))
    context = RecoveryContext(max_attempts=5, temperature=0.9, seed=7)
    result = graph.invoke(QUESTION, context=context)
    assert len(result["attempts"]) == 5
    assert {attempt["temperature"] for attempt in result["attempts"]} == {0.9}


async def test_async_and_sync_agree():
    problem, sync = hard_problem()
    graph = create_recovery_graph("embedded", "numeric", seed=0)
    result = await graph.ainvoke({"problem": problem.model_dump()})
    assert [a["text"] for a in result["attempts"]] == [a["text"] for a in sync["attempts"]]


def test_every_attempt_and_decision_is_streamed(scripted):
    graph = retried(scripted([*SAMPLES, "42"]))
    events = list(graph.stream(QUESTION, stream_mode="custom"))
    kinds = [event["type"] for event in events]
    assert kinds == ["attempt"] * 4 + ["features", "decision", "attempt", "finished"]
    assert events[5]["reason"]
    assert events[-1]["solved"]


async def test_events_stream_asynchronously(scripted):
    graph = retried(scripted([*SAMPLES, "42"]))
    events = [event async for event in graph.astream(QUESTION, stream_mode="custom")]
    assert [event["type"] for event in events].count("attempt") == 5


def test_updates_name_the_nodes_in_order_and_none_is_empty(scripted):
    graph = retried(scripted([*SAMPLES, "42"]))
    updates = list(graph.stream(QUESTION, stream_mode="updates"))
    nodes = [next(iter(update)) for update in updates]
    assert nodes == [
        *("generate", "verify", "featurize", "classify", "intervene", "verify"),
    ]
    assert all(update[node] for update, node in zip(updates, nodes, strict=True))


def test_the_picture_has_the_five_nodes_and_labelled_branches():
    picture = create_recovery_graph("embedded", "numeric").get_graph()
    assert set(picture.nodes) == {
        *("__start__", "generate", "verify", "featurize", "classify", "intervene", "__end__"),
    }
    labels = {edge.data for edge in picture.edges if edge.conditional}
    assert {"failed", "done", "try", "stop", "attempted", "refused"} == {
        str(label) for label in labels if label
    }


class Parent(TypedDict, total=False):
    problem: dict[str, Any]
    attempts: Annotated[list[Any], operator.add]
    solved: bool
    answer: str
    note: str


def test_inside_a_parent_graph_nothing_is_doubled(scripted):
    builder = StateGraph(Parent)
    child = retried(scripted([*SAMPLES, "42"]))
    builder.add_node("recover", child)
    builder.add_node("after", lambda state: {"note": f"got {state['answer']}"})
    builder.add_edge(START, "recover")
    builder.add_edge("recover", "after")
    builder.add_edge("after", END)
    result = builder.compile(checkpointer=InMemorySaver()).invoke(
        QUESTION, {"configurable": {"thread_id": "1"}}
    )
    assert result["note"] == "got 42"
    assert len(result["attempts"]) == 5


def test_events_reach_a_parent_that_streams_subgraphs(scripted):
    builder = StateGraph(Parent)
    child = create_recovery_graph(scripted(["42"] * 4), "numeric", seed=0)
    builder.add_node("recover", child)
    builder.add_edge(START, "recover")
    parent = builder.compile()
    events = list(parent.stream(QUESTION, stream_mode="custom", subgraphs=True))
    assert [event["type"] for _, event in events].count("attempt") == 4


def test_a_foreign_context_object_is_left_alone(scripted):
    builder = StateGraph(Parent, context_schema=dict)
    child = create_recovery_graph(scripted(["42"] * 4), "numeric", seed=0)
    builder.add_node("recover", child)
    builder.add_edge(START, "recover")
    result = builder.compile().invoke(QUESTION, context={"max_attempts": 1})
    assert len(result["attempts"]) == 4


def test_messages_in_and_one_message_out(scripted):
    graph = retried(scripted([*SAMPLES, "42"]), lambda text: text == "42")
    history = [
        SystemMessage("Be brief."),
        HumanMessage("hello"),
        AIMessage("hi"),
        HumanMessage("6*7?"),
    ]
    result = graph.invoke({"messages": history})
    assert [message.type for message in result["messages"]] == [
        *("system", "human", "ai", "human", "ai"),
    ]
    assert result["messages"][-1].text == "42"


def test_a_thread_can_be_used_for_one_problem_after_another(scripted):
    graph = create_recovery_graph(
        scripted([*SAMPLES, "42", "42", "1", "1", "1"]),
        "numeric",
        seed=0,
        checkpointer=InMemorySaver(),
        router=Always("retry"),
    )
    thread = {"configurable": {"thread_id": "1"}}
    first = graph.invoke(QUESTION, thread)
    second = graph.invoke(QUESTION, thread)
    assert len(first["attempts"]) == 5
    assert len(second["attempts"]) == 4
    assert second["route"] == []
    assert second["features"] is None


def test_each_turn_of_a_chat_answers_its_own_question(scripted):
    graph = create_recovery_graph(
        scripted(["42"] * 4 + ["2"] * 4 + ["9"] * 4),
        lambda text: True,
        seed=0,
        checkpointer=InMemorySaver(),
    )
    thread = {"configurable": {"thread_id": "1"}}
    assert graph.invoke({"messages": [HumanMessage("6*7?")]}, thread)["answer"] == "42"
    second = graph.invoke({"messages": [HumanMessage("1+1?")]}, thread)
    assert second["answer"] == "2"
    assert [message.text for message in second["messages"]] == ["6*7?", "42", "1+1?", "2"]
    third = graph.invoke({"problem": {"prompt": "3*3?"}}, thread)
    assert third["answer"] == "9"


def test_a_person_may_be_the_verifier(scripted):
    from langgraph.types import Command

    graph = create_recovery_graph(
        scripted(["42"] * 4),
        lambda problem, text: interrupt("is it right?") == "yes",
        seed=0,
        samples=1,
        checkpointer=InMemorySaver(),
    )
    thread = {"configurable": {"thread_id": "1"}}
    assert "__interrupt__" in graph.invoke(QUESTION, thread)
    assert graph.invoke(Command(resume="yes"), thread)["solved"]


def test_without_a_store_a_lost_trace_leaves_the_other_operators(scripted):
    saver = InMemorySaver()
    thread = {"configurable": {"thread_id": "1"}}

    def build(texts):
        return build_recovery_graph(
            scripted(texts),
            "numeric",
            seed=0,
            interventions=["sparse_steer", "retry"],
            router=Ranked(),
        ).compile(checkpointer=saver, interrupt_before=["intervene"])

    build(SAMPLES).invoke(QUESTION, thread)
    result = build(["42"]).invoke(None, thread)
    assert result["solved"]
    assert result["best"]["operator"] == "retry"


class Ranked(Always):
    """Wants sparse steering, else a retry."""

    def __init__(self):
        super().__init__("sparse_steer")

    def decide(self, evidence):
        candidates = tuple(Candidate(name, None, 0.5, 10) for name in ("sparse_steer", "retry"))
        return Decision("sparse_steer", "sampling", 1.0, 0.5, candidates, "ranked")


class Ask(Retry):
    """Asks a person before it spends."""

    name = "ask"

    def apply(self, failure, model):
        assert interrupt("may I?") == "yes"
        return super().apply(failure, model)


def test_an_interrupt_resumes_without_repeating_a_paid_call(scripted, store):
    model = scripted([*SAMPLES, "42"])
    graph = create_recovery_graph(
        model,
        "numeric",
        seed=0,
        checkpointer=InMemorySaver(),
        interventions=[Ask()],
        store=store,
    )
    from langgraph.types import Command

    thread = {"configurable": {"thread_id": "1"}}
    assert "__interrupt__" in graph.invoke(QUESTION, thread)
    paid = len(model.calls)
    result = graph.invoke(Command(resume="yes"), thread)
    assert result["solved"]
    assert len(model.calls) == paid + 1
    assert len(store.query("SELECT * FROM rollouts")) == 5
    assert len(store.query("SELECT * FROM decisions")) == 1
    spent = store.query(
        "SELECT sum(prompt_tokens + completion_tokens + scored_tokens) t FROM calls"
    )
    assert spent[0]["t"] == result["usage"]["tokens"]


def test_another_process_takes_over_with_traces_from_the_store(tmp_path, scripted):
    from langgraph.types import Command

    saver = InMemorySaver()
    thread = {"configurable": {"thread_id": "1"}}

    class AskSparse(Ask):
        name = "ask"
        needs = frozenset({Capability.CONTINUE, Capability.SCORE})

        def apply(self, failure, model):
            assert interrupt("may I?") == "yes"
            assert len(failure.traces) == 4
            assert failure.trace.rollout.specialist is not None
            return Retry().apply(failure, model)

    def build(texts):
        return create_recovery_graph(
            scripted(texts),
            "numeric",
            seed=0,
            checkpointer=saver,
            interventions=[AskSparse()],
            store=TraceStore(tmp_path / "t.db"),
        )

    build(SAMPLES).invoke(QUESTION, thread)
    result = build(["42"]).invoke(Command(resume="yes"), thread)
    assert result["solved"]


@pytest.mark.parametrize("budget", [Budget(), Budget(max_tokens=5000)], ids=["free", "limited"])
@pytest.mark.parametrize("rule", [True, False], ids=["rule", "shipped"])
def test_what_is_stored_is_what_is_returned(store, rule, budget):
    problem, _ = hard_problem(rule)
    graph = create_recovery_graph(
        "embedded", "numeric", seed=0, store=store, router=router_of(rule), budget=budget
    )
    result = graph.invoke({"problem": problem.model_dump()})
    row = store.run_problem(store.run()["id"], problem.id)
    assert row["solved"] == 1
    assert row["tokens"] == result["usage"]["tokens"]
    assert row["attempts"] == len(result["attempts"])
    attempts = store.problem_attempts(row["id"])
    assert [a["text"] for a in attempts] == [a["text"] for a in result["attempts"]]
    assert [a["value"] for a in attempts] == [a["verdict"]["value"] for a in result["attempts"]]
    decisions = store.problem_decisions(row["id"])
    assert len(decisions) == len(result["route"]) > 0
    for stored, returned in zip(decisions, result["route"], strict=True):
        for name in ("reason", "policy_hash", "attempts_left", "tokens_left", "measured"):
            assert stored[name] == returned[name], name
        assert json.loads(stored["once"]) == returned["once"]
    assert_allowances_fit(result, budget)
    traced = [a["id"] for a in result["attempts"] if a["operator"] == "sample"]
    measured = result["features"] is not None
    assert [store.read_trace(name) is not None for name in traced] == [measured] * len(traced)


def assert_allowances_fit(result, budget):
    """Every decision says what was left when it was made, and what was measured by then."""
    first = [a["spent"] for a in result["attempts"] if a["operator"] == "sample"]
    later = result["attempts"][len(first) :]
    for step, decision in enumerate(result["route"]):
        assert decision["attempts_left"] == budget.max_attempts - len(first) - step
        assert bool(decision["once"]) != decision["measured"]
        if budget.max_tokens is None:
            assert decision["tokens_left"] is None
        else:
            spent = sum(first) + sum(attempt["spent"] for attempt in later[:step])
            before = result["usage"]["tokens"] - sum(first) - sum(a["spent"] for a in later)
            assert decision["tokens_left"] == budget.max_tokens - spent - before


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"model": "gpt-9"}, "model is 'gpt-9'"),
        ({"model": None}, "model is None"),
        ({"verifier": "nummeric"}, "nummeric"),
        ({"interventions": ["sparse"]}, "no intervention is named 'sparse'"),
        ({"interventions": [3]}, "3 is no intervention"),
        ({"router": 7}, "router is 7"),
        ({"samples": 0}, "samples is 0"),
        ({"temperature": 0}, "temperature is 0"),
        ({"max_new_tokens": 1.5}, "max_new_tokens is 1.5"),
        ({"store": 3}, "store is 3"),
        ({"budget": 5}, "budget is 5"),
        ({"seed": "x"}, "seed is 'x'"),
    ],
)
def test_bad_arguments_are_refused_when_building(options, fragment):
    given = {"model": "embedded", "verifier": "numeric", **options}
    with pytest.raises(InvalidInputError, match=fragment):
        build_recovery_graph(given.pop("model"), given.pop("verifier"), **given)


def test_an_intervention_the_model_cannot_carry_out_is_refused_when_building(scripted):
    model = scripted(capabilities=[Capability.SAMPLE])
    with pytest.raises(InvalidInputError, match="can carry out none of dense_steer"):
        build_recovery_graph(model, "numeric", interventions=["dense_steer"])


@pytest.mark.parametrize(
    "question", [{}, {"problem": {}}, {"problem": {"answer": 1}}, {"messages": [AIMessage("hi")]}]
)
def test_an_input_without_a_problem_is_refused(question):
    with pytest.raises(InvalidInputError):
        create_recovery_graph("embedded", "numeric").invoke(question)
