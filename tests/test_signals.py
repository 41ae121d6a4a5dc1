"""Token signals, against stored golden values and a second, per-token implementation."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recov_graph import signals as signals_module
from recov_graph.errors import InvalidInputError
from recov_graph.features import trace_features
from recov_graph.rollout import TopK
from recov_graph.signals import TokenSignals, fastest, numpy_list_sums, token_signals
from tests.searching import examples

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "features.json"
needs_golden = pytest.mark.skipif(not GOLDEN.is_file(), reason=f"{GOLDEN} is not here")
needs_compiled = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None,
    reason="numba is not installed: pip install 'recov-graph[fast]'",
)
QUICK = settings(deadline=None, max_examples=examples(60))

TEMPERATURES = st.floats(0.05, 5.0)
LOGPROBS = st.one_of(
    st.floats(-30.0, 0.0),
    st.integers(-60, 0).map(lambda tenths: tenths / 10),  # these tie often
)
EXTREME = st.sampled_from(
    [0.0, -0.0, 1e-6, -5e-324, -1e-300, -1e-8, -87.0, -700.0, -745.2, -1000.0, -1e4, -3.4e38]
)


def golden_rollouts() -> list[Any]:
    if not GOLDEN.is_file():
        return []
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return [
        pytest.param(case, id=case["name"])
        for case in (*golden["cases"], *golden["problem"]["rollouts"])
    ]


def padded(rows: list[list[tuple[int, float]]], dtype: Any = np.float64) -> TopK:
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), -1, np.int64)
    logprobs = np.full((len(rows), width), -np.inf, dtype)
    for place, row in enumerate(rows):
        for column, (token, logprob) in enumerate(row):
            ids[place, column], logprobs[place, column] = token, logprob
    return TopK(ids, logprobs)


class Input(NamedTuple):
    taken: Any
    specialist: TopK
    ancestor: TopK
    temperature: float
    k_cov: int


@st.composite
def top_k(
    draw: st.DrawFn, length: int, logprobs: st.SearchStrategy[float], dtype: Any, most: int
) -> TopK:
    """Rows of different lengths, with unused places of every kind anywhere among them."""
    rows = []
    for _ in range(length):
        row = draw(
            st.lists(
                st.tuples(st.integers(0, 14), logprobs),
                min_size=1,
                max_size=most,
                unique_by=lambda pair: pair[0],
            )
        )
        unused = draw(
            st.lists(st.sampled_from([(-1, -math.inf), (-1, -0.5), (20, -math.inf)]), max_size=2)
        )
        # Two places may both hold -1, but a real id only once.
        unused = list(dict.fromkeys(unused))
        rows.append(draw(st.permutations(row + unused)))
    return padded(rows, dtype)


@st.composite
def inputs(
    draw: st.DrawFn, logprobs: st.SearchStrategy[float] = LOGPROBS, most_length: int = 4
) -> Input:
    length = draw(st.integers(1, most_length))
    float_type = draw(st.sampled_from([np.float64, np.float32]))
    int_type = draw(st.sampled_from([np.int64, np.int32]))
    specialist = draw(top_k(length, logprobs, float_type, draw(st.integers(1, 8))))
    ancestor = draw(top_k(length, logprobs, float_type, draw(st.integers(1, 8))))
    taken = draw(st.lists(st.integers(0, 16), min_size=length, max_size=length))
    return Input(
        np.array(taken, int_type),
        TopK(specialist.ids.astype(int_type), specialist.logprobs),
        TopK(ancestor.ids.astype(int_type), ancestor.logprobs),
        draw(TEMPERATURES),
        draw(st.one_of(st.integers(1, 6), st.integers(1, 30))),
    )


def wide(seed: int, length: int, k: int = 24, k_ancestor: int = 19, levels: int = 0) -> Input:
    """A random rollout with lists as long as real ones; `levels` rounds, which makes ties."""
    rng = np.random.default_rng(seed)
    vocabulary = k + k_ancestor

    def one(width: int) -> TopK:
        ids = rng.permuted(np.tile(np.arange(vocabulary), (length, 1)), axis=1)[:, :width]
        logprobs = np.log(rng.dirichlet(np.full(width, 0.4), length) + 1e-12)
        return TopK(ids, np.round(logprobs, levels) if levels else logprobs)

    specialist, ancestor = one(k), one(k_ancestor)
    return Input(rng.integers(0, vocabulary, length), specialist, ancestor, 0.6, 8)


class Reference:
    """One model's tempered distribution at one position, written from method.md."""

    def __init__(self, ids: Any, logprobs: Any, temperature: float) -> None:
        self.listed = {
            int(token): float(logprob)
            for token, logprob in zip(ids, logprobs, strict=True)
            if token >= 0 and logprob > -math.inf
        }
        self.temperature = temperature
        self.top = max(self.listed.values())
        weights = [math.exp((value - self.top) / temperature) for value in self.listed.values()]
        self.log_total = math.log(math.fsum(weights))

    def log_p(self, token: int) -> float:
        value = (self.listed.get(token, -1000.0) - self.top) / self.temperature - self.log_total
        return min(0.0, value)  # no token is likelier than certain, listed or not

    def p(self, token: int) -> float:
        return math.exp(self.log_p(token))

    def likeliest(self, count: int) -> list[int]:
        return sorted(self.listed, key=lambda token: (-self.listed[token], token))[:count]


