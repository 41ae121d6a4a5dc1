"""Interventions for models that show no log-probabilities: on the prompt, and on who is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from recov_graph import Budget, TraceStore, create_recovery_graph
from recov_graph.budget import BudgetExhausted, MeteredModel
from recov_graph.errors import InvalidInputError, ModelError
from recov_graph.interventions import (
    Escalate,
    Extend,
    Failure,
    Intervention,
    Lengths,
    Metered,
    Replan,
    Retry,
    TempLift,
    applies,
    default_interventions,
    register,
    registered,
    resolve,
    unregister,
)
from recov_graph.models import Capability, Generation
from recov_graph.models.base import Overhead
from recov_graph.problem import Problem
from recov_graph.record import Settings, record
from recov_graph.rollout import Usage
from recov_graph.routing import Candidate, Decision, default_policy
from recov_graph.tape import read_tape
from recov_graph.trace import measure
from tests.searching import examples

PROMPT = "what?"
QUESTION = {"problem": {"prompt": PROMPT, "answer": "right", "id": "p"}}
BLACK_BOX = frozenset({Capability.SAMPLE, Capability.TEMPERATURE, Capability.INSTRUCT})
ON_TOKENS = ["retry", "sparse_steer", "sparse_steer_random", "local_temp", "dense_steer"]
ON_PROMPTS = ["retry", "temp_lift", "replan", "extend"]
NEVER_STOP = default_policy().model_copy(update={"stop_below": 0.0})
CUT = 6  # tokens after which a completion of `outcome` is cut


class InTurn:
    """A router that takes the operators it was given one after another, and then stops."""

    name = "in-turn"
    content_hash = "0" * 16

    def __init__(self, *operators: str, candidates: Sequence[str] = ()) -> None:
        self._operators = iter(operators)
        self._candidates = tuple(Candidate(name, None, 0.1, 1) for name in candidates)
        self.offered: list[list[str]] = []
        self.costs: dict[str, int] = {}

    def decide(self, evidence: Any) -> Decision:
        self.offered.append(list(evidence.costs))
        self.costs = dict(evidence.costs)
        return Decision(
            next(self._operators, None), "sampling", 1.0, 0.5, self._candidates, "in turn"
        )


def outcome(model: Any, router: Any, **options: Any) -> dict[str, Any]:
    how: dict[str, Any] = {"seed": 0, "samples": 2, "max_new_tokens": CUT, **options}
    return create_recovery_graph(model, "exact", router=router, **how).invoke(QUESTION)


def black_box(scripted: Any, *texts: str | Exception, last: str | None = "no", **how: Any) -> Any:
    return scripted(texts, last=last, capabilities=BLACK_BOX, **how)


def asked(model: Any) -> dict[str, Any]:
    """The arguments of a model's latest call."""
    return dict(model.calls[-1].arguments)


def a_failure(**changes: Any) -> Failure:
    how: dict[str, Any] = {"temperature": 0.6, "max_tokens": 10, "seed": 3, **changes}
    return Failure(Problem(prompt=PROMPT), **how)


# What is offered


@pytest.mark.parametrize(
    ("capabilities", "names"),
    [
        (BLACK_BOX, ON_PROMPTS),
        ({Capability.SAMPLE}, ON_PROMPTS),
        ({Capability.SAMPLE, Capability.SCORE}, ON_TOKENS),
        (frozenset(Capability), ON_TOKENS),
        (frozenset(Capability) - {Capability.SCORE}, ON_PROMPTS),
    ],
)
def test_what_a_model_can_do_decides_what_is_tried_by_default(
    capabilities: frozenset[Capability], names: list[str]
) -> None:
    assert list(default_interventions(capabilities)) == names
    assert list(resolve(None, capabilities)) == names


