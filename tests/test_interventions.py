"""The interventions on tokens, on the real pair; the mixture they steer with; the registry."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recov_graph.errors import InvalidInputError
from recov_graph.graph import create_recovery_graph
from recov_graph.interventions import (
    Attempt,
    DenseSteer,
    Failure,
    Lengths,
    LocalTemp,
    Retry,
    SparseSteer,
    SparseSteerRandom,
    register,
    registered,
    resolve,
    unregister,
)
from recov_graph.interventions.mixing import Draw, likeliest, mix, mode_at, row
from recov_graph.models import Capability
from recov_graph.problem import Problem
from recov_graph.rollout import Rollout, TopK
from recov_graph.trace import measure
from tests.searching import examples

PROMPT = "(530-141)*43?"


@pytest.fixture(scope="module")
def failure(pair):
    """Four rollouts, measured as if they had failed."""
    rollouts = pair.sample(PROMPT, n=4, temperature=0.6, seed=0).rollouts
    ancestor = pair.score(PROMPT, [r.token_ids for r in rollouts], role="ancestor").topk
    traces = [
        measure(Rollout(r.text, r.token_ids, r.finish_reason, r.specialist, topk), 0.6)
        for r, topk in zip(rollouts, ancestor, strict=True)
    ]
    return Failure(Problem(prompt=PROMPT, answer=16727), 0.6, 160, seed=3, traces=traces)


def again(failure, **changes):
    fields = {name: getattr(failure, name) for name in Failure.__slots__}
    return Failure(**{**fields, **changes})


ALL = [
    Retry(),
    SparseSteer(),
    SparseSteer(anchor="online"),
    SparseSteer(continuation="greedy"),
    SparseSteerRandom(),
    SparseSteerRandom(anchor="online"),
    LocalTemp(),
    LocalTemp(anchor="online", window=3),
    DenseSteer(),
    DenseSteer(mode="cov"),
]


def named(intervention):
    """The same in each process, which the order of a set is not."""
    told = {**vars(intervention), "needs": None}
    return f"{intervention.name}-{ {name: value for name, value in told.items() if value} }"


@pytest.mark.parametrize("intervention", ALL, ids=named)
def test_every_intervention_runs_and_is_repeatable(intervention, failure, pair):
    first = intervention.apply(failure, pair)
    second = intervention.apply(failure, pair)
    assert isinstance(first, Attempt)
    assert 0 < len(first.rollout) <= failure.max_tokens
    assert first.rollout.text == pair.decode(first.rollout.token_ids)
    assert first.rollout.text == second.rollout.text
    assert intervention.needs <= pair.capabilities
    if first.rollout.finish_reason == "stop":
        assert first.rollout.token_ids[-1] == pair.end_token


@pytest.mark.parametrize("intervention", ALL, ids=named)
def test_attempts_of_other_seeds_differ(intervention, failure, pair):
    texts = {intervention.apply(again(failure, seed=seed), pair).rollout.text for seed in range(12)}
    greedy = getattr(intervention, "continuation", None) == "greedy"
    assert len(texts) == 1 if greedy else len(texts) > 1


@pytest.mark.parametrize("intervention", ALL, ids=named)
def test_no_completion_is_longer_than_allowed(intervention, failure, pair):
    attempt = intervention.apply(again(failure, max_tokens=6), pair)
    # A trusted prefix is kept whole, however long.
    longest_prefix = max(len(trace.rollout) for trace in failure.traces)
    replayed = getattr(intervention, "anchor", None) == "replay"
    assert len(attempt.rollout) <= (longest_prefix if replayed else 6)


@pytest.mark.parametrize("intervention", [SparseSteer(), LocalTemp()], ids=lambda i: i.name)
def test_replay_keeps_the_prefix_of_the_trace_in_focus(intervention, failure, pair):
    for focus, trace in enumerate(failure.traces):
        attempt = intervention.apply(again(failure, focus=focus), pair)
        junction = trace.features.junction
        assert attempt.details["position"] == junction
        assert np.array_equal(
            attempt.rollout.token_ids[:junction], trace.rollout.token_ids[:junction]
        )


def test_sparse_steering_takes_the_argmax_of_the_mixture_at_the_junction(failure, pair):
    rollout, signals, features = failure.trace
    at = features.junction
    l_s = dict(zip(rollout.specialist.ids[at], rollout.specialist.logprobs[at], strict=True))
    l_a = dict(zip(rollout.ancestor.ids[at], rollout.ancestor.logprobs[at], strict=True))
    both = set(l_s) & set(l_a) - {-1}
    if max(0, signals.delta_path[at]) >= max(0, signals.g_cov[at]):
        expected = max(both, key=lambda y: 0.7 * l_s[y] + 0.3 * l_a[y])
    else:
        expected = max(both, key=lambda y: 0.7 * np.exp(l_s[y]) + 0.3 * np.exp(l_a[y]))
    attempt = SparseSteer().apply(failure, pair)
    assert attempt.rollout.token_ids[at] == expected
    assert attempt.details["changed"] == (expected != rollout.token_ids[at])


def test_the_random_control_visits_many_positions(failure, pair):
    control = SparseSteerRandom()
    positions = {control.position(again(failure, seed=seed)) for seed in range(200)}
    assert positions == set(range(len(failure.trace.rollout)))


def test_online_steering_waits_for_the_warm_up(failure, pair):
    fired = [
        SparseSteer(anchor="online").apply(again(failure, seed=seed), pair).details["position"]
        for seed in range(10)
    ]
    assert all(position is None or position >= 20 for position in fired)


@pytest.mark.slow
def test_local_temperature_loosens_the_junction(failure, pair):
    at = failure.trace.features.junction

    def tokens_at_junction(temperature):
        local = LocalTemp(temperature=temperature)
        return [
            int(local.apply(again(failure, seed=seed), pair).rollout.token_ids[at])
            for seed in range(60)
        ]

    cold, hot = tokens_at_junction(0.01), tokens_at_junction(8.0)
    assert len(set(cold)) == 1
    assert len(set(hot)) > 5


@pytest.mark.slow
def test_dense_steering_samples_the_mixture(failure, pair):
    """The first token's frequencies are those of the mixed distribution at T."""
    session = pair.open(PROMPT)
    mixed = mix(*session.distributions())
    weights = np.exp(mixed.logprobs[0] / 0.6)
    expected = dict(zip(mixed.ids[0].tolist(), weights / weights.sum(), strict=True))
    drawn = [
        int(DenseSteer().apply(again(failure, seed=s, max_tokens=1), pair).rollout.token_ids[0])
        for s in range(400)
    ]
    for token, probability in expected.items():
        # Five standard deviations of a binomial: about one false alarm in a million runs.
        margin = 5 * (probability * (1 - probability) / 400) ** 0.5 + 1e-9
        assert abs(drawn.count(token) / 400 - probability) <= margin