def reference(given: Input) -> TokenSignals:
    rows = []
    for t, token in enumerate(given.taken):
        s, a = (
            Reference(model.ids[t], model.logprobs[t], given.temperature)
            for model in (given.specialist, given.ancestor)
        )
        covered = a.likeliest(given.k_cov)
        path = s.log_p(int(token)) - a.log_p(int(token))
        coverage = math.log(
            (math.fsum(map(a.p, covered)) + 1e-8) / (math.fsum(map(s.p, covered)) + 1e-8)
        )
        mean = math.fsum(s.p(y) * l_s for y, l_s in s.listed.items())
        rows.append(
            (
                path,
                coverage,
                math.fsum(s.p(y) * (l_s - mean) ** 2 for y, l_s in s.listed.items()),
                -math.fsum(s.p(y) * s.log_p(y) for y in s.listed),
                max(0.0, math.fsum(s.p(y) * (s.log_p(y) - a.log_p(y)) for y in s.listed)),
                max(0.0, path) + max(0.0, coverage),
            )
        )
    return TokenSignals(*np.array(rows).T)


def assert_same(
    actual: TokenSignals, expected: TokenSignals, rtol: float = 1e-8, atol: float = 1e-8
) -> None:
    for name in TokenSignals._fields:
        np.testing.assert_allclose(
            getattr(actual, name), getattr(expected, name), rtol, atol, err_msg=name
        )


def shuffled(model: TopK, seed: int) -> TopK:
    order = np.random.default_rng(seed).permuted(
        np.tile(np.arange(model.ids.shape[1]), (len(model.ids), 1)), axis=1
    )
    return TopK(
        np.take_along_axis(model.ids, order, axis=1),
        np.take_along_axis(model.logprobs, order, axis=1),
    )


# --- values ---


@needs_golden
@pytest.mark.parametrize("case", golden_rollouts())
def test_every_golden_rollout_has_the_stored_signals_and_features(case: dict[str, Any]) -> None:
    steps = case["steps"]
    signals = token_signals(
        [step["token"] for step in steps],
        padded([step["specialist"] for step in steps]),
        padded([step["ancestor"] for step in steps]),
        case["temperature"],
        case["k_cov"],
    )
    assert set(case["expected"]["signals"]) == set(TokenSignals._fields)
    for name, values in case["expected"]["signals"].items():
        np.testing.assert_allclose(getattr(signals, name), values, 1e-6, 1e-6, err_msg=name)
    features = trace_features(signals, case["window"])._asdict()
    assert features == pytest.approx(case["expected"]["features"], rel=1e-6, abs=1e-6)


@given(given_=inputs())
@settings(deadline=None, max_examples=examples(150))
def test_signals_are_those_of_a_plain_loop_over_tokens(given_: Input) -> None:
    assert_same(token_signals(*given_), reference(given_))


@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(2, 30),
    k_ancestor=st.integers(2, 30),
    levels=st.sampled_from([0, 1]),
    temperature=TEMPERATURES,
    k_cov=st.integers(1, 30),
)
@QUICK
def test_signals_of_long_lists_are_those_of_a_plain_loop_over_tokens(
    seed: int, k: int, k_ancestor: int, levels: int, temperature: float, k_cov: int
) -> None:
    given_ = wide(seed, 3, k, k_ancestor, levels)._replace(temperature=temperature, k_cov=k_cov)
    assert_same(token_signals(*given_), reference(given_))


