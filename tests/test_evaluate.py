"""Comparing policies: the arithmetic, what is learned and what is not, and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recov_graph.cli import cli as root
from recov_graph.cli.learn import evaluate as command
from recov_graph.errors import InvalidInputError, TapeError
from recov_graph.evaluate import Bench, bench_of_profiles, bench_of_tape, evaluate
from recov_graph.evaluate.compare import REFERENCES, Plans, groups, scored, splits
from recov_graph.evaluate.plans import NAMES, plain
from recov_graph.evaluate.scoring import Bootstrap, carried_out, score
from recov_graph.evaluate.stopping import outcome
from recov_graph.interventions.base import Lengths
from recov_graph.tape import Attempts, TapeProblem, shipped_tape, write_tape
from tests.conftest import Cli

pytestmark = pytest.mark.slow

SHARED_CSV = Path(__file__).parents[2] / "shared" / "data" / "failure_profiles_dev.csv"
OPERATORS = ("retry", "sparse_steer", "dense_steer")
BOTH = ("all", "steerable_hard")
Rates = Sequence[float]


def write_profiles(path: Path, problems: Iterable[tuple[str, float, Rates]]) -> Path:
    """A CSV of (model, spread, rates of OPERATORS)."""
    lines = [
        f"{model},t,p{i},8,{spread},0.1,0.2,{','.join(map(str, rates))}"
        for i, (model, spread, rates) in enumerate(problems)
    ]
    features = "spread,concentration,logit_dispersion"
    head = f"model,task,problem_id,n_failed_rollouts,{features},{','.join(OPERATORS)}"
    path.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return path


Profiled = Callable[[Iterable[tuple[str, float, Rates]]], Bench]


@pytest.fixture
def profiled(tmp_path: Path) -> Profiled:
    """Makes a bench of problems."""
    return lambda problems: bench_of_profiles(write_profiles(tmp_path / "p.csv", problems))


def varied(count: int = 60, seed: int = 0) -> Iterator[tuple[str, float, Rates]]:
    rng = np.random.default_rng(seed)
    for i in range(count):
        yield f"m{i % 2}", round(rng.random(), 3), rng.beta(0.5, 1.0, 3).round(2).tolist()


def planted(count: int = 80) -> Iterator[tuple[str, float, Rates]]:
    """In one cell only sparse_steer works, in the other only dense_steer."""
    for i in range(count):
        yield f"m{i % 2}", 0.5, (0.0, 1.0, 0.0) if i % 2 else (0.0, 0.0, 1.0)


def tape_problem(
    name: str = "p", *, passed: str = "0000", tokens: int = 10, scoring: int = 30, **fields: Any
) -> TapeProblem:
    made = Attempts(np.array([c == "1" for c in passed]), np.full(len(passed), tokens))
    return replace(
        TapeProblem(
            id=name,
            model="m",
            task="t",
            features=None,
            failed_samples=4,
            lengths=Lengths(5, 5),
            scoring_tokens=scoring,
            attempts=dict.fromkeys(OPERATORS, made),
        ),
        **fields,
    )


@pytest.fixture(scope="module")
def cut() -> list[TapeProblem]:
    """Some problems of each cell of the tape that ships."""
    by_task: dict[str, list[TapeProblem]] = {}
    for problem in shipped_tape():
        by_task.setdefault(problem.task, []).append(problem)
    return [problem for task in by_task.values() for problem in task[:10]]


@pytest.fixture(scope="module")
def of_rates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = write_profiles(tmp_path_factory.mktemp("rates") / "p.csv", varied())
    return evaluate(bench_of_profiles(path), budgets=[3, 1, 2, 2], seed=5)


@pytest.fixture(scope="module")
def of_tape(cut: list[TapeProblem]) -> dict[str, Any]:
    return evaluate(bench_of_tape(cut, "a cut"), budgets=[4, 12.5])


def rescue(figures: dict[str, Any], name: str, budget: str = "1", group: str = "all") -> float:
    return float(figures["policies"][name][group][budget]["rescue"])


# Arithmetic


def test_rates_are_scored_exactly(profiled: Profiled) -> None:
    bench = profiled([("m", 0.5, (0.5, 0.2, 0.0)), ("m", 0.5, (0.1, 1.0, 0.3))])
    plan = plain(bench, np.array([[0, 1, 2], [2, 0, 1]]))
    made = score(bench, plan, [1, 2, 3], np.random.default_rng(0))
    assert made.rescue == pytest.approx(np.array([[0.5, 0.6, 0.6], [0.3, 0.37, 1.0]]))
    assert made.cost == pytest.approx(np.array([[1, 1.5, 1.9], [1, 1.7, 2.33]]))


def test_tokens_are_charged_and_measuring_once() -> None:
    bench = bench_of_tape([tape_problem(), tape_problem("q", passed="1111")], "two")
    plan = plain(bench, np.array([[0, 1, 1, 2], [1, 1, 1, 1]]))
    runs = carried_out(bench, plan, np.random.default_rng(0))
    assert set(map(tuple, runs.cost[:, 0])) == {(10, 40, 10, 10)}
    assert set(map(tuple, runs.cost[:, 1])) == {(40, 10, 10, 10)}
    made = score(bench, plan, [3.9, 4.0, 100.0], np.random.default_rng(0))
    assert bench.unit == 10
    assert made.rescue.tolist() == [[0, 0, 0], [0, 1, 1]]
    assert made.cost.tolist() == [[39, 40, 70], [39, 40, 40]]


def test_no_recorded_attempt_is_used_twice_before_all_are() -> None:
    bench = bench_of_tape([tape_problem(passed="0001"), tape_problem("q", passed="0010")], "two")
    plan = plain(bench, np.zeros((2, 4), np.int64))
    runs = carried_out(bench, plan, np.random.default_rng(0))
    assert (runs.passed.sum(axis=2) == 1).all()
    half = carried_out(bench, plan, np.random.default_rng(0), half=1)
    assert half.passed.sum(axis=2).tolist() == [[2, 0]] * len(half.passed)


def test_odds_of_recorded_attempts_are_those_of_any_order() -> None:
    bench = bench_of_tape([tape_problem(passed="0001"), tape_problem("q", passed="0010")], "two")
    odds = outcome(bench, np.zeros((2, 4), np.int64))
    assert odds.reach[0] == pytest.approx([1, 3 / 4, 2 / 4, 1 / 4])
    assert odds.label[0] == pytest.approx([1, 1, 1, 1])
    assert odds.won[0] == pytest.approx([1 / 4] * 4)


def test_a_mean_is_of_cells_and_only_of_those_with_any_weight() -> None:
    bootstrap = Bootstrap(np.array([0, 0, 0, 1, 2]), 0)
    values = np.array([0.0, 0.5, 1.0, 1.0, 0.0])
    assert bootstrap.mean(values, np.array([1.0, 1, 1, 1, 0])).value == pytest.approx(0.75)
    assert np.isnan(bootstrap.mean(values, np.zeros(5)).value)


# What is compared


def test_the_json_says_all_that_it_must(of_rates: dict[str, Any]) -> None:
    json.dumps(of_rates, allow_nan=False)
    assert of_rates["budgets"] == ["1", "2", "3"]
    assert of_rates["unit"] == {"of": "attempts", "size": 1.0}
    assert (of_rates["problems"], of_rates["seed"]) == (60, 5)
    assert {name: cell["problems"] for name, cell in of_rates["cells"].items()} == {
        "m0|t": 30,
        "m1|t": 30,
    }
    everywhere = (of_rates, *of_rates["cells"].values())
    for place in everywhere:
        assert set(place["policies"]) == set(NAMES)
        for row in place["policies"].values():
            for group in BOTH:
                for figures in row[group].values():
                    assert set(figures) == {"rescue", "low", "high", "cost"}
                    assert figures["low"] <= figures["rescue"] <= figures["high"]
    assert set(of_rates["differences"]["posterior"]) == set(REFERENCES)
    assert {"retry", "best_fixed_per_cell", "best_fixed", "rule_ranked"} <= set(REFERENCES)
    for row in (of_rates["features"], of_rates["differences"]["posterior"]["retry"]):
        assert set(row[BOTH[1]]["3"]) == {"difference", "low", "high"}
    assert {"retry", "posterior"} <= set(of_rates["null"]["policies"])
    stop = of_rates["stopping"]
    assert 0.5 < stop["auroc"] <= 1
    assert {"ece", "saved", "saved_out_of_reach", "lost", "intervals", "per_attempt"} <= set(stop)
    assert len(stop["thresholds"]) == 5


def test_a_tape_also_says_what_each_operator_does_alone(of_tape: dict[str, Any]) -> None:
    json.dumps(of_tape, allow_nan=False)
    assert of_tape["unit"]["of"] == "tokens"
    assert list(of_tape["fixed"]) == of_tape["operators"]
    assert of_tape["fixed"]["retry"] == of_tape["policies"]["retry"]
    assert {f"fixed:{name}" for name in of_tape["operators"]} <= set(
        of_tape["differences"]["posterior"]
    )


def test_nothing_is_known_of_a_group_without_problems(profiled: Profiled) -> None:
    made = evaluate(profiled([("m", 0.5, (1.0, 1.0, 1.0))] * 6), budgets=[1])
    assert made["policies"]["posterior"]["all"]["1"]["rescue"] == 1
    assert made["policies"]["posterior"]["steerable_hard"]["1"]["rescue"] is None
    assert made["stopping"]["auroc"] is None


def test_more_budget_rescues_more_and_is_never_exceeded(of_tape: dict[str, Any]) -> None:
    small, large = of_tape["budgets"]
    for name in NAMES:
        for group in BOTH:
            row = of_tape["policies"][name][group]
            assert row[small]["rescue"] <= row[large]["rescue"]
            for budget in (small, large):
                assert row[budget]["cost"] <= float(budget) * of_tape["unit"]["size"] + 1e-3


def test_the_oracle_is_best(of_rates: dict[str, Any], of_tape: dict[str, Any]) -> None:
    for figures in (of_rates, of_tape):
        for budget in figures["budgets"]:
            best = max(rescue(figures, name, budget) for name in NAMES if name != "oracle")
            assert rescue(figures, "oracle", budget) >= best - 0.005


def test_equal_seeds_repeat(profiled: Profiled) -> None:
    bench = profiled(varied(24))
    first, again, other = (evaluate(bench, budgets=[2], seed=seed) for seed in (-1, -1, 0))
    assert first == again
    assert first["policies"]["random"] != other["policies"]["random"]


def test_operators_that_are_alike_do_not_differ(profiled: Profiled) -> None:
    rng = np.random.default_rng(1)
    alike = [(f"m{i % 2}", 0.5, [round(rng.random(), 2)] * 3) for i in range(40)]
    made = evaluate(profiled(alike), budgets=[1, 3])
    gains = [
        gain
        for row in made["differences"].values()
        for other in row.values()
        for gain in other["all"].values()
    ]
    assert len(gains) == 2 * (5 * len(NAMES) - 5)
    assert all(gain["low"] <= 1e-9 and gain["high"] >= -1e-9 for gain in gains)


def test_what_a_cell_tells_is_found_and_shuffling_destroys_it(profiled: Profiled) -> None:
    made = evaluate(profiled(planted()), budgets=[1])
    assert rescue(made, "posterior") == rescue(made, "best_fixed_per_cell") == 1
    assert rescue(made, "best_fixed") == pytest.approx(0.5)
    assert made["differences"]["posterior"]["best_fixed"]["all"]["1"]["low"] > 0.3
    assert rescue(made["null"], "posterior") < 0.55
    gain = made["null"]["differences"]["posterior"]["retry"]["all"]["1"]
    assert gain["low"] < 0.1


def test_what_a_feature_tells_is_found(profiled: Profiled) -> None:
    wide, narrow = ("m", 0.9, (0.0, 0.0, 1.0)), ("m", 0.1, (1.0, 1.0, 0.0))
    made = evaluate(profiled([wide, narrow] * 40), budgets=[1])
    assert made["features"]["all"]["1"]["low"] > 0.2
    assert rescue(made, "posterior") > rescue(made, "posterior_no_features") + 0.2


def test_a_cell_left_out_is_not_learned_from(profiled: Profiled) -> None:
    made = evaluate(profiled(planted()), budgets=[1], leave_cell_out=True)
    assert made["split"] == "leave_cell_out"
    # All that was learned is what worked elsewhere, and the rule has its say again.
    assert rescue(made, "best_fixed_per_cell") == rescue(made, "best_fixed") == 0
    assert rescue(made, "posterior") <= 0.5


def test_folds_hold_every_problem_once_and_of_every_cell(profiled: Profiled) -> None:
    bench = profiled((f"m{i % 7}", 0.5, (0.1, 0.2, 0.3)) for i in range(23))
    folds = splits(bench, np.random.default_rng(0))
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(23))
    assert {len(fold.test) for fold in folds} == {4, 5}
    assert not any(set(fold.test) & set(fold.train) for fold in folds)


def test_shuffled_names_take_costs_along_and_leave_the_unit(cut: list[TapeProblem]) -> None:
    bench = bench_of_tape(cut, "a cut")
    shuffled = bench.shuffled(np.random.default_rng(0))
    assert shuffled.unit == bench.unit
    pairs = [
        sorted(zip(b.costs[0].tolist(), b.rates[0].tolist(), strict=True))
        for b in (bench, shuffled)
    ]
    assert pairs[0] == pairs[1]
    assert shuffled.costs.tolist() != bench.costs.tolist()


def test_stopping_spares_the_hopeless(profiled: Profiled) -> None:
    hopeful, hopeless = ("m", 0.5, (0.5, 0.5, 0.6)), ("n", 0.5, (0.0, 0.0, 0.0))
    stop = evaluate(profiled([hopeful, hopeless] * 30), budgets=[1])["stopping"]
    assert stop["auroc"] > 0.9
    assert stop["saved_out_of_reach"] > 0.5
    assert stop["lost"] <= 0.02


# One budget for all


def test_a_shared_budget_is_spent_on_the_unsolved(profiled: Profiled) -> None:
    sure = evaluate(profiled([("m", 0.5, (1.0, 1.0, 1.0))] * 20), budgets=[0.25, 1, 2], shared=True)
    assert set(sure["shared"]) == {*NAMES, "worth"}
    for row in sure["shared"].values():
        assert {key: figures["rescue"] for key, figures in row["all"].items()} == {
            "0.25": 0.25,
            "1": 1,
            "2": 1,
        }


def test_worth_begins_where_there_is_hope(profiled: Profiled) -> None:
    likely, unlikely = (0.9, 0.9, 0.9), (0.05, 0.05, 0.05)
    problems = [("m", 0.9, likely), ("m", 0.1, unlikely)] * 30
    made = evaluate(profiled(problems), budgets=[0.5, 1], shared=True)
    assert made["shared"]["retry"]["all"]["0.5"]["rescue"] == pytest.approx(0.475 / 2, abs=0.03)
    assert made["shared"]["worth"]["all"]["0.5"]["rescue"] == pytest.approx(0.45, abs=0.03)
    assert made["shared_differences"]["worth"]["retry"]["all"]["0.5"]["low"] > 0.1
    assert "policies" not in made


def test_a_shared_budget_counts_tokens(cut: list[TapeProblem]) -> None:
    made = evaluate(bench_of_tape(cut[::3], "a cut"), budgets=[1, 4], shared=True)
    assert list(made["shared"]["retry"]["all"]) == ["1", "4"]
    for row in made["shared"].values():
        assert row["all"]["1"]["rescue"] <= row["all"]["4"]["rescue"] + 1e-9


# The published data


@pytest.mark.skipif(not SHARED_CSV.is_file(), reason=f"{SHARED_CSV} is not here")
def test_baselines_agree_with_what_is_known_of_the_recorded_data() -> None:
    bench = bench_of_profiles(SHARED_CSV)
    plans = Plans(bench, splits(bench, np.random.default_rng([0, 0])), 4, 0)
    everyone, bootstrap = groups(bench)["all"], Bootstrap(bench.cell, 0)
    known = {
        "retry": ([0.445, 0.553, 0.611, 0.647], 0.001),
        "rule_repeat": ([0.449, 0.534, 0.578, 0.605], 0.005),
    }
    for name, (expected, off) in known.items():
        made = everyone.of(scored(plans, name, [1, 2, 3, 4], 0))
        found = [bootstrap.mean(row, everyone.weights).value for row in made.rescue.T]
        assert found == pytest.approx(expected, abs=off), name


# Refused


@pytest.mark.parametrize(
    ("budgets", "why"),
    [
        ([], "no budget"),
        ([0], "above 0"),
        ([float("nan")], "above 0"),
        ([1e9], "at most 64"),
        ([1.5], "whole number"),
    ],
)
def test_budgets_that_mean_nothing_are_refused(
    profiled: Profiled, budgets: list[float], why: str
) -> None:
    with pytest.raises(InvalidInputError, match=why):
        evaluate(profiled(varied(4)), budgets=budgets)


def test_too_few_problems_are_refused(profiled: Profiled) -> None:
    with pytest.raises(InvalidInputError, match="at least 2"):
        evaluate(profiled(varied(1)), budgets=[1])


@pytest.mark.parametrize("kept", [("sparse_steer", "dense_steer"), ("retry",)])
def test_a_tape_needs_retry_and_another_operator(kept: tuple[str, ...]) -> None:
    problem = tape_problem()
    attempts = {name: problem.attempts[name] for name in kept}
    with pytest.raises(TapeError, match="of retry and of one more"):
        bench_of_tape([replace(problem, attempts=attempts)], "odd")


# The command line


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Cli:
    """Runs the command in this process."""
    monkeypatch.setitem(root.commands, "evaluate", command)
    return partial(cli, "evaluate")


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return write_profiles(tmp_path / "profiles.csv", varied(24))


def test_the_tables_fit_and_say_what_they_say(cli: Cli, csv: Path, tmp_path: Path) -> None:
    done = cli("--profiles", csv, "--json", tmp_path / "out.json")
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 100
    assert "One unit of budget is one attempt" in done.out
    for name in NAMES:
        assert f"\n{name} " in done.out
    for words in ("steerable-hard", "shuffled", "AUROC", "posterior minus others"):
        assert words in done.out
    figures = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    shown = f"{100 * rescue(figures, 'posterior', '4'):.1f}"
    assert shown in done.out
    assert figures["budgets"] == ["1", "2", "3", "4"]


def test_a_shared_budget_has_its_own_table(cli: Cli, csv: Path) -> None:
    done = cli("--profiles", csv, "--shared", "--budget", "0.5,2")
    assert done.code == 0
    assert "\nworth " in done.out
    assert max(map(len, done.out.splitlines())) <= 100


def test_a_tape_file_is_read_and_json_goes_to_stdout(
    cli: Cli, cut: list[TapeProblem], tmp_path: Path
) -> None:
    path = tmp_path / "tape.jsonl"
    write_tape(cut[::3], path, "a test")
    done = cli("--tape", path, "--budget", "4", "--json", "-")
    figures = json.loads(done.out)
    assert (done.code, figures["problems"]) == (0, len(cut[::3]))
    assert str(path) in figures["source"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--profiles", "{csv}", "--tape", "x"), "either --profiles or --tape"),
        (("--profiles", "missing.csv"), "missing.csv: cannot be read"),
        (("--tape", "missing.db"), "missing.db: cannot be read"),
        (("--tape", "{csv}"), "not a tape|1: "),
        (("--profiles", "{csv}", "--budget", "1,x"), "not a list of numbers"),
        (("--profiles", "{csv}", "--budget", ""), "not a list of numbers"),
        (("--profiles", "{csv}", "--budget", "0,1"), "above 0"),
        (("--profiles", "{csv}", "--budget", "1.5"), "whole number"),
        (("--budget", "65"), "at most 64"),
        (("--profiles", "{csv}", "--json", "no/such/folder.json"), "cannot be written"),
        (("--profiles", "{one}", "--leave-cell-out"), "of 1 cell"),
    ],
)
def test_wrong_input_ends_with_one_line(
    cli: Cli, csv: Path, tmp_path: Path, arguments: tuple[str, ...], why: str
) -> None:
    one = write_profiles(tmp_path / "one.csv", [("m", 0.5, (0.1, 0.2, 0.3))] * 6)
    done = cli(*(part.format(csv=csv, one=one) for part in arguments))
    assert done.code == 2
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert done.err.startswith("Error: ")
    assert any(part in done.err for part in why.split("|")), done.err


def test_the_command_loads_nothing_heavy_until_it_runs() -> None:
    code = "import sys, recov_graph.cli.learn; print('numpy' in sys.modules, 'rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
