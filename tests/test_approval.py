"""Recoveries that pause, for a person or another process, go on without paying twice."""

import json
from dataclasses import replace

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command, interrupt

from recov_graph import Budget, TraceStore, create_recovery_graph
from recov_graph.errors import InvalidInputError, NotScorableError
from recov_graph.interventions import Attempt, Escalate, Retry
from recov_graph.models import Capability
from recov_graph.verifiers import Verdict
from tests.recoveries import (
    QUESTION,
    SAMPLES,
    THREAD,
    Ranked,
    assert_stored,
    methods,
    questions,
    recovery,
)

SAMPLED = ["sample", "score"]  # what the first samples of a problem cost, and measuring them


@pytest.fixture(params=["memory", "sqlite"])
def saver(request, tmp_path):
    if request.param == "memory":
        yield InMemorySaver()
    else:
        with SqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as opened:
            yield opened


# Asking before an intervention is paid


def test_nothing_is_paid_before_it_is_approved_and_nothing_twice(scripted, store, saver):
    model = scripted([*SAMPLES, "42"])
    graph = recovery(model, "retry", approve=["retry"], store=store, checkpointer=saver)
    paused = graph.invoke(QUESTION, THREAD)
    assert methods(model) == SAMPLED
    (question,) = questions(paused)
    assert question == {
        "type": "approval",
        "question": "Try retry?",
        "operator": "retry",
        "reason": "ranked",
        "expected_rescue": 0.5,
        "expected_cost": len("6*7?") + len("40") + 1,
        "prompt": "6*7?",
        "answer_with": "true to go ahead, false to go without it",
    }
    json.dumps(question)
    assert store.query("SELECT * FROM outcomes") == []
    result = graph.invoke(Command(resume=True), THREAD)
    assert result["solved"]
    assert methods(model) == [*SAMPLED, "sample"]
    assert_stored(store, result)


async def test_approval_works_asynchronously(scripted, store, tmp_path):
    model = scripted([*SAMPLES, "42"])
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
        graph = recovery(model, "retry", approve=["retry"], store=store, checkpointer=saver)
        assert questions(await graph.ainvoke(QUESTION, THREAD))
        result = await graph.ainvoke(Command(resume="approve"), THREAD)
    assert result["solved"]
    assert methods(model) == [*SAMPLED, "sample"]
    assert_stored(store, result)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_approval_works_however_checkpoints_are_written(scripted, store, saver, durability):
    model = scripted([*SAMPLES, "0", "42"])
    graph = recovery(model, "retry", approve=["retry"], store=store, checkpointer=saver)
    assert questions(graph.invoke(QUESTION, THREAD, durability=durability))
    assert questions(graph.invoke(Command(resume=True), THREAD, durability=durability))
    result = graph.invoke(Command(resume=True), THREAD, durability=durability)
    assert result["solved"]
    assert methods(model) == [*SAMPLED, "sample", "sample"]
    assert_stored(store, result)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (True, True),
        ("approve", True),
        ("accept", True),
        (" Yes ", True),
        ("TRUE", True),
        ({"type": "approve"}, True),
        ([{"type": "accept"}], True),
        ({"decisions": [{"type": "approve"}]}, True),
        ({"approve": True}, True),
        ({"approved": "yes"}, True),
        ({"value": True}, True),
        (False, False),
        ("reject", False),
        ("ignore", False),
        ("No", False),
        ("false", False),
        ({"type": "reject", "message": "too dear"}, False),
        ([{"type": "ignore"}], False),
        ({"decisions": [{"type": "reject"}]}, False),
        ({"approve": False}, False),
        ({"approved": "no"}, False),
    ],
    ids=str,
)
def test_an_answer_may_take_many_forms(scripted, answer, wanted):
    model = scripted([*SAMPLES, "42"])
    graph = recovery(model, "retry", approve=["retry"], checkpointer=InMemorySaver())
    graph.invoke(QUESTION, THREAD)
    result = graph.invoke(Command(resume=answer), THREAD)
    assert result["stop_reason"] == ("solved" if wanted else "out_of_reach")
    assert methods(model) == [*SAMPLED, *(["sample"] if wanted else [])]