def test_a_token_worked_out_by_hand() -> None:
    half, quarter = math.log(0.5), math.log(0.25)
    signals = token_signals(
        [7],
        padded([[(7, half), (3, quarter), (5, quarter)]]),
        padded([[(3, half), (7, quarter), (5, quarter)]]),
        temperature=1.0,
        k_cov=1,
    )
    assert signals.delta_path[0] == pytest.approx(math.log(2))
    assert signals.g_cov[0] == pytest.approx(math.log(2))
    assert signals.j[0] == pytest.approx(2 * math.log(2))
    assert signals.entropy[0] == pytest.approx(1.5 * math.log(2))
    assert signals.kl[0] == pytest.approx(0.25 * math.log(2))
    assert signals.logit_var[0] == pytest.approx(math.log(2) ** 2 / 4)


def test_a_token_the_ancestor_does_not_list_counts_as_minus_1000() -> None:
    signals = token_signals([9], padded([[(9, 0.0)]]), padded([[(3, 0.0)]]), temperature=0.5)
    assert signals.delta_path[0] == pytest.approx(1000 / 0.5)
    assert signals.kl[0] == pytest.approx(1000 / 0.5)
    assert signals.g_cov[0] == pytest.approx(math.log((1 + 1e-8) / 1e-8))


def test_a_token_the_specialist_does_not_list_counts_as_minus_1000() -> None:
    signals = token_signals([3], padded([[(9, 0.0)]]), padded([[(3, 0.0)]]), temperature=0.5)
    assert signals.delta_path[0] == pytest.approx(-1000 / 0.5)


def test_an_unlisted_token_of_the_coverage_set_adds_its_probability() -> None:
    # At temperature 1 the unlisted token 3 has log-probability -1000 + 995 = -5.
    signals = token_signals([9], padded([[(9, -995.0)]]), padded([[(3, 0.0), (9, -60.0)]]), 1.0, 1)
    assert signals.g_cov[0] == pytest.approx(math.log((1 + 1e-8) / (math.exp(-5) + 1e-8)))


def test_where_the_models_agree_nothing_is_demoted() -> None:
    taken, model, _, temperature, k_cov = wide(1, 20)
    signals = token_signals(taken, model, model, temperature, k_cov)
    assert signals.j.max() < 1e-12
    assert signals.kl.max() < 1e-12


def test_the_defaults_are_temperature_0_6_and_a_coverage_set_of_20() -> None:
    taken, specialist, ancestor, _, _ = wide(2, 30, k=30, k_ancestor=30)
    default = token_signals(taken, specialist, ancestor)
    assert_same(default, token_signals(taken, specialist, ancestor, 0.6, 20), 0, 0)
    assert not np.allclose(default.g_cov, token_signals(taken, specialist, ancestor, 0.6, 19).g_cov)


# --- properties ---


@given(given_=inputs(st.one_of(LOGPROBS, EXTREME)))
@settings(deadline=None, max_examples=examples(150))
def test_signals_are_finite_and_of_the_right_sign_for_any_valid_input(given_: Input) -> None:
    with np.errstate(all="raise", under="ignore"):
        signals = token_signals(*given_)
    for name, values in signals._asdict().items():
        assert values.shape == given_.taken.shape
        assert values.dtype == np.float64
        assert np.isfinite(values).all(), name
    for name in ("kl", "entropy", "logit_var", "j"):
        assert (getattr(signals, name) >= 0).all(), name


@given(given_=inputs(), constant=st.floats(-1000.0, 1000.0))
@QUICK
def test_logit_var_ignores_a_constant_added_to_the_specialist(
    given_: Input, constant: float
) -> None:
    specialist = TopK(given_.specialist.ids, given_.specialist.logprobs.astype(np.float64))
    moved = TopK(specialist.ids, specialist.logprobs + constant)
    expected = token_signals(*given_._replace(specialist=specialist)).logit_var
    actual = token_signals(*given_._replace(specialist=moved)).logit_var
    np.testing.assert_allclose(actual, expected, 1e-7, 1e-9)


