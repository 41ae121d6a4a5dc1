"""The budget: what it accepts, and that nothing the graph does can spend past it."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recov_graph.budget import Budget, BudgetExhausted, MeteredModel
from recov_graph.context import RecoveryContext
from recov_graph.errors import InvalidInputError
from recov_graph.graph import create_recovery_graph
from recov_graph.models import Capability
from recov_graph.models.embedded import EmbeddedPair, bundled_problems
from recov_graph.rollout import Usage
from recov_graph.routing import default_policy
from recov_graph.store import TraceStore
from tests.searching import examples

PROBLEM = {"prompt": "what?", "answer": "right", "id": "p"}
NEVER_STOP = default_policy().model_copy(update={"stop_below": 0.0})
LIMITS = {"max_attempts": st.integers(1, 10), "max_tokens": st.integers(1, 600)}


def sampled(model: MeteredModel, max_tokens: int = 100, n: int = 1) -> list[str]:
    generation = model.sample("what?", n=n, temperature=0.6, max_tokens=max_tokens, seed=0)
    return [rollout.text for rollout in generation.rollouts]


def metered(model: Any, **limits: Any) -> MeteredModel:
    return MeteredModel(model, Budget(**limits), "p", {})


# Limits


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_attempts": 0}, "max_attempts is 0; it must be a whole number above 0"),
        ({"max_attempts": None}, "max_attempts is None; it must be a whole number above 0"),
        ({"max_attempts": 2.5}, "max_attempts is 2.5; it must be a whole number above 0"),
        ({"max_attempts": True}, "max_attempts is True; it must be a whole number above 0"),
        ({"max_tokens": -3}, "max_tokens is -3; it must be a whole number above 0"),
        ({"max_tokens": "9"}, "max_tokens is '9'; it must be a whole number above 0"),
        ({"max_tokens": float("inf")}, "max_tokens is inf; it must be a whole number above 0"),
        ({"max_seconds": 0}, "max_seconds is 0; it must be a number above 0"),
        ({"max_seconds": float("nan")}, "max_seconds is nan; it must be a number above 0"),
    ],
)
def test_a_wrong_limit_is_named_with_what_is_legal(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Budget(**limits)
    assert str(caught.value) == message


def test_a_wrong_limit_is_not_repeated_at_length() -> None:
    with pytest.raises(InvalidInputError) as caught:
        Budget(max_tokens=[1] * 10_000)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("claimed", [Usage(-500, -500, -500), Usage(5, -(10**30), 0)])
def test_a_model_that_claims_to_give_tokens_back_gives_none(scripted: Any, claimed: Usage) -> None:
    model = scripted(last="abc")
    meter = metered(model, max_tokens=30)
    meter.sample("xy", temperature=1.0, max_tokens=4, seed=0)
    spent = meter.spent.tokens
    honest = model.sample
    model.sample = lambda *given, **how: honest(*given, **how)._replace(usage=claimed)
    meter.sample("xy", temperature=1.0, max_tokens=4, seed=0)
    assert meter.spent.tokens == spent + max(0, claimed.prompt_tokens)
    assert all(tokens(call) >= 0 for call in meter.calls.values())


def test_limits_that_are_not_given_do_not_limit() -> None:
    spent = Usage(10**9, 10**9, 10**9, 10.0**9)
    assert Budget().reached(spent) is None
    assert Budget().tokens_left(spent) == float("inf")


def test_tokens_of_every_kind_count() -> None:
    budget = Budget(max_tokens=60)
    assert budget.tokens_left(Usage(10, 20, 29)) == 1
    assert budget.reached(Usage(10, 20, 29)) is None
    assert budget.reached(Usage(10, 20, 30)) == "60 of 60 tokens are spent"


# The meter


def test_a_call_is_cut_to_the_tokens_left(scripted: Any) -> None:
    inner = scripted(last="a long answer")
    model = metered(inner, max_tokens=12)
    assert sampled(model) == ["a long "]  # 5 were read
    assert inner.calls[0].arguments["max_tokens"] == 7
    assert model.spent.tokens == 12


def test_rollouts_of_one_call_share_the_tokens_left(scripted: Any) -> None:
    inner = scripted(last="a long answer")
    model = metered(inner, max_tokens=5 + 3 * 4 + 2)
    assert sampled(model, n=3) == ["a lo"] * 3
    assert model.spent.tokens == 5 + 3 * 4


def test_no_limit_on_tokens_leaves_the_call_as_it_is(scripted: Any) -> None:
    inner = scripted(last="a long answer")
    sampled(metered(inner), max_tokens=77)
    assert inner.calls[0].arguments["max_tokens"] == 77


def test_no_call_is_made_once_the_tokens_are_spent(scripted: Any) -> None:
    inner = scripted(last="a long answer")
    model = metered(inner, max_tokens=12)
    sampled(model)
    spent = model.spent
    for call in (
        lambda: sampled(model),
        lambda: model.score("what?", [[1, 2]], role="ancestor"),
        lambda: model.open("what?"),
    ):
        with pytest.raises(BudgetExhausted, match="12 of 12 tokens are spent"):
            call()
    assert len(inner.calls) == 1
    assert model.spent == spent


def test_no_call_is_begun_that_the_tokens_left_cannot_cover(scripted: Any) -> None:
    inner = scripted(last="x")
    with pytest.raises(BudgetExhausted, match="5 tokens are left and the next call needs 6"):
        sampled(metered(inner, max_tokens=5))
    with pytest.raises(BudgetExhausted, match="13 tokens are left and the next call needs 14"):
        metered(inner, max_tokens=13).score("what?", [[1, 2], [3, 4]], role="ancestor")
    with pytest.raises(BudgetExhausted, match="11 tokens are left and the next call needs 12"):
        metered(inner, max_tokens=11).open("what?")
    assert inner.calls == []


def test_a_steered_rollout_ends_where_the_budget_does(scripted: Any) -> None:
    model = metered(scripted(["a long answer"]), max_tokens=10 + 2 * 3 + 1)
    session = model.open("what?")
    written = 0
    while session.finished is None:
        session.append(int(session.distributions()[0].ids[0, 0]))
        written += 1
    assert (session.finished, written) == ("length", 3)
    assert model.spent.tokens == 10 + 2 * 3
    assert len(model.calls) == 1


def test_a_model_that_ignores_its_limit_costs_one_call_and_no_second(scripted: Any) -> None:
    inner = scripted(last="a long answer", obedient=False)
    model = metered(inner, max_tokens=12)
    assert sampled(model) == ["a long answer"]
    assert model.spent.tokens == 5 + 14
    with pytest.raises(BudgetExhausted):
        sampled(model)
    assert len(inner.calls) == 1


def test_no_call_is_made_once_the_time_is_spent(scripted: Any) -> None:
    inner = scripted(last="x", seconds=0.03)
    model = metered(inner, max_seconds=0.02)
    sampled(model)
    with pytest.raises(BudgetExhausted, match=r"of 0\.02 seconds are spent"):
        sampled(model)
    assert len(inner.calls) == 1


def test_a_steered_rollout_ends_when_the_time_is_spent(scripted: Any) -> None:
    model = metered(scripted(["a long answer"], seconds=0.03), max_seconds=0.02)
    session = model.open("what?")
    assert session.finished == "length"


def test_what_was_spent_before_counts(scripted: Any) -> None:
    first = metered(scripted(last="abc"))
    sampled(first)
    again = MeteredModel(scripted(last="abc"), Budget(max_tokens=9), "p", first.calls)
    assert again.spent.tokens == 9
    with pytest.raises(BudgetExhausted):
        sampled(again)


def test_calls_have_ids_of_their_own_and_the_same_when_made_again(scripted: Any) -> None:
    def two_calls() -> list[str]:
        model = metered(scripted(last="abc"))
        sampled(model)
        model.open("what?")
        return list(model.calls)

    assert two_calls() == two_calls() == ["p/call0", "p/call1"]


def test_a_call_that_failed_is_not_entered(scripted: Any) -> None:
    model = metered(scripted([ConnectionError("gone")]), max_tokens=100)
    with pytest.raises(ConnectionError):
        sampled(model)
    assert model.calls == {}
    assert model.spent == Usage()


# The graph


def ledger(store: TraceStore, output: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls of the problem that ended last, checked against what the output says."""
    (last,) = store.query("SELECT id FROM outcomes ORDER BY rowid DESC LIMIT 1")
    calls = store.query("SELECT * FROM calls WHERE problem_id = ? ORDER BY rowid", [last["id"]])
    kinds = ("prompt_tokens", "completion_tokens", "scored_tokens")
    for kind in kinds:
        assert output["usage"][kind] == sum(call[kind] for call in calls)
    assert output["usage"]["tokens"] == sum(call[kind] for call in calls for kind in kinds)
    assert output["usage"]["seconds"] == pytest.approx(sum(call["seconds"] for call in calls))
    assert output["usage"]["attempts"] == len(output["attempts"])
    return calls