@pytest.mark.parametrize(
    "nonsense",
    ["perhaps", "", 1, 0, [], [True, False], {"answer": True}, {"type": "edit"}, 1.5],
    ids=repr,
)
def test_what_is_not_understood_is_asked_again(scripted, nonsense):
    model = scripted([*SAMPLES, "42"])
    graph = recovery(model, "retry", approve=["retry"], checkpointer=InMemorySaver())
    (first,) = questions(graph.invoke(QUESTION, THREAD))
    (again,) = questions(graph.invoke(Command(resume=nonsense), THREAD))
    assert again == {**first, "not_understood": repr(nonsense)}
    assert methods(model) == SAMPLED
    assert graph.invoke(Command(resume=True), THREAD)["solved"]
    assert methods(model) == [*SAMPLED, "sample"]


def test_a_refused_intervention_gives_way_to_another_for_good(scripted, store, saver):
    model = scripted([*SAMPLES, "0", "42"])
    graph = recovery(
        model, "dense_steer", "retry", approve=["dense_steer"], store=store, checkpointer=saver
    )
    assert questions(graph.invoke(QUESTION, THREAD))[0]["operator"] == "dense_steer"
    events = list(graph.stream(Command(resume=False), THREAD, stream_mode=["custom", "values"]))
    result = events[-1][1]
    told = [event for mode, event in events if mode == "custom" and event["type"] == "refused"]
    assert told == [{"type": "refused", "operator": "dense_steer"}]
    assert result["solved"]
    assert [one["operator"] for one in result["route"]] == ["dense_steer", "retry", "retry"]
    assert [one["operator"] for one in result["attempts"][4:]] == ["retry", "retry"]
    assert methods(model) == [*SAMPLED, "sample", "sample"]
    assert_stored(store, result)


def test_when_all_are_refused_the_failure_is_out_of_reach(scripted, store, saver):
    model = scripted(SAMPLES)
    names = ["dense_steer", "retry"]
    graph = recovery(model, *names, approve=names, store=store, checkpointer=saver)
    assert questions(graph.invoke(QUESTION, THREAD))[0]["operator"] == "dense_steer"
    paused = graph.invoke(Command(resume=False), THREAD)
    assert questions(paused)[0]["operator"] == "retry"
    result = graph.invoke(Command(resume=False), THREAD)
    assert result["stop_reason"] == "out_of_reach"
    assert [one["operator"] for one in result["route"]] == names
    assert methods(model) == SAMPLED
    assert_stored(store, result)


def test_every_attempt_is_asked_for_anew(scripted):
    model = scripted([*SAMPLES, "0", "42"])
    graph = recovery(model, "retry", approve=["retry"], checkpointer=InMemorySaver())
    graph.invoke(QUESTION, THREAD)
    assert questions(graph.invoke(Command(resume=True), THREAD))
    result = graph.invoke(Command(resume=False), THREAD)
    assert result["stop_reason"] == "out_of_reach"
    assert len(result["attempts"]) == 5


def test_what_was_refused_for_one_problem_may_be_tried_on_the_next(scripted):
    model = scripted([*SAMPLES, *SAMPLES, "42"])
    graph = recovery(model, "retry", approve=["retry"], checkpointer=InMemorySaver())
    graph.invoke(QUESTION, THREAD)
    graph.invoke(Command(resume=False), THREAD)
    assert questions(graph.invoke(QUESTION, THREAD))
    assert graph.invoke(Command(resume=True), THREAD)["solved"]