@given(given_=inputs(), seed=st.integers(0, 2**32 - 1))
@QUICK
def test_the_order_within_a_list_changes_nothing(given_: Input, seed: int) -> None:
    mixed = given_._replace(
        specialist=shuffled(given_.specialist, seed), ancestor=shuffled(given_.ancestor, seed + 1)
    )
    assert_same(token_signals(*mixed), token_signals(*given_), 1e-9, 1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_within_a_list_changes_nothing_where_the_coverage_boundary_ties(
    seed: int,
) -> None:
    tie = [(token, -2.0) for token in range(10)]
    specialist = padded([[(token, -0.1 * token) for token in range(10)]])
    first = token_signals([0], specialist, padded([tie]), 1.0, 4)
    again = token_signals([0], specialist, shuffled(padded([tie]), seed), 1.0, 4)
    assert_same(again, first, 1e-12, 1e-12)
    assert_same(first, reference(Input([0], specialist, padded([tie]), 1.0, 4)))


@pytest.mark.parametrize("cut", [1, 4095, 4096, 4097, 6000])
def test_a_long_rollout_equals_its_pieces(cut: int) -> None:
    taken, specialist, ancestor, _, _ = wide(3, 9000, 6, 5, levels=1)
    whole = token_signals(taken, specialist, ancestor, 0.6, 3)
    pieces = [
        token_signals(
            taken[rows],
            TopK(specialist.ids[rows], specialist.logprobs[rows]),
            TopK(ancestor.ids[rows], ancestor.logprobs[rows]),
            0.6,
            3,
        )
        for rows in (slice(0, cut), slice(cut, None))
    ]
    joined = TokenSignals(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))
    assert_same(whole, joined, 1e-12, 1e-12)


@given(given_=inputs())
@QUICK
def test_unused_places_change_nothing(given_: Input) -> None:
    def widened(model: TopK) -> TopK:
        more = ((0, 0), (2, 3))
        return TopK(
            np.pad(model.ids, more, constant_values=-1),
            np.pad(model.logprobs, more, constant_values=-np.inf),
        )

    wider = given_._replace(
        specialist=widened(given_.specialist), ancestor=widened(given_.ancestor)
    )
    assert_same(token_signals(*wider), token_signals(*given_), 1e-9, 1e-9)


@given(given_=inputs())
@QUICK
def test_inputs_are_left_as_they_were(given_: Input) -> None:
    arrays = [given_.taken, *given_.specialist, *given_.ancestor]
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    token_signals(*given_)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_int32_float32_and_plain_lists_give_what_int64_and_float64_give() -> None:
    taken, specialist, ancestor, temperature, k_cov = wide(4, 12, levels=1)
    expected = token_signals(taken, specialist, ancestor, temperature, k_cov)
    models = (specialist, ancestor)
    small = [TopK(m.ids.astype(np.int32), m.logprobs.astype(np.float32)) for m in models]
    narrow = token_signals(taken.astype(np.int32), *small, temperature, k_cov)
    assert_same(narrow, expected, 1e-4, 1e-4)
    lists: list[Any] = [(m.ids.tolist(), m.logprobs.tolist()) for m in models]
    assert_same(token_signals(taken.tolist(), *lists, temperature, k_cov), expected, 0, 0)


# --- refusals ---

ONE = padded([[(5, -0.1), (9, -2.4)]])
TWO = padded([[(5, -0.1), (9, -2.4)], [(5, -0.1)]])