def test_every_shipped_intervention_can_be_named(scripted: Any) -> None:
    assert list(registered()) == [*ON_TOKENS, *ON_PROMPTS[1:]]
    assert list(resolve(["replan", "dense_steer"], BLACK_BOX)) == ["replan", "dense_steer"]
    router = InTurn("replan")
    outcome(scripted(last="no"), router, interventions=["retry", "replan"])
    assert router.offered[0] == ["retry", "replan"]


@pytest.fixture
def shout() -> Iterator[Intervention]:
    """An intervention of a user's."""

    class Shout(Retry):
        name = "shout"

    yield register(Shout())
    unregister("shout")


@pytest.mark.parametrize(
    ("capabilities", "names"), [(BLACK_BOX, ON_PROMPTS), (frozenset(Capability), ON_TOKENS)]
)
def test_what_users_register_is_always_tried(
    shout: Intervention, capabilities: frozenset[Capability], names: list[str]
) -> None:
    assert default_interventions(capabilities) == {
        **{name: registered()[name] for name in names},
        "shout": shout,
    }


def test_what_users_put_in_place_of_one_that_ships_is_theirs() -> None:
    shipped = registered()["replan"]
    mine = Replan("Backwards, please.")
    try:
        register(mine, replace=True)
        assert default_interventions(frozenset(Capability))["replan"] is mine
    finally:
        register(shipped, replace=True)
    assert "replan" not in default_interventions(frozenset(Capability))


def test_a_longer_completion_is_offered_only_after_one_was_cut(scripted: Any) -> None:
    for texts, offered in (
        (["no", "nope"], ON_PROMPTS[:-1]),
        (["no", "a long story"], ON_PROMPTS),
        (["a long story", "a long story"], ON_PROMPTS),
    ):
        router = InTurn()
        outcome(black_box(scripted, *texts), router)
        assert router.offered == [offered]


def test_an_attempt_that_was_cut_is_no_sample_that_was(scripted: Any) -> None:
    router = InTurn("retry")
    outcome(black_box(scripted, "no", "no", "a long story"), router)
    assert router.offered == [ON_PROMPTS[:-1]] * 2


def test_an_intervention_applies_unless_it_says_otherwise() -> None:
    cut, whole = Lengths(5, 6, truncated=1), Lengths(5, 6)
    assert applies(Extend(), cut)
    assert not applies(Extend(), whole)
    assert applies(Retry(), cut)
    assert applies(Retry(), whole)


def test_nothing_falls_back_on_what_does_not_apply(scripted: Any) -> None:
    """Where measuring is too dear, the next of the router's list follows, but never extend."""
    router = InTurn("sparse_steer", candidates=["sparse_steer", "extend", "retry"])
    sampling, attempt = len(PROMPT) + 2 * 4, len(PROMPT) + 4
    result = outcome(
        scripted(["no1", "no2"], last="no3"),
        router,
        interventions=["sparse_steer", "extend", "retry"],
        budget=Budget(max_tokens=sampling + attempt),
    )
    assert [one["operator"] for one in result["attempts"]] == ["sample", "sample", "retry"]


def test_a_tape_holds_only_what_applies_to_every_failure(scripted: Any, store: TraceStore) -> None:
    how = Settings(samples=2, attempts=2, temperature=0.6, max_new_tokens=CUT, seed=0)
    problem = Problem(**QUESTION["problem"])
    record(black_box(scripted, last="a long story"), "exact", [problem], store, settings=how)
    (taped,) = read_tape(store.path)
    assert list(taped.attempts) == ["retry", "temp_lift", "replan"]


# Each of them


@pytest.mark.parametrize(
    ("decoding", "lifted"),
    [(0.6, 1.0), (0.99, 1.0), (1.0, 1.5), (1.2, 1.8), (1.5, 2.0), (2.5, 2.5)],
)
def test_temp_lift_samples_hotter_than_decoding(
    scripted: Any, decoding: float, lifted: float
) -> None:
    model = black_box(scripted, "no", "no", "right")
    result = outcome(model, InTurn("temp_lift"), temperature=decoding)
    assert result["solved"]
    assert asked(model)["temperature"] == pytest.approx(lifted)
    assert result["best"]["details"] == {"temperature": asked(model)["temperature"]}
    assert asked(model)["prompt"] == PROMPT
    assert asked(model)["max_tokens"] == CUT