@pytest.mark.parametrize("wanted", [True, False])
def test_a_stronger_model_is_asked_only_where_that_is_approved(scripted, store, wanted):
    weak = scripted(SAMPLES, last="0", capabilities=[Capability.SAMPLE])
    strong = scripted(["42"], name="strong", capabilities=[Capability.SAMPLE])
    graph = create_recovery_graph(
        weak,
        "numeric",
        seed=0,
        interventions=[Escalate(strong), "retry"],
        router=Ranked("escalate", "retry"),
        approve=["escalate"],
        budget=Budget(max_attempts=5),
        store=store,
        checkpointer=InMemorySaver(),
    )
    (question,) = questions(graph.invoke(QUESTION, THREAD))
    assert question["operator"] == "escalate"
    assert strong.calls == []
    result = graph.invoke(Command(resume=wanted), THREAD)
    assert result["solved"] == wanted
    assert methods(strong) == (["sample"] if wanted else [])
    assert methods(weak) == ["sample"] * (1 if wanted else 2)
    assert_stored(store, result)


@pytest.mark.parametrize(
    ("approve", "message"),
    [
        (["escalate"], r"approve names 'escalate'; this graph has retry"),
        ("retry", r"approve is 'retry'; it must be a list of names"),
        (7, r"approve is 7; it must be a list of names"),
    ],
)
def test_approval_of_what_does_not_exist_is_refused_when_building(scripted, approve, message):
    with pytest.raises(InvalidInputError, match=message):
        recovery(scripted(), "retry", approve=approve)


class Broken:
    """Turns out impossible when it is tried."""

    name = "broken"
    needs = frozenset({Capability.SAMPLE})

    def expected_cost(self, lengths):
        return 1

    def apply(self, failure, model):
        raise NotScorableError("it cannot be done")


@pytest.mark.parametrize("approve", [["dear"], ["broken", "dear"]])
def test_what_gives_way_never_gives_way_to_what_needs_approval(scripted, store, approve):
    class Dear(Retry):
        name = "dear"

    model = scripted([*SAMPLES, "42"])
    graph = create_recovery_graph(
        model,
        "numeric",
        seed=0,
        interventions=[Broken(), Dear(), Retry()],
        router=Ranked("broken", "dear", "retry"),
        approve=approve,
        store=store,
        checkpointer=InMemorySaver(),
    )
    result = graph.invoke(QUESTION, THREAD)
    if "broken" in approve:
        assert questions(result)[0]["operator"] == "broken"
        result = graph.invoke(Command(resume=True), THREAD)
    assert result["solved"]
    assert result["best"]["operator"] == "retry"
    assert_stored(store, result)


def test_where_only_what_needs_approval_is_left_nothing_is_paid(scripted, store):
    model = scripted([*SAMPLES, "42"])
    graph = create_recovery_graph(
        model,
        "numeric",
        seed=0,
        interventions=[Broken(), Retry()],
        router=Ranked("broken", "retry"),
        approve=["retry"],
        store=store,
        checkpointer=InMemorySaver(),
    )
    result = graph.invoke(QUESTION, THREAD)
    assert result["stop_reason"] == "model_error"
    assert "it cannot be done" in result["error"]
    assert methods(model) == SAMPLED
    assert_stored(store, result)


@pytest.mark.parametrize("later", [None, {}, {"approve": []}, {"max_attempts": 9}], ids=repr)
def test_approval_that_an_invocation_asked_for_outlives_it(scripted, later):
    model = scripted([*SAMPLES, "0", "42"])
    graph = recovery(model, "dense_steer", "retry", checkpointer=InMemorySaver())
    context = {"approve": ["dense_steer", "retry"]}
    assert questions(graph.invoke(QUESTION, THREAD, context=context))
    paused = graph.invoke(Command(resume=False), THREAD, context=later)
    assert questions(paused)[0]["operator"] == "retry"
    assert methods(model) == SAMPLED
    result = graph.invoke(Command(resume=False), THREAD, context=later)
    assert result["stop_reason"] == "out_of_reach"
    assert methods(model) == SAMPLED