def with_logprob(value: float) -> TopK:
    return TopK(ONE.ids, np.array([[-0.1, value]]))


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"temperature": 0}, ["temperature is 0", "from 0.001 to 1e+06"]),
        ({"temperature": -0.6}, ["temperature is -0.6", "from 0.001 to 1e+06"]),
        ({"temperature": math.nan}, ["temperature is nan", "from 0.001 to 1e+06"]),
        ({"temperature": math.inf}, ["temperature is inf", "from 0.001 to 1e+06"]),
        ({"temperature": "0.6"}, ["temperature is '0.6'", "number"]),
        ({"temperature": None}, ["temperature is None", "number"]),
        ({"k_cov": 0}, ["k_cov is 0", "at least 1"]),
        ({"k_cov": -3}, ["k_cov is -3", "at least 1"]),
        ({"k_cov": 2.5}, ["k_cov is 2.5", "integer"]),
        ({"taken": []}, ["taken has shape (0,)", "L at least 1"]),
        ({"taken": [[5]]}, ["taken has shape (1, 1)", "integers [L]"]),
        ({"taken": 5}, ["taken has shape ()", "integers [L]"]),
        ({"taken": [5.0]}, ["float64", "integers [L]"]),
        ({"taken": [10**30]}, ["object", "integers [L]"]),
        ({"taken": "text"}, ["taken", "integers [L]"]),
        ({"taken": None}, ["taken", "integers [L]"]),
        ({"taken": [-1]}, ["taken holds -1", "0 or above"]),
        ({"taken": [5, 9]}, ["specialist has 1 positions", "taken has 2", "same"]),
        ({"specialist": TWO}, ["specialist has 2 positions", "taken has 1", "same"]),
        ({"ancestor": TWO}, ["ancestor has 2 positions", "taken has 1", "same"]),
        ({"specialist": None}, ["specialist is a NoneType", "TopK(ids, logprobs)"]),
        ({"ancestor": 5}, ["ancestor is a int", "TopK(ids, logprobs)"]),
        ({"specialist": (ONE.ids,)}, ["specialist", "TopK(ids, logprobs)"]),
        ({"specialist": (ONE.ids, ONE.logprobs[0])}, ["(1, 2)", "(2,)", "same shape [L, K]"]),
        ({"specialist": (ONE.ids, ONE.logprobs[:, :1])}, ["(1, 2)", "(1, 1)", "same shape"]),
        ({"specialist": (ONE.ids[0], ONE.logprobs[0])}, ["(2,)", "[L, K]"]),
        ({"ancestor": (ONE.ids[:, :0], ONE.logprobs[:, :0])}, ["(1, 0)", "K at least 1"]),
        ({"ancestor": (ONE.logprobs, ONE.ids)}, ["ids of type float64", "integers and floats"]),
        ({"ancestor": (ONE.ids, [["a", "b"]])}, ["logprobs of type", "integers and floats"]),
        ({"ancestor": ([[5, -2]], ONE.logprobs)}, ["ancestor holds id -2", "-1 for none"]),
        ({"specialist": with_logprob(math.nan)}, ["specialist.logprobs[0, 1] is nan", "finite"]),
        ({"ancestor": with_logprob(math.inf)}, ["ancestor.logprobs[0, 1] is inf", "finite"]),
        ({"ancestor": with_logprob(1e308)}, ["ancestor.logprobs[0, 1] is 1e+308", "at most 10000"]),
        ({"specialist": ([[-1, -1]], ONE.logprobs)}, ["no token at position 0", "at least one id"]),
        (
            {"specialist": (ONE.ids, np.full((1, 2), -np.inf))},
            ["no token at position 0", "at least one id"],
        ),
    ],
    ids=lambda value: "-".join(f"{k}" for k in value) if isinstance(value, dict) else "",
)
def test_an_input_that_does_not_fit_is_refused_in_words(
    change: dict[str, Any], fragments: list[str]
) -> None:
    arguments: dict[str, Any] = {"taken": [5], "specialist": ONE, "ancestor": ONE, **change}
    with pytest.raises(InvalidInputError) as refused:
        token_signals(**arguments)
    message = str(refused.value)
    assert [fragment for fragment in fragments if fragment not in message] == [], message


@given(position=st.integers(0, 4), bad=st.sampled_from(["nan", "inf", "empty"]))
@QUICK
def test_the_message_names_the_position_that_is_wrong(position: int, bad: str) -> None:
    _, good, _, _, _ = wide(5, 5, 4, 4)
    ids, logprobs = good.ids.copy(), good.logprobs.copy()
    if bad == "empty":
        ids[position] = -1
    else:
        logprobs[position, 2] = float(bad)
    with pytest.raises(InvalidInputError, match=rf"position {position}\b|\[{position}, 2\]"):
        token_signals([0] * 5, TopK(ids, logprobs), good)


# Faults that were found by attacking the package


def test_ragged_tokens_are_refused_in_words() -> None:
    ragged: Any = [[5], [5, 9]]
    with pytest.raises(InvalidInputError, match="taken"):
        token_signals(ragged, ONE, ONE)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_unsigned_ids_may_have_unused_places(dtype: Any) -> None:
    given_ = with_logprob(-math.inf)
    unsigned = TopK(given_.ids.astype(dtype), given_.logprobs)
    assert_same(token_signals([5], unsigned, ONE), token_signals([5], given_, ONE))


def test_unsigned_logprobs_order_like_any_other() -> None:
    ids = np.array([[5, 9, 3]])
    values = np.array([[0, 3, 1]])
    unsigned = token_signals([5], ONE, TopK(ids, values.astype(np.uint8)), 1.0, 1)
    assert_same(unsigned, token_signals([5], ONE, TopK(ids, values.astype(float)), 1.0, 1))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("temperature", [1e-320, 1e-306, pytest.param(10**400, id="huge")])
def test_a_temperature_whose_reciprocal_overflows_is_refused(temperature: float) -> None:
    with pytest.raises(InvalidInputError, match="temperature"):
        token_signals([7], ONE, ONE, temperature)