def test_replan_asks_the_same_with_an_instruction_after_it(scripted: Any) -> None:
    model = black_box(scripted, "no", "no", "right")
    result = outcome(
        model, InTurn("replan"), interventions=[Replan("Backwards, please.")], temperature=0.7
    )
    assert result["solved"]
    assert asked(model)["prompt"] == f"{PROMPT}\n\nBackwards, please."
    assert asked(model)["temperature"] == 0.7
    assert result["best"]["details"] == {"instruction": "Backwards, please."}


def test_an_instruction_is_among_the_costs() -> None:
    lengths = Lengths(prompt=100, completion=50)
    assert Replan("x" * 40).expected_cost(lengths) == 160
    assert Replan("x" * 41).expected_cost(lengths) == 161
    assert Retry().expected_cost(lengths) < Replan().expected_cost(lengths) < 200


def test_extend_draws_a_longer_sample_from_a_black_box(scripted: Any) -> None:
    model = black_box(scripted, "a long story", "no", "right, in the end", last=None)
    result = outcome(model, InTurn("extend"), interventions=[Extend(2.5)])
    assert asked(model)["max_tokens"] == 15
    assert asked(model)["prefix"] == []
    assert result["attempts"][-1]["text"] == "right, in the e"
    assert result["attempts"][-1]["details"] == {"max_tokens": 15, "how": "fresh"}


def test_extend_goes_on_with_a_measured_sample_that_was_cut(scripted: Any) -> None:
    model = scripted(["no", "ri" + "g" * 10, "ht"])
    result = outcome(model, InTurn("extend"), interventions=["retry", "extend"])
    begun = "ri" + "g" * (CUT - 2)
    assert asked(model)["prefix"] == [ord(letter) for letter in begun]
    assert asked(model)["max_tokens"] == CUT  # of the 12 that two times as many are
    assert result["attempts"][-1]["text"] == begun + "ht"
    assert result["attempts"][-1]["details"] == {"max_tokens": 2 * CUT, "how": "continued"}


def test_extend_moves_on_from_one_cut_sample_to_the_next(scripted: Any) -> None:
    model = scripted(["aaaaaaaa", "no", "bbbbbbbb"], last="!")
    outcome(model, InTurn(*["extend"] * 3), interventions=["extend"], samples=3)
    prefixes = [call.arguments["prefix"] for call in model.calls if call.method == "sample"]
    assert prefixes[1:] == [[ord(letter)] * CUT for letter in "aba"]


def test_extend_continues_only_with_a_model_that_can(scripted: Any) -> None:
    scores = [Capability.SAMPLE, Capability.SCORE]
    model = scripted(["a long story", "no"], last="no", capabilities=scores)
    result = outcome(model, InTurn("extend"), interventions=["extend"])
    assert result["attempts"][-1]["details"]["how"] == "fresh"
    assert asked(model)["prefix"] == []


@pytest.mark.parametrize(
    ("text", "cut_at", "how"),
    [("abcdefgh", 6, "continued"), ("abcdefgh", 4, "fresh"), ("abcde", 6, "fresh")],
)
def test_extend_continues_only_what_the_longest_completion_cut(
    scripted: Any, text: str, cut_at: int, how: str
) -> None:
    """Not what ended by itself, nor what was cut for want of anything but allowed tokens."""
    model = scripted([text], last="z")
    rollout = model.sample(PROMPT, temperature=0.6, max_tokens=cut_at, seed=0).rollouts[0]
    (ancestor,) = model.score(PROMPT, [rollout.token_ids], role="ancestor").topk
    failed = a_failure(max_tokens=6, traces=[measure(replace(rollout, ancestor=ancestor), 0.6)])
    assert Extend().apply(failed, model).details == {"max_tokens": 12, "how": how}