def test_approval_may_be_asked_for_on_the_way(scripted):
    model = scripted([*SAMPLES, "42"])
    graph = recovery(model, "retry", checkpointer=InMemorySaver())
    graph.invoke(QUESTION, THREAD, interrupt_before=["intervene"])
    paused = graph.invoke(None, THREAD, context={"approve": ["retry"]})
    assert questions(paused)[0]["operator"] == "retry"
    assert methods(model) == SAMPLED


# Other reasons to pause


def test_a_person_judges_each_sample_by_itself(scripted, store, saver):
    def person(problem, text):
        return interrupt(f"{problem.prompt} {text}?") == "right"

    model = scripted(SAMPLES)
    graph = recovery(model, "retry", verifier=person, store=store, checkpointer=saver)
    asked, result = [], graph.invoke(QUESTION, THREAD)
    for answer in ("wrong", "wrong", "right", "wrong"):
        asked += questions(result)
        result = graph.invoke(Command(resume=answer), THREAD)
    assert asked == [f"6*7? {text}?" for text in SAMPLES]
    assert [one["verdict"]["value"] for one in result["attempts"]] == [
        *("failed", "failed", "passed", "failed"),
    ]
    assert result["answer"] == "43"
    assert methods(model) == ["sample"]
    assert_stored(store, result)


def test_a_person_judges_the_samples_though_the_process_changes(scripted, tmp_path):
    """What a person said of the first samples in one process stays said of them in the next."""

    def person(problem, text):
        return interrupt(text) == "right"

    asked, answers = [], iter(["wrong", "right", "wrong", "wrong"])
    for models in ([SAMPLES], [[]], [[]], [[]], [[]]):
        with SqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
            model = scripted(*models)
            graph = recovery(model, "retry", verifier=person, checkpointer=saver)
            resumed = Command(resume=next(answers)) if asked else QUESTION
            result = graph.invoke(resumed, THREAD)
            asked += questions(result)
            assert methods(model) == (["sample"] if models[0] else [])
    assert asked == SAMPLES
    assert result["answer"] == "41"


def test_a_person_judges_some_while_the_rest_is_judged_by_code(scripted):
    def unsure(problem, text):
        return interrupt(text) == "right" if text in ("41", "44") else False

    model = scripted([*SAMPLES, "41"])
    graph = recovery(model, "retry", verifier=unsure, checkpointer=InMemorySaver())
    assert questions(graph.invoke(QUESTION, THREAD)) == ["41"]
    assert questions(graph.invoke(Command(resume="wrong"), THREAD)) == ["44"]
    assert questions(graph.invoke(Command(resume="wrong"), THREAD)) == ["41"]
    result = graph.invoke(Command(resume="right"), THREAD)
    assert result["solved"]
    assert methods(model) == [*SAMPLED, "sample"]


def asking_model(scripted, *script, ask="sample", **options):
    """A scripted model that asks a person before each call of a kind."""

    class Asking(scripted):
        def sample(self, prompt, **arguments):
            if ask == "sample":
                self.told.append(interrupt("sample?"))
            return super().sample(prompt, **arguments)

        def score(self, prompt, completions, *, role):
            if ask == "score":
                self.told.append(interrupt("score?"))
            return super().score(prompt, completions, role=role)

    model = Asking(*script, **options)
    model.told = []
    return model


@pytest.mark.parametrize(("ask", "times"), [("sample", 3), ("score", 1)])
def test_a_model_may_ask_a_person_first(scripted, store, saver, ask, times):
    model = asking_model(scripted, [*SAMPLES, "0", "42"], ask=ask)
    graph = recovery(model, "retry", store=store, checkpointer=saver)
    result = graph.invoke(QUESTION, THREAD)
    for answer in range(times):
        assert questions(result) == [f"{ask}?"]
        result = graph.invoke(Command(resume=answer), THREAD)
    assert result["solved"]
    assert model.told == list(range(times))
    assert methods(model) == [*SAMPLED, "sample", "sample"]
    assert_stored(store, result)