def test_a_failure_without_traces_says_what_is_missing(pair):
    bare = Failure(Problem(prompt=PROMPT), 0.6, 160, seed=0)
    assert Retry().apply(bare, pair).rollout.text
    assert DenseSteer().apply(bare, pair).rollout.text
    for intervention in (SparseSteer(), LocalTemp(), SparseSteer(anchor="online")):
        with pytest.raises(InvalidInputError, match="no measured trace"):
            intervention.apply(bare, pair)


def test_expected_costs_are_near_what_is_spent(failure, pair):
    from recov_graph.budget import Budget, MeteredModel

    lengths = Lengths(pair.prompt_length(PROMPT), sum(len(t.rollout) for t in failure.traces) // 4)
    for intervention in registered().values():
        if intervention.name in ("retry", "sparse_steer", "local_temp", "dense_steer"):
            meter = MeteredModel(pair, Budget(), "p", {})
            attempt = intervention.apply(failure, meter)
            actual = Lengths(lengths.prompt, len(attempt.rollout))
            assert meter.spent.tokens <= 1.5 * intervention.expected_cost(actual) + 1
            assert meter.spent.tokens >= 0.5 * intervention.expected_cost(actual)


@pytest.mark.parametrize(
    ("make", "fragment"),
    [
        (lambda: SparseSteer(anchor="sideways"), "'sideways'"),
        (lambda: SparseSteer(alpha=1.0), "alpha is 1.0"),
        (lambda: SparseSteer(continuation="random"), "'random'"),
        (lambda: LocalTemp(temperature=0), "temperature is 0"),
        (lambda: LocalTemp(window=0), "window is 0"),
        (lambda: DenseSteer(mode="sum"), "'sum'"),
        (lambda: DenseSteer(alpha=float("nan")), "alpha is nan"),
    ],
)
def test_bad_settings_are_refused_by_value(make, fragment):
    with pytest.raises(InvalidInputError, match=fragment):
        make()


def test_users_extend_the_registry():
    class Shout:
        name = "shout"
        needs = frozenset({Capability.SAMPLE})

        def expected_cost(self, lengths):
            return lengths.prompt + lengths.completion

        def apply(self, failure, model):
            return Retry().apply(failure, model)

    shout = register(Shout())
    try:
        assert resolve(["shout", "retry"]) == {"shout": shout, "retry": registered()["retry"]}
        with pytest.raises(InvalidInputError, match="'shout' exists"):
            register(Shout())
    finally:
        unregister("shout")
    assert "shout" not in registered()
    with pytest.raises(InvalidInputError, match="no intervention is named 'shout'"):
        unregister("shout")
    with pytest.raises(InvalidInputError, match="lacks needs, expected_cost, apply"):
        register(type("Half", (), {"name": "half"})())
    with pytest.raises(InvalidInputError, match="no intervention is named 'shoot'"):
        resolve(["shoot"])
    with pytest.raises(InvalidInputError, match="no intervention was chosen"):
        resolve([])


logprob_rows = st.lists(
    st.tuples(st.integers(0, 12), st.floats(-30, 0)),
    min_size=1,
    max_size=8,
    unique_by=lambda p: p[0],
)


def as_row(pairs):
    ids, logprobs = zip(*pairs, strict=True)
    return TopK(np.array([ids]), np.array([logprobs]))


@settings(max_examples=examples(150), deadline=None)
@given(logprob_rows, logprob_rows, st.floats(0.05, 0.95), st.sampled_from(["path", "cov"]))
def test_a_mixture_is_a_distribution_over_the_union(s, a, alpha, mode):
    mixed = mix(as_row(s), as_row(a), alpha=alpha, mode=mode)
    assert set(mixed.ids[0]) == {y for y, _ in s} | {y for y, _ in a}
    assert np.isfinite(mixed.logprobs).all()
    assert np.exp(mixed.logprobs).sum() == pytest.approx(1)
    assert likeliest(mixed) in mixed.ids
    assert Draw(np.random.default_rng(0))(mixed, 0.6) in mixed.ids


@settings(max_examples=examples(50), deadline=None)
@given(logprob_rows, st.sampled_from(["path", "cov"]))
def test_mixing_a_distribution_with_itself_changes_nothing(pairs, mode):
    topk = as_row(pairs)
    mixed = mix(topk, topk, mode=mode)
    order = np.argsort(topk.ids[0])
    expected = topk.logprobs[0] - np.logaddexp.reduce(topk.logprobs[0])
    assert mixed.logprobs[0] == pytest.approx(expected[order], abs=1e-9)


def test_padding_takes_no_part_in_a_mixture():
    padded = TopK(np.array([[4, -1, 2]]), np.array([[-0.5, -np.inf, -1.0]]))
    mixed = mix(padded, padded)
    assert mixed.ids.tolist() == [[2, 4]]
    assert likeliest(mixed) == 4


def test_the_dominant_deformation_picks_the_mode(failure):
    for trace in failure.traces:
        for at in range(len(trace.rollout)):
            path, coverage = trace.signals.delta_path[at], trace.signals.g_cov[at]
            expected = "path" if max(0, path) >= max(0, coverage) else "cov"
            assert mode_at(trace.signals, at) == expected
    assert row(failure.trace.rollout.specialist, 0).ids.shape[0] == 1


class Odd:
    """An intervention with one mistake."""

    name = "odd"
    needs = frozenset({Capability.SAMPLE})
    cost: object = 5
    gives: object = None

    def expected_cost(self, lengths):
        return self.cost

    def apply(self, failure, model):
        return self.gives


def odd(**mistakes):
    one = Odd()
    for name, value in mistakes.items():
        setattr(one, name, value)
    return one


@pytest.mark.parametrize(
    ("interventions", "message"),
    [
        ("retry", r"interventions is 'retry'; it must be a list"),
        (5, r"interventions is 5; it must be a list"),
        (["retyr"], r"'retyr'.*did you mean 'retry'\?"),
        (["restart"], r"give recov_graph.agents.Restart\(\)"),
        ([Odd], r"Odd is a class; give an object of it: Odd\(...\)"),
        ([odd(needs="sample")], r"needs 'sample'; needs must be a frozenset of Capability.SAMPLE"),
        ([odd(name="")], r"name is ''; it must be text"),
    ],
)
def test_mistakes_in_interventions_are_named_when_a_graph_is_built(interventions, message):
    with pytest.raises(InvalidInputError, match=message):
        create_recovery_graph("embedded", "numeric", interventions=interventions)


@pytest.mark.parametrize("gives", [None, "text", 5])
def test_one_that_gives_back_something_else_ends_the_problem_with_what_was_paid(scripted, gives):
    model = scripted(["1", "2", "3", "4"])
    graph = create_recovery_graph(model, "numeric", interventions=[odd(gives=gives)])
    result = graph.invoke({"problem": {"prompt": "6*7?", "answer": 42}})
    assert result["stop_reason"] == "model_error"
    assert f"intervention 'odd' gave back {gives!r}; apply must" in result["error"]
    assert len(result["attempts"]) == 4


@pytest.mark.parametrize("cost", ["12", None, -1, True, math.inf])
def test_a_cost_that_is_none_is_named(scripted, cost):
    model = scripted(["1", "2", "3", "4"])
    graph = create_recovery_graph(model, "numeric", interventions=[odd(cost=cost)])
    with pytest.raises(InvalidInputError, match=r"expected_cost of intervention 'odd' is"):
        graph.invoke({"problem": {"prompt": "6*7?", "answer": 42}})