def test_how_far_a_model_goes_between_readings_is_among_the_costs(scripted: Any) -> None:
    def cost(stride: int = 0) -> int:
        model, router = scripted(last="a long story"), InTurn()
        model.overhead = Overhead(stride=stride)
        outcome(model, router, interventions=["dense_steer"])
        return router.costs["dense_steer"]

    assert cost() == 2 * (len(PROMPT) + CUT)
    assert cost(stride=2) == 2 * 3 * (len(PROMPT) + CUT // 2 + 2)


@pytest.mark.parametrize("name", ON_PROMPTS)
def test_expected_costs_are_near_what_is_spent(scripted: Any, name: str) -> None:
    longest = {"extend": 80}.get(name, 40)
    intervention = registered()[name]
    problem = Problem(prompt="a question of some length, " * 4)
    meter = MeteredModel(scripted(last="x" * 100), Budget(), "p", {})
    attempt = intervention.apply(Failure(problem, 0.6, 40, seed=0), meter)
    assert len(attempt.rollout) == longest
    expected = intervention.expected_cost(Lengths(len(problem.prompt), 40, truncated=1))
    # One character is one token here, where four are reckoned with.
    unforeseen = len(Replan().instruction) if name == "replan" else 0
    assert expected <= meter.spent.tokens <= expected + unforeseen


# Another model


def test_escalate_asks_another_model_as_it_would_retry(scripted: Any) -> None:
    model, strong = black_box(scripted), black_box(scripted, "right", name="strong")
    result = outcome(
        model,
        InTurn("retry", "escalate"),
        interventions=["retry", Escalate(strong)],
        temperature=0.7,
    )
    assert result["solved"]
    assert result["best"]["operator"] == "escalate"
    assert result["best"]["details"] == {"model": "strong", "temperature": 0.7}
    assert len(strong.calls) == 1
    last, retried = asked(strong), asked(model)
    assert last.pop("seed") == result["best"]["seed"] != retried.pop("seed")
    assert last == retried


def test_escalate_samples_at_a_temperature_of_its_own(scripted: Any) -> None:
    strong = black_box(scripted, "right", name="strong")
    result = outcome(
        black_box(scripted), InTurn("escalate"), interventions=[Escalate(strong, temperature=1.0)]
    )
    assert asked(strong)["temperature"] == 1.0
    assert result["best"]["details"]["temperature"] == 1.0


def test_escalated_calls_are_in_the_same_ledger(scripted: Any, store: TraceStore) -> None:
    strong = black_box(scripted, "nay", "right", name="strong")
    result = outcome(
        black_box(scripted),
        InTurn("escalate", "retry", "escalate"),
        interventions=["retry", Escalate(strong, price=30)],
        store=store,
    )
    calls = store.query("SELECT * FROM calls ORDER BY rowid")
    assert [call["purpose"] for call in calls] == ["sample", "escalate", "sample", "escalate"]
    assert [call["id"].rpartition("/")[2] for call in calls] == [f"call{i}" for i in range(4)]
    spent = [call["prompt_tokens"] + call["completion_tokens"] for call in calls]
    # As they are, whatever their price.
    assert spent[1::2] == [len(PROMPT) + len("nay") + 1, len(PROMPT) + len("right") + 1]
    assert result["usage"]["tokens"] == sum(spent)
    assert [a["spent"] for a in result["attempts"][2:]] == spent[1:]
    (attempt,) = store.query("SELECT * FROM interventions WHERE outcome = 'rescued'")
    assert (attempt["operator"], attempt["tokens"]) == ("escalate", spent[-1])


def test_a_price_counts_where_operators_are_compared(scripted: Any) -> None:
    router = InTurn()
    chosen = ["retry", Escalate(black_box(scripted), price=2.5)]
    outcome(black_box(scripted), router, interventions=chosen)
    assert router.costs == {"retry": 8, "escalate": 20}


def test_a_model_on_the_same_budget_is_cut_and_refused_by_it(scripted: Any) -> None:
    first, strong = scripted(last="abcdef"), scripted(last="a long answer")
    meter = MeteredModel(first, Budget(max_tokens=2 * len(PROMPT) + 7 + 4), "p", {})
    assert isinstance(meter, Metered)
    assert not isinstance(first, Metered)
    Retry().apply(a_failure(), meter)
    attempt = Escalate(strong).apply(a_failure(), meter)
    assert attempt.rollout.text == "a lo"
    assert meter.spent.tokens == meter.budget.max_tokens
    assert list(meter.calls) == ["p/call0", "p/call1"]
    with pytest.raises(BudgetExhausted, match="21 of 21 tokens are spent"):
        Escalate(strong).apply(a_failure(), meter)
    assert len(strong.calls) == 1


def test_steering_and_scoring_beside_a_model_are_charged_too(scripted: Any) -> None:
    meter = MeteredModel(scripted(), Budget(), "p", {})
    beside = meter.beside(scripted(["abc"]), "tutor")
    assert beside.name == "scripted"
    session = beside.open(PROMPT)
    session.append(int(session.distributions()[0].ids[0, 0]))
    beside.score(PROMPT, [[1, 2]], role="ancestor")
    assert [call["purpose"] for call in meter.calls.values()] == ["tutor", "tutor"]
    assert meter.spent.tokens == beside.spent.tokens == 2 * len(PROMPT) + 2 + len(PROMPT) + 2


def test_without_a_budget_the_other_model_is_asked_as_it_is(scripted: Any) -> None:
    strong = black_box(scripted, "right", name="strong")
    attempt = Escalate(strong).apply(a_failure(), black_box(scripted))
    assert attempt.rollout.text == "right"


def test_escalation_needs_nothing_of_the_first_model(scripted: Any, pair: Any) -> None:
    model = scripted(["no", "no"], capabilities=[Capability.SAMPLE])
    result = outcome(model, InTurn("escalate"), interventions=[Escalate("embedded")])
    assert result["stop_reason"] == "model_error"  # the pair reads nothing but sums
    assert "embedded pair cannot read 'w'" in result["error"]
    assert Escalate(pair).needs == frozenset()


def test_another_model_that_fails_is_charged_with_what_it_spent(
    scripted: Any, store: TraceStore
) -> None:
    strong = black_box(scripted, ModelError("too busy", usage=Usage(5, 2)), name="strong")
    result = outcome(
        black_box(scripted), InTurn("escalate"), interventions=[Escalate(strong)], store=store
    )
    assert (result["stop_reason"], result["error"]) == ("model_error", "ModelError: too busy")
    (call,) = store.query("SELECT * FROM calls WHERE purpose = 'escalate'")
    assert (call["prompt_tokens"], call["completion_tokens"]) == (5, 2)


def test_another_model_may_wait_for_an_answer(scripted: Any) -> None:
    strong = black_box(scripted, "right", name="strong")
    sample = strong.sample

    def when_allowed(*args: Any, **how: Any) -> Generation:
        assert interrupt("may I?") == "yes"
        generation: Generation = sample(*args, **how)
        return generation

    strong.sample = when_allowed
    graph = create_recovery_graph(
        black_box(scripted),
        "exact",
        router=InTurn("escalate"),
        interventions=[Escalate(strong)],
        checkpointer=InMemorySaver(),
        seed=0,
    )
    thread: Any = {"configurable": {"thread_id": "t"}}
    paused = graph.invoke(QUESTION, thread)
    assert [one.value for one in paused["__interrupt__"]] == ["may I?"]
    assert strong.calls == []
    assert graph.invoke(Command(resume="yes"), thread)["solved"]


# All of them together


@settings(max_examples=examples(60), deadline=None)
@given(
    attempts=st.integers(1, 10),
    tokens=st.integers(1, 600),
    operators=st.sets(st.sampled_from([*ON_PROMPTS, "escalate"]), min_size=1),
    texts=st.tuples(st.text("ab", max_size=40), st.text("ab", max_size=40)),
    price=st.floats(0.01, 100),
)
def test_no_budget_is_ever_exceeded(
    scripted: Any,
    attempts: int,
    tokens: int,
    operators: set[str],
    texts: tuple[str, str],
    price: float,
) -> None:
    strong = black_box(scripted, last=texts[1], name="strong")
    others = sorted(operators - {"escalate"})
    chosen = [*others, Escalate(strong, price=price)] if "escalate" in operators else others
    with TraceStore(":memory:") as store:
        result = outcome(
            black_box(scripted, last=texts[0]),
            NEVER_STOP,
            interventions=chosen,
            budget=Budget(max_attempts=attempts, max_tokens=tokens),
            store=store,
            max_new_tokens=20,
        )
        calls = store.query("SELECT * FROM calls")
    spent = sum(call["prompt_tokens"] + call["completion_tokens"] for call in calls)
    assert result["usage"]["tokens"] == spent <= tokens
    assert len(result["attempts"]) <= attempts
    assert not result["solved"]
    tried = [one["operator"] for one in result["attempts"]]
    escalated = [call for call in calls if call["purpose"] == "escalate"]
    assert len(escalated) == len(strong.calls) == tried.count("escalate")


@settings(max_examples=20, deadline=None)
@given(st.permutations([*ON_PROMPTS, "escalate"]))
def test_failed_text_is_in_no_prompt(scripted: Any, order: list[str]) -> None:
    marker = "MARKED"
    model, strong = black_box(scripted, last=marker), black_box(scripted, last=marker)
    result = outcome(
        model, InTurn(*order), interventions=[*ON_PROMPTS, Escalate(strong)], max_new_tokens=6
    )
    assert [one["operator"] for one in result["attempts"][2:]] == order
    assert all(one["text"] == marker for one in result["attempts"])
    calls = [*model.calls, *strong.calls]
    assert len(calls) == 1 + len(order)
    for call in calls:
        assert marker not in call.arguments["prompt"]
        assert call.arguments["prompt"].startswith(PROMPT)
        assert call.arguments["prefix"] == []


def test_attempts_can_be_repeated(scripted: Any) -> None:
    def seeds() -> list[int]:
        model = black_box(scripted, last="a long story")
        outcome(model, InTurn(*ON_PROMPTS))
        return [call.arguments["seed"] for call in model.calls]

    assert seeds() == seeds()
    assert len(set(seeds())) == len(seeds())


# Wrong input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TempLift(0), "temperature is 0; it must be a number from 0.001 to 1e+06"),
        (lambda: TempLift("hot"), "temperature is 'hot'; it must be a number from"),
        (lambda: Replan(""), "instruction is ''; it must be text that asks for another approach"),
        (lambda: Replan(" \n"), "instruction is ' \\n'; it must be text"),
        (lambda: Replan(None), "instruction is None; it must be text"),
        (lambda: Extend(1), "factor is 1; it must be a number above 1 and at most 100"),
        (lambda: Extend(float("inf")), "factor is inf; it must be a number above 1"),
        (lambda: Extend(True), "factor is True; it must be a number above 1"),
        (lambda: Extend("2"), "factor is '2'; it must be a number above 1"),
        (lambda: Escalate("nobody"), "model is 'nobody'; it must be 'embedded'"),
        (lambda: Escalate(None), "model is None; it must be"),
        (lambda: Escalate("embedded", price=0), "price is 0; it must be a number above 0"),
        (lambda: Escalate("embedded", price=float("nan")), "price is nan; it must be a number"),
        (lambda: Escalate("embedded", temperature=-1), "temperature is -1; it must be a number"),
        (lambda: resolve(["escalate"]), "no intervention is named 'escalate'; known are retry, "),
        (lambda: resolve(["escalate"]), "give Escalate(model), which says whom to ask"),
    ],
)
def test_wrong_input_is_named_with_what_is_legal(make: Any, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        make()
    assert message in str(caught.value)