def test_scoring_by_one_model_is_not_paid_again_where_the_other_asks(scripted, store, saver):
    class Bare(scripted):
        """Samples without the specialist's lists; the ancestor asks a person."""

        def sample(self, prompt, **arguments):
            generation = super().sample(prompt, **arguments)
            bare = [replace(rollout, specialist=None) for rollout in generation.rollouts]
            return generation._replace(rollouts=bare)

        def score(self, prompt, completions, *, role):
            if role == "ancestor":
                interrupt("score?")
            return super().score(prompt, completions, role=role)

    model = Bare([*SAMPLES, "42"])
    graph = recovery(model, "retry", store=store, checkpointer=saver)
    assert questions(graph.invoke(QUESTION, THREAD)) == ["score?"]
    result = graph.invoke(Command(resume=True), THREAD)
    assert result["solved"]
    roles = [call.arguments["role"] for call in model.calls if call.method == "score"]
    assert roles == ["specialist", "ancestor"]
    assert_stored(store, result)


class Twice:
    """Samples, asks a person, and samples again."""

    name = "twice"
    needs = frozenset({Capability.SAMPLE})

    def __init__(self, *asks):
        self.asks = asks or ("go on?",)

    def expected_cost(self, lengths):
        return 2 * (lengths.prompt + lengths.completion)

    def apply(self, failure, model):
        options = {"temperature": 0.6, "max_tokens": 9, "seed": failure.seed}
        first = model.sample(failure.problem.prompt, **options).rollouts[0]
        told = [interrupt(f"{ask} {first.text}") for ask in self.asks]
        last = model.sample(f"not {first.text}", **options).rollouts[0]
        return Attempt(last, {"told": told})


def test_an_intervention_that_asks_half_way_pays_its_first_half_once(scripted, store, saver):
    model = scripted([*SAMPLES, "50", "42"])
    twice = Twice("first?", "second?")
    graph = create_recovery_graph(
        model,
        "numeric",
        seed=0,
        interventions=[twice],
        router=Ranked("twice"),
        store=store,
        checkpointer=saver,
    )
    assert questions(graph.invoke(QUESTION, THREAD)) == ["first? 50"]
    assert questions(graph.invoke(Command(resume="a"), THREAD)) == ["second? 50"]
    assert methods(model) == [*SAMPLED, "sample"]
    result = graph.invoke(Command(resume="b"), THREAD)
    assert result["solved"]
    assert result["best"]["details"] == {"told": ["a", "b"]}
    assert methods(model) == [*SAMPLED, "sample", "sample"]
    assert result["best"]["spent"] == len("6*7?") + 3 + len("not 50") + 3
    assert_stored(store, result)


def test_without_a_seed_the_first_half_is_not_paid_twice_either(scripted, store):
    model = scripted([*SAMPLES, "50", "42"])
    graph = create_recovery_graph(
        model,
        "numeric",
        interventions=[Twice()],
        router=Ranked("twice"),
        store=store,
        checkpointer=InMemorySaver(),
    )
    graph.invoke(QUESTION, THREAD)
    result = graph.invoke(Command(resume="a"), THREAD)
    assert result["solved"]
    assert methods(model) == [*SAMPLED, "sample", "sample"]
    assert_stored(store, result)


def test_answers_are_not_mixed_up_where_the_model_asks_as_well(scripted, store):
    model = asking_model(scripted, [*SAMPLES, "50", "50", "50", "42"])
    graph = create_recovery_graph(
        model,
        "numeric",
        seed=0,
        interventions=[Twice()],
        router=Ranked("twice"),
        store=store,
        checkpointer=InMemorySaver(),
    )
    result = graph.invoke(QUESTION, THREAD)
    asked = []
    for answer in ("samples", "first", "half-way", "last"):
        asked += questions(result)
        result = graph.invoke(Command(resume=answer), THREAD)
    assert asked == ["sample?", "sample?", "go on? 50", "sample?"]
    assert result["best"]["details"] == {"told": ["half-way"]}
    assert model.told[-2:] == ["first", "last"]
    assert_stored(store, result)