@pytest.mark.parametrize("number", [np.float32, np.int64])
def test_temperature_may_be_any_numpy_number(number: Any) -> None:
    assert_same(token_signals([5], ONE, ONE, number(1)), token_signals([5], ONE, ONE, 1.0), 0, 0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_any_finite_logprob_gives_finite_signals() -> None:
    signals = token_signals([5], with_logprob(-1e308), ONE, 0.05)
    assert all(np.isfinite(values).all() for values in signals)


# --- compiled ---


def by_numpy(given_: Input) -> TokenSignals:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signals_module, "fastest", lambda: numpy_list_sums)
        return token_signals(*given_)


def assert_compiled_is_numpy(given_: Input) -> None:
    """To 1e-9 of its value, or 1e-9 itself, in all six signals: the same store either way."""
    assert_same(token_signals(*given_), by_numpy(given_), 1e-9, 1e-9)


def frozen(model: TopK) -> TopK:
    """Arrays that may not be written, lie apart and start where no number of theirs should."""

    def moved(array: Any) -> Any:
        room = np.zeros(2 * array.nbytes + 1, np.uint8)[1:].view(array.dtype)
        view = room.reshape(len(array), -1)[:, ::2]
        view[:] = array
        view.flags.writeable = False
        return view

    return TopK(moved(model.ids), moved(model.logprobs))


@needs_compiled
@given(given_=inputs(st.one_of(LOGPROBS, EXTREME)))
@settings(deadline=None, max_examples=examples(300))
def test_compiled_signals_are_those_of_numpy(given_: Input) -> None:
    assert_compiled_is_numpy(given_)


@needs_compiled
@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 300),
    k=st.integers(1, 30),
    k_ancestor=st.integers(1, 30),
    levels=st.sampled_from([0, 1]),
    temperature=st.one_of(TEMPERATURES, st.floats(1e-3, 1e6)),
    k_cov=st.integers(1, 30),
    narrow=st.booleans(),
)
@settings(deadline=None, max_examples=examples(300))
def test_compiled_signals_of_long_lists_are_those_of_numpy(
    seed: int,
    length: int,
    k: int,
    k_ancestor: int,
    levels: int,
    temperature: float,
    k_cov: int,
    narrow: bool,
) -> None:
    given_ = wide(seed, length, k, k_ancestor, levels)
    if narrow:
        small = [TopK(m.ids.astype(np.int32), m.logprobs.astype(np.float32)) for m in given_[1:3]]
        given_ = given_._replace(specialist=small[0], ancestor=small[1])
    assert_compiled_is_numpy(given_._replace(temperature=temperature, k_cov=k_cov))


@needs_compiled
def test_compiled_code_is_what_runs_where_it_can() -> None:
    assert fastest() is not numpy_list_sums


@needs_compiled
def test_compiled_code_takes_arrays_of_any_kind() -> None:
    given_ = wide(6, 300, 7, 9, levels=1)
    small = [TopK(m.ids.astype(np.int32), m.logprobs.astype(np.float32)) for m in given_[1:3]]
    narrow = given_._replace(specialist=small[0], ancestor=small[1])
    for case in (given_, narrow):
        moved = case._replace(specialist=frozen(case.specialist), ancestor=frozen(case.ancestor))
        assert_same(token_signals(*moved), token_signals(*case), 0, 0)
    tiny = TopK(small[0].ids.astype(np.int8), small[0].logprobs.astype(np.longdouble))
    assert_compiled_is_numpy(narrow._replace(specialist=tiny))
    swapped = TopK(small[0].ids.astype(">i4"), small[0].logprobs.astype(">f4"))
    assert_same(
        token_signals(*narrow._replace(specialist=swapped)), token_signals(*narrow), 1e-9, 1e-9
    )


@needs_compiled
@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_compiled_code_does_not_cut_tokens_to_the_width_of_the_ids(kind: Any) -> None:
    one = TopK(np.array([[5, -1]], np.int32), np.array([[-0.5, -np.inf]], np.float32))
    for token in (2**32 + 5, 2**63 - 1, 2**31):
        assert_compiled_is_numpy(Input(np.array([token], kind), one, one, 1.0, 1))


def test_without_numba_the_signals_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    given_ = wide(7, 40)
    expected = token_signals(*given_)
    monkeypatch.setitem(sys.modules, "recov_graph.compiled", None)
    fastest.cache_clear()
    try:
        assert fastest() is numpy_list_sums
        assert_same(token_signals(*given_), expected, 1e-9, 1e-9)
    finally:
        fastest.cache_clear()