def tokens(call: dict[str, Any]) -> int:
    return int(call["prompt_tokens"] + call["completion_tokens"] + call["scored_tokens"])


def within(output: dict[str, Any], calls: list[dict[str, Any]], limits: dict[str, int]) -> None:
    assert len(output["attempts"]) <= limits["max_attempts"]
    assert sum(map(tokens, calls)) <= limits["max_tokens"]
    if output["stop_reason"] == "budget_exhausted":
        assert not output["solved"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(limits=st.fixed_dictionaries(LIMITS), number=st.integers(0, 299), seed=st.integers(0, 9))
def test_no_budget_is_ever_exceeded(
    pair: EmbeddedPair, limits: dict[str, int], number: int, seed: int
) -> None:
    with TraceStore(":memory:") as store:
        graph = create_recovery_graph(
            pair, "numeric", budget=Budget(**limits), store=store, router=NEVER_STOP, seed=seed
        )
        output = graph.invoke({"problem": bundled_problems()[number].model_dump()})
        within(output, ledger(store, output), limits)


@settings(max_examples=examples(40), deadline=None)
@given(
    limits=st.fixed_dictionaries(LIMITS),
    operators=st.sets(
        st.sampled_from(
            ["retry", "sparse_steer", "sparse_steer_random", "local_temp", "dense_steer"]
        ),
        min_size=1,
    ),
    text=st.text("ab", max_size=40),
    samples=st.integers(1, 6),
)
def test_no_intervention_exceeds_a_budget(
    scripted: Any, limits: dict[str, int], operators: set[str], text: str, samples: int
) -> None:
    with TraceStore(":memory:") as store:
        graph = create_recovery_graph(
            scripted(last=text),
            "exact",
            budget=Budget(**limits),
            store=store,
            router=NEVER_STOP,
            interventions=sorted(operators),
            samples=samples,
            max_new_tokens=50,
            seed=0,
        )
        output = graph.invoke({"problem": PROBLEM})
        within(output, ledger(store, output), limits)
        assert output["stop_reason"] == "budget_exhausted"


@settings(max_examples=30, deadline=None)
@given(limits=st.fixed_dictionaries(LIMITS), text=st.text("ab", min_size=1, max_size=80))
def test_a_disobedient_model_exceeds_a_budget_by_its_last_call_only(
    scripted: Any, limits: dict[str, int], text: str
) -> None:
    with TraceStore(":memory:") as store:
        graph = create_recovery_graph(
            scripted(last=text, obedient=False),
            "exact",
            budget=Budget(**limits),
            store=store,
            router=NEVER_STOP,
            seed=0,
        )
        output = graph.invoke({"problem": PROBLEM})
        calls = ledger(store, output)
        assert len(output["attempts"]) <= limits["max_attempts"]
        assert sum(map(tokens, calls[:-1])) < limits["max_tokens"]


@pytest.mark.parametrize("limits", [{"max_attempts": 2}, {"max_tokens": 30}])
def test_an_invocation_may_change_the_limits(
    pair: EmbeddedPair, store: TraceStore, limits: dict[str, int]
) -> None:
    graph = create_recovery_graph(pair, "exact", store=store, router=NEVER_STOP, seed=0)
    problem = {"problem": {"prompt": "12*3?", "answer": "never"}}
    output = graph.invoke(problem, context=RecoveryContext(**limits))
    within(output, ledger(store, output), {"max_attempts": 12, "max_tokens": 10**9, **limits})
    assert output["stop_reason"] == "budget_exhausted"
    assert len(graph.invoke(problem)["attempts"]) == 12


def test_time_that_runs_out_ends_the_problem(scripted: Any, store: TraceStore) -> None:
    graph = create_recovery_graph(
        scripted(last="wrong", capabilities=[Capability.SAMPLE], seconds=0.03),
        "exact",
        budget=Budget(max_attempts=1000, max_seconds=0.1),
        store=store,
        router=NEVER_STOP,
        seed=0,
    )
    output = graph.invoke({"problem": PROBLEM})
    calls = ledger(store, output)
    assert output["stop_reason"] == "budget_exhausted"
    assert sum(call["seconds"] for call in calls[:-1]) < 0.1 <= output["usage"]["seconds"]
    assert output["best"]["text"] == "wrong"  # what there is, is given back


def test_a_budget_too_small_for_one_call_makes_none(scripted: Any, store: TraceStore) -> None:
    model = scripted(last="wrong")
    graph = create_recovery_graph(model, "exact", budget=Budget(max_tokens=3), store=store)
    output = graph.invoke({"problem": PROBLEM})
    assert output["stop_reason"] == "budget_exhausted"
    assert (output["attempts"], output["best"], model.calls) == ([], None, [])


def test_a_solved_problem_costs_nothing_more(scripted: Any, store: TraceStore) -> None:
    model = scripted(["wrong", "right", "wrong", "wrong"])
    output = create_recovery_graph(model, "exact", store=store).invoke({"problem": PROBLEM})
    assert output["solved"]
    assert [call.method for call in model.calls] == ["sample"]
    assert len(ledger(store, output)) == 1


def test_what_attempts_and_scoring_cost_adds_up(scripted: Any, store: TraceStore) -> None:
    model = scripted(["a", "bb", "ccc", "dd"], last="wrong")
    output = create_recovery_graph(model, "exact", store=store, seed=0).invoke({"problem": PROBLEM})
    scoring = sum(tokens(call) for call in ledger(store, output) if call["purpose"] == "score")
    assert sum(a["spent"] for a in output["attempts"]) + scoring == output["usage"]["tokens"]


def test_nothing_is_measured_that_no_attempt_can_use(scripted: Any) -> None:
    model = scripted(repeat("wrong", 4))
    graph = create_recovery_graph(model, "exact", budget=Budget(max_attempts=4))
    assert graph.invoke({"problem": PROBLEM})["stop_reason"] == "budget_exhausted"
    assert [call.method for call in model.calls] == ["sample"]