def test_a_pause_before_each_attempt_pays_nothing_twice(scripted, store, saver):
    model = scripted([*SAMPLES, "0", "42"])
    graph = recovery(model, "retry", store=store, checkpointer=saver)
    graph.invoke(QUESTION, THREAD, interrupt_before=["intervene"])
    assert graph.get_state(THREAD).next == ("intervene",)
    assert methods(model) == SAMPLED
    graph.invoke(None, THREAD, interrupt_before=["intervene"])
    assert methods(model) == [*SAMPLED, "sample"]
    result = graph.invoke(None, THREAD)
    assert result["solved"]
    assert methods(model) == [*SAMPLED, "sample", "sample"]
    assert_stored(store, result)


def test_whoever_goes_on_may_allow_fewer_interventions(scripted, store):
    model = scripted([*SAMPLES, "42"])
    graph = recovery(model, "retry", "dense_steer", store=store, checkpointer=InMemorySaver())
    graph.invoke(QUESTION, THREAD, interrupt_before=["intervene"])
    result = graph.invoke(None, THREAD, context={"interventions": ["dense_steer"]})
    assert [one["operator"] for one in result["route"]] == ["retry"]
    assert result["best"]["operator"] == "dense_steer"
    assert_stored(store, result)


# Another process


@pytest.mark.parametrize("pause", ["approve", "interrupt_before"])
def test_another_process_goes_on_where_one_paused(scripted, tmp_path, pause):
    def process(texts, given):
        """A graph, model, trace store and checkpointer of its own over the same two files."""
        asking = {"approve": ["retry"]} if pause == "approve" else {}
        stop = {} if asking else {"interrupt_before": ["intervene"]}
        model = scripted(texts)
        with (
            SqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver,
            TraceStore(tmp_path / "traces.db") as store,
        ):
            graph = recovery(model, "retry", store=store, checkpointer=saver, **asking)
            result = graph.invoke(given, THREAD, **stop)
            done = not graph.get_state(THREAD).next
            if done:
                assert_stored(store, result)
        return result, methods(model), done

    resumed = Command(resume=True) if pause == "approve" else None
    _, paid, _ = process(SAMPLES, QUESTION)
    assert paid == SAMPLED
    _, paid, done = process(["0"], resumed)
    assert paid == ["sample"]
    assert not done
    result, paid, done = process(["42"], resumed)
    assert paid == ["sample"]
    assert done
    assert [one["text"] for one in result["attempts"]] == [*SAMPLES, "0", "42"]
    assert len(result["route"]) == 2


@pytest.mark.parametrize("pause", ["approve", "interrupt_before"])
def test_another_process_repairs_a_trace_that_the_store_kept(pair, tmp_path, pause):
    class Counting:
        """The pair that ships, its calls counted."""

        def __init__(self):
            self.calls = []

        def __getattr__(self, name):
            if name in ("sample", "score", "open"):
                self.calls.append(name)
            return getattr(pair, name)

    def process(given):
        asking = {"approve": ["sparse_steer"]} if pause == "approve" else {}
        stop = {} if asking else {"interrupt_before": ["intervene"]}
        model = Counting()
        with (
            SqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver,
            TraceStore(tmp_path / "traces.db") as store,
        ):
            graph = recovery(
                model,
                "sparse_steer",
                store=store,
                checkpointer=saver,
                budget=Budget(max_attempts=5),
                **asking,
            )
            model.calls.clear()
            result = graph.invoke(given, THREAD, **stop)
            if not graph.get_state(THREAD).next:
                assert_stored(store, result)
        return result, model.calls

    hard = {"prompt": "37+48*2?", "answer": -1, "id": "never"}
    paused, paid = process({"problem": hard})
    assert paid == ["sample", "score"]
    result, paid = process(Command(resume=True) if pause == "approve" else None)
    assert paid == ["sample"]
    last = result["attempts"][-1]
    assert last["operator"] == "sparse_steer"
    assert last["details"]["anchor"] == "replay"
    if pause == "interrupt_before":
        assert [one["text"] for one in result["attempts"][:4]] == [
            one["text"] for one in paused["attempts"]
        ]


# Time travel


def before(graph, node, thread=THREAD, nth=0):
    """The configuration of a checkpoint from which a node comes next, the latest first."""
    return [one.config for one in graph.get_state_history(thread) if one.next == (node,)][nth]


def test_a_rewound_recovery_leaves_only_what_finished(scripted, store, saver):
    model = scripted([*SAMPLES, "0", "1", "2", "42"])
    budget = Budget(max_attempts=7)
    graph = recovery(model, "retry", store=store, checkpointer=saver, budget=budget)
    first = graph.invoke(QUESTION, THREAD)
    assert [one["text"] for one in first["attempts"]] == [*SAMPLES, "0", "1", "2"]
    assert_stored(store, first)
    second = graph.invoke(None, before(graph, "intervene", nth=1))  # before the second attempt
    assert [one["text"] for one in second["attempts"]] == [*SAMPLES, "0", "42"]
    assert second["solved"]
    assert methods(model)[-1:] == ["sample"]
    assert len(methods(model)) == len(SAMPLED) + 4
    assert_stored(store, second)


def test_a_fork_goes_its_own_way(scripted, store, saver):
    model = scripted([*SAMPLES, "0", "1", "42"])
    graph = recovery(
        model,
        "retry",
        "dense_steer",
        store=store,
        checkpointer=saver,
        budget=Budget(max_attempts=6),
    )
    first = graph.invoke(QUESTION, THREAD)
    assert not first["solved"]
    assert_stored(store, first)
    past = before(graph, "intervene", nth=1)
    decision = graph.get_state(past).values["route"][0]
    fork = graph.update_state(past, {"route": [{**decision, "operator": "dense_steer"}]})
    second = graph.invoke(None, fork)
    assert second["solved"]
    assert [one["operator"] for one in second["attempts"][4:]] == ["dense_steer"]
    assert len(second["attempts"]) == 5
    stored = store.query("SELECT operator FROM interventions")
    assert stored == [{"operator": "dense_steer"}]
    assert len(store.query("SELECT * FROM outcomes")) == 1
    assert len(store.query("SELECT * FROM decisions")) == 1


def test_a_rewound_start_is_a_recovery_of_its_own(scripted, store, saver):
    model = scripted([*SAMPLES, *"0123", "50", "51", "52", "53", "42"])
    graph = recovery(model, "retry", store=store, checkpointer=saver, budget=Budget(max_attempts=8))
    first = graph.invoke(QUESTION, THREAD)
    assert len(first["attempts"]) == 8
    second = graph.invoke(None, before(graph, "generate"))
    assert [one["text"] for one in second["attempts"]] == ["50", "51", "52", "53", "42"]
    assert_stored(store, first, second)


def answered(graph, given, answer, start=THREAD):
    """What comes out where every question is answered the same."""
    result = graph.invoke(given, start)
    while "__interrupt__" in result:
        result = graph.invoke(Command(resume=answer), THREAD)
    return result


def test_verdicts_taken_back_leave_nothing_of_the_failure(scripted, store, saver):
    model = scripted([*SAMPLES, "0"])
    graph = recovery(
        model,
        "retry",
        verifier=lambda text: interrupt(text) == "right",
        store=store,
        checkpointer=saver,
        budget=Budget(max_attempts=5),
    )
    first = answered(graph, QUESTION, "wrong")
    assert first["stop_reason"] == "budget_exhausted"
    assert_stored(store, first)
    second = answered(graph, None, "right", start=before(graph, "verify", nth=-1))
    assert second["solved"]
    assert len(second["attempts"]) == 4
    assert_stored(store, second)


@pytest.mark.parametrize("paused", [True, False])
def test_other_verdicts_are_measured_on_their_own(scripted, store, paused):
    """Arrays of the timeline that was given up are in memory as long as it has only paused."""
    model = scripted(["40", "410", "4300", "44000", "0", "42"])
    doubted = []

    def verifier(text):
        return Verdict("unscored" if text in doubted else "passed" if text == "42" else "failed")

    graph = recovery(model, "retry", verifier=verifier, store=store, checkpointer=InMemorySaver())
    graph.invoke(QUESTION, THREAD, interrupt_before=["intervene"] if paused else None)
    if paused:
        first = graph.get_state(THREAD).values["features"]
    doubted += ["410", "4300", "44000"]
    result = graph.invoke(None, before(graph, "verify", nth=-1))
    if paused:
        assert result["features"] != first
    else:  # the samples' arrays are gone with the end
        assert result["features"] is None
    assert_stored(store, result)


@pytest.mark.parametrize("store_text", ["hash", "none"])
def test_a_black_box_leaves_one_timeline_where_texts_are_not_kept(scripted, tmp_path, store_text):
    right = []
    model = scripted([*SAMPLES, "0", "1"], capabilities=[Capability.SAMPLE])
    with TraceStore(tmp_path / "t.db", store_text=store_text) as store:
        graph = recovery(
            model,
            "retry",
            verifier=lambda text: text in right,
            store=store,
            checkpointer=InMemorySaver(),
            budget=Budget(max_attempts=6),
        )
        graph.invoke(QUESTION, THREAD)
        rows = {"rollouts": 6, "verdicts": 6, "calls": 3, "decisions": 2, "interventions": 2}
        rows["rollout_features"] = 1
        assert {table: len(store.query(f"SELECT id FROM {table}")) for table in rows} == rows
        right.append("41")
        graph.invoke(None, before(graph, "verify", nth=-1))
        rows = {"rollouts": 4, "verdicts": 4, "calls": 1, "decisions": 0, "interventions": 0}
        rows["rollout_features"] = 0
        assert {table: len(store.query(f"SELECT id FROM {table}")) for table in rows} == rows


def test_an_approval_may_be_answered_again_from_the_past(scripted, store, saver):
    model = scripted([*SAMPLES, "0", "42"])
    budget = Budget(max_attempts=5)
    options = {"store": store, "checkpointer": saver, "budget": budget}
    graph = recovery(model, "retry", approve=["retry"], **options)
    graph.invoke(QUESTION, THREAD)
    asked = before(graph, "intervene")
    refused = graph.invoke(Command(resume=False), THREAD)
    assert refused["stop_reason"] == "out_of_reach"
    assert_stored(store, refused)
    assert questions(graph.invoke(None, asked))
    approved = graph.invoke(Command(resume=True), THREAD)
    assert approved["stop_reason"] == "budget_exhausted"
    assert len(approved["attempts"]) == 5
    assert methods(model) == [*SAMPLED, "sample"]
    assert_stored(store, approved)


def test_a_finished_recovery_rewound_in_another_process_repairs_a_stored_trace(pair, tmp_path):
    for first in (True, False):
        with (
            SqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver,
            TraceStore(tmp_path / "traces.db") as store,
        ):
            graph = recovery(
                pair, "sparse_steer", store=store, checkpointer=saver, budget=Budget(max_attempts=6)
            )
            if first:
                problem = {"prompt": "37+48*2?", "answer": -1, "id": "never"}
                result = graph.invoke({"problem": problem}, THREAD)
            else:
                result = graph.invoke(None, before(graph, "intervene"))
            assert [one["operator"] for one in result["attempts"][4:]] == ["sparse_steer"] * 2
            assert_stored(store, result)
