"""What a report says: of stores whose every number is known, and of a real run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as searched
from hypothesis import strategies as st

from recov_graph.batch import summary
from recov_graph.errors import StoreError
from recov_graph.models.embedded import EmbeddedPair, bundled_problems
from recov_graph.record import Settings, record
from recov_graph.report.building import build_report
from recov_graph.report.content import Estimate, Report
from recov_graph.report.statistics import clusters, mean, resampled, share, wilson
from recov_graph.rollout_features import ROLLOUT_FEATURE_VERSION
from recov_graph.routing.policy import default_policy
from recov_graph.signals import FEATURE_VERSION
from recov_graph.store import TraceStore
from recov_graph.verifiers import as_verifier
from tests.conftest import Demo
from tests.stored_runs import StoredRun

POLICY = default_policy()
Ran = tuple[TraceStore, dict[str, Any]]


def by_name(report: Report) -> dict[str, Any]:
    return {figure.name: figure for figure in report.headline}


# Intervals


def test_a_share_of_independent_rows_has_the_textbook_wilson_interval() -> None:
    made = share([True] * 36 + [False] * 48, np.arange(84))
    assert (round(made.value, 4), round(made.low, 4), round(made.high, 4)) == (
        0.4286,
        0.3282,
        0.5352,
    )


@given(
    hits=st.lists(st.booleans(), min_size=1, max_size=60),
    data=st.data(),
)
def test_intervals_hold_their_value_and_stay_within_0_and_1(
    hits: list[bool], data: st.DataObject
) -> None:
    cluster = np.array(
        data.draw(st.lists(st.integers(0, 5), min_size=len(hits), max_size=len(hits)))
    )
    made = share(hits, cluster)
    assert 0 <= made.low <= made.value <= made.high <= 1
    alone = share(hits, np.arange(len(hits)))
    assert made.value == alone.value
    assert made.high - made.low >= alone.high - alone.low - 1e-12


def test_attempts_at_one_problem_do_not_count_as_many() -> None:
    alike = share([True] * 50 + [False] * 50, np.repeat([0, 1], 50))
    few = share([True, False], np.arange(2))
    assert alike.high - alike.low == pytest.approx(few.high - few.low, abs=1e-9)


def test_no_rows_have_no_interval() -> None:
    nothing = Estimate(None)
    assert share([], np.zeros(0, int)) == nothing
    assert mean([], np.zeros(0, int)) == nothing
    assert resampled(lambda sums: sums[:, 0], np.zeros((0, 1)), np.zeros(0, int)) == nothing


def test_a_single_cluster_has_a_mean_and_no_interval() -> None:
    assert mean([1.0, 2.0], np.zeros(2, int)) == Estimate(1.5)


@pytest.mark.slow
def test_intervals_of_means_and_sums_cover_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = {"mean": 0, "sum": 0, "wilson": 0}
    for _ in range(200):
        # 30 clusters of 4 rows that share most of their variance.
        values = (rng.normal(size=(30, 1)) + 0.3 * rng.normal(size=(30, 4))).ravel()
        cluster = np.repeat(np.arange(30), 4)
        made = mean(values, cluster)
        covered["mean"] += made.low <= 0 <= made.high
        total = resampled(lambda sums: sums[:, 0], values[:, None], cluster)
        covered["sum"] += total.low <= 0 <= total.high
        # Rows of a cluster are all hits or none.
        hits = np.repeat(rng.random(30) < 0.3, 4)
        one = share(hits, cluster)
        covered["wilson"] += one.low <= 0.3 <= one.high
    assert all(0.9 <= count / 200 <= 0.985 for count in covered.values()), covered


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_a_mean_of_few_has_a_wide_interval(n: int) -> None:
    rng = np.random.default_rng(n)
    made = [mean(rng.normal(size=n), np.arange(n)) for _ in range(300)]
    assert sum(one.low <= 0 <= one.high for one in made) >= 0.91 * 300


def test_one_problem_that_was_run_often_does_not_decide() -> None:
    cluster = np.concatenate([np.zeros(100, int), np.arange(1, 21)])
    made = share([True] * 110 + [False] * 10, cluster)
    assert made.high - made.low > 0.6


def test_clusters_number_rows_that_are_alike() -> None:
    assert clusters(["a", "b", "a"], [1, 1, 1]).tolist() == [0, 1, 0]
    assert wilson(0.0, 10).low == 0.0


def test_what_is_infinite_has_no_end() -> None:
    made = resampled(
        lambda sums: sums[:, 0] / sums[:, 1],
        np.array([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]]),
        np.arange(3),
    )
    assert made.value == 3.0
    assert made.high is None


# Headline


def test_the_headline_counts_failures_and_not_what_passed_at_once(store: TraceStore) -> None:
    run = StoredRun(store)
    for _ in range(6):
        run.problem(samples="fffp")
    run.problem(tried=[("retry", "failed", 50), ("dense_steer", "rescued", 70)])
    run.problem(tried=[("retry", "failed", 50)])
    run.problem(tried=[("retry", "failed", 50)], ended="budget_exhausted")
    run.problem(samples="uuuu", ended="verifier_error")
    report = build_report(store)
    assert (report.problems, report.solved_first, report.failed) == (10, 6, 3)
    figures = by_name(report)
    totals = {name: figure.total for name, figure in figures.items()}
    assert [totals[name] for name in ("failed", "rescued", "stopped")] == [3, 1, 1]
    assert totals["tokens"] == 220
    assert figures["failed"].of == 10
    assert figures["rescued"].of == 3
    assert figures["rescued"].estimate.value == pytest.approx(1 / 3)


def test_tokens_saved_are_by_the_measured_price_of_a_rescue(store: TraceStore) -> None:
    run = StoredRun(store)
    for i in range(40):
        rescued = i % 2 == 0
        run.problem(
            tried=[("dense_steer", "rescued" if rescued else "failed", 100)],
            retry=(i % 4 == 0, 100),
        )
    figure = by_name(build_report(store))["saved"]
    # 20 rescues for 4,000 tokens; retry alone took 400 tokens for each of its 10.
    assert figure.total == pytest.approx(20 * 400 - 4000)
    assert figure.estimate.low < figure.total < figure.estimate.high


def test_what_was_not_measured_is_not_called_saved(store: TraceStore) -> None:
    run = StoredRun(store)
    for i in range(60):
        run.problem(samples=["ffff", "fffp", "ppfp"][i % 3], tried=[("retry", "rescued", 1)])
    figure = by_name(build_report(store))["saved"]
    assert figure.total is None
    assert "--baseline" in figure.note


def test_a_price_that_rests_on_few_rescues_is_none(store: TraceStore) -> None:
    run = StoredRun(store)
    for i in range(20):
        run.problem(tried=[("dense_steer", "rescued", 100)], retry=(i < 4, 100))
    figure = by_name(build_report(store))["saved"]
    assert figure.total is None
    assert "retry alone rescued 4 with 2,000 tokens, the loop 20 with 2,000" in figure.note
    run.problem(tried=[("dense_steer", "rescued", 100)], retry=(True, 100))
    assert by_name(build_report(store))["saved"].total == pytest.approx(21 * 420 - 2100)


def test_models_are_compared_each_with_itself(store: TraceStore) -> None:
    small, large = StoredRun(store, "a", model="small"), StoredRun(store, "b", model="large")
    for i in range(40):
        ours = "rescued" if i < 20 else "failed"
        small.problem(tried=[("dense_steer", ours, 25)], retry=(i < 10, 25))
        ours = "rescued" if i < 5 else "failed"
        large.problem(tried=[("dense_steer", ours, 2500)], retry=(i < 10, 2500))
    saved = {run: by_name(build_report(store, run=run))["saved"].total for run in (None, "a", "b")}
    assert saved["a"] > 0 > saved["b"]
    assert saved[None] == pytest.approx(saved["a"] + saved["b"])


def test_the_order_of_problems_does_not_matter_for_an_interval(tmp_path: Path) -> None:
    made = []
    for first in ("ffff", "pppp"):
        with TraceStore(tmp_path / f"{first}.db") as store:
            run = StoredRun(store)
            for i in range(80):
                samples = first if i < 40 else ("pppp" if first == "ffff" else "ffff")
                lost = samples == "ffff"
                run.problem(samples=samples, tried=[("retry", "failed", 100)] if lost else ())
            made.append(by_name(build_report(store))["tokens"].estimate)
    assert made[0] == made[1]


def test_failures_are_counted_by_task_model_and_regime(store: TraceStore) -> None:
    run = StoredRun(store)
    for _ in range(3):
        run.problem(task="add", samples="pppp")
        run.problem(task="mul", tried=[("retry", "failed", 50)], retry=(True, 40))
    run.problem(task="mul", tried=[("retry", "rescued", 70)], regime="steerable_hard")
    rows = {(row.by, row.name): row for row in build_report(store).groups}
    assert [row.by for row in build_report(store).groups] == ["task", "task", "regime", "regime"]
    mul = rows["task", "mul"]
    assert (mul.problems, mul.failed, mul.rescued, mul.stopped, mul.tokens) == (4, 4, 1, 3, 220)
    assert (mul.retry_rescued, mul.retry_tokens) == (None, None)  # not on all of them
    assert (rows["task", "add"].problems, rows["task", "add"].failed) == (3, 0)
    sampling = rows["regime", "sampling"]
    assert (sampling.failed, sampling.retry_rescued, sampling.retry_tokens) == (3, 3, 120)


def test_a_problem_that_was_run_twice_counts_once_for_the_intervals(store: TraceStore) -> None:
    one = StoredRun(store, "one")
    for i in range(30):
        one.problem(samples="fp" if i % 2 else "ff", key=f"k{i}")
    narrow = by_name(build_report(store))["failed"].estimate
    two = StoredRun(store, "two")
    for i in range(30):
        two.problem(samples="fp" if i % 2 else "ff", key=f"k{i}")
    report = build_report(store)
    again = by_name(report)["failed"].estimate
    assert (again.low, again.high) == pytest.approx((narrow.low, narrow.high), abs=0.01)
    assert any("30 problems were run before" in note for note in report.notes)


# Retry alone, foreseen


def test_retry_alone_is_foreseen_as_it_comes_out() -> None:
    rng = np.random.default_rng(1)
    chances = rng.beta(0.3, 0.5, size=1500)
    with TraceStore(":memory:") as store:
        run = StoredRun(store)
        reached = []
        for chance in chances:
            draws = rng.random(4 + 8) < chance
            run.problem(
                samples="".join("p" if passed else "f" for passed in draws[:4]),
                ended="budget_exhausted" if not draws[:4].any() else None,
                tried=[("retry", "failed", 800)] if not draws[:4].any() else (),
            )
            if not draws[:4].any():
                reached.append(draws[4:].any())
        panel = build_report(store).panels[0]
    foreseen = next(curve for curve in panel.curves if curve.source == "estimated")
    after_8 = foreseen.rescued[8]
    assert after_8.low - 0.03 <= np.mean(reached) <= after_8.high + 0.03
    assert after_8.high - after_8.low < 0.12


@pytest.mark.parametrize("kinds", [["ffff", "pppp", "pppf", "fffp"], ["ffff", "fffp"]])
def test_nothing_is_foreseen_where_chances_do_not_vary_as_supposed(kinds: list[str]) -> None:
    rng = np.random.default_rng(0)
    with TraceStore(":memory:") as store:
        run = StoredRun(store)
        for i in range(400):
            # Easy or hopeless, and nothing between: or all alike.
            chance = [0.05, 0.95][i % 2] if len(kinds) == 4 else 0.2
            samples = "".join("p" if one < chance else "f" for one in rng.random(4))
            run.problem(samples=samples, tried=[("retry", "failed", 200)])
        curves = build_report(store).panels[0].curves
    foreseen = [curve for curve in curves if curve.source == "estimated"]
    if len(kinds) == 4:
        assert not foreseen
    else:
        after_2 = foreseen[0].rescued[2]
        assert after_2.low - 0.02 <= 1 - 0.8**2 <= after_2.high + 0.02


@pytest.mark.slow
def test_what_is_foreseen_covers_what_comes() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(25):
        with TraceStore(":memory:") as store:
            run, reached = StoredRun(store), []
            for chance in rng.beta(0.3, 0.5, size=150):
                draws = rng.random(10) < chance
                lost = not draws[:4].any()
                run.problem(
                    samples="".join("p" if passed else "f" for passed in draws[:4]),
                    tried=[("retry", "failed", 600)] if lost else (),
                )
                reached += [draws[4:].any()] if lost else []
            panel = build_report(store).panels[0]
        curve = [one for one in panel.curves if one.source == "estimated"]
        after_6 = curve[0].rescued[6] if curve else None
        covered += after_6 is None or after_6.low <= np.mean(reached) <= after_6.high
    assert covered >= 21


def test_a_black_box_that_reads_the_prompt_for_each_sample_makes_no_retry_dear(
    store: TraceStore,
) -> None:
    run = StoredRun(store)
    seen = {"failed_share": 1.0, "agreement": 0.5, "truncated": 0.0, "length": 1.0}
    for i in range(40):
        name = run.problem(samples=["ffff", "fffp"][i % 2], tried=[("retry", "failed", 5000)])
        call = {"id": f"{name}/call0", "problem_id": name, "purpose": "sample", "scored_tokens": 0}
        store.write(
            calls=[{**call, "prompt_tokens": 4000, "completion_tokens": 40, "seconds": 0.0}],
            rollout_features=[{"id": name, **seen, "feature_version": ROLLOUT_FEATURE_VERSION}],
        )
    panel = build_report(store).panels[0]
    foreseen = next(curve for curve in panel.curves if curve.source == "estimated")
    assert foreseen.tokens[1] == pytest.approx(1010)


@searched(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["ffff", "fffp", "pppp", "ff", "uf"]), min_size=20, max_size=40))
def test_whatever_the_samples_say_something_is_foreseen(kinds: list[str]) -> None:
    with TraceStore(":memory:") as store:
        run = StoredRun(store)
        for samples in kinds:
            run.problem(samples=samples)
        report = build_report(store)
    for panel in report.panels:
        for curve in panel.curves:
            values = [point.value for point in curve.rescued]
            assert values == sorted(values)
            assert all(
                0 <= p.low <= p.value + 1e-9 and p.value <= p.high + 1e-9 for p in curve.rescued
            )
            assert all(map(math.isfinite, curve.tokens))


# Curves


def test_a_curve_tells_what_a_limit_for_each_problem_would_rescue(store: TraceStore) -> None:
    run = StoredRun(store, policy_hash=POLICY.content_hash)
    run.problem(tried=[("retry", "rescued", 100)])
    run.problem(tried=[("retry", "failed", 100), ("dense_steer", "rescued", 200)])
    run.problem(tried=[("retry", "failed", 500)])
    panel = build_report(store, policy=POLICY).panels[0]
    curve = panel.curves[0]
    assert (curve.source, curve.active) == ("observed", True)
    points = dict(zip(curve.tokens, [e.value for e in curve.rescued], strict=True))
    assert points[0.0] == 0.0
    assert points[100.0] == pytest.approx(1 / 3)  # 100 each
    assert curve.tokens[-1] == pytest.approx(900 / 3)
    assert curve.rescued[-1].value == pytest.approx(2 / 3)


def test_curves_of_policies_on_different_problems_are_said_to_be_no_comparison(
    store: TraceStore,
) -> None:
    for name in ("one", "two"):
        run = StoredRun(store, name, policy_hash=name * 5 + "0")
        run.problem(tried=[("retry", "failed", 10)])
    panel = build_report(store).panels[0]
    assert len([c for c in panel.curves if c.source == "observed"]) == 2
    assert "no comparison" in panel.note


# Rescue, calibration, drift


def test_rescue_is_counted_by_the_regime_at_the_choice_and_by_what_was_carried_out(
    store: TraceStore,
) -> None:
    run = StoredRun(store)
    run.problem(tried=[("retry", "rescued", 10)], regime="sampling")
    run.problem(tried=[("retry", "failed", 10), ("dense_steer", "unscored", 9)], regime="sampling")
    run.problem(tried=[("dense_steer", "rescued", 30)], regime="steerable_hard")
    rows = {(r.regime, r.operator): r for r in build_report(store).rescue}
    assert (rows["sampling", "retry"].rescued, rows["sampling", "retry"].attempts) == (1, 2)
    assert rows["sampling", "retry"].per_rescue == 20
    assert ("sampling", "dense_steer") not in rows  # unscored: nobody knows
    assert rows["all", "dense_steer"].attempts == 1


def test_predictions_that_come_true_are_called_so_and_others_are_not(store: TraceStore) -> None:
    rng = np.random.default_rng(0)
    run = StoredRun(store)
    for i in range(400):
        chance = [0.1, 0.5][i % 2]
        outcome = "rescued" if rng.random() < chance else "failed"
        run.problem(tried=[("retry", outcome, 10)], expected=[chance])
    good = build_report(store).calibration
    assert good.error < 0.06
    assert sum(one.count for one in good.attempts) == 400
    for one in good.attempts:
        assert one.observed.low - 0.03 <= one.predicted <= one.observed.high + 0.03
    for _ in range(400):
        run.problem(tried=[("retry", "failed", 10)], expected=[0.9])
    assert build_report(store).calibration.error > 0.3


def test_a_stop_is_checked_by_what_retry_alone_rescued_there(store: TraceStore) -> None:
    run = StoredRun(store)
    for i in range(20):
        run.problem(tried=[("retry", "failed", 10)], stop_chance=0.03, retry=(i < 2, 50))
    run.problem(stop_chance=0.04)
    made = build_report(store).calibration
    assert (made.stopped, made.stop_checked) == (21, 20)
    assert made.stop_missed.value == pytest.approx(0.1)
    assert made.stop_chance == pytest.approx((20 * 0.03 + 0.04) / 21)
    assert made.stops[0].predicted == pytest.approx(0.03)


def test_drift_is_flagged_where_the_newest_failures_lie_off_the_reference(
    store: TraceStore,
) -> None:
    cell, moments = next(iter(POLICY.cells.items()))
    model, task = cell.split("|")
    run = StoredRun(store, model=model)
    rng = np.random.default_rng(0)
    reference = POLICY.cell_moments(cell)

    def failures(n: int, shift: float) -> None:
        for _ in range(n):
            drawn = tuple(
                reference[name].mean + reference[name].sd * (rng.normal() + shift * (i == 1))
                for i, name in enumerate(moments)
            )
            run.problem(task=task, features=drawn)

    failures(200, 0.0)
    calm = build_report(store, policy=POLICY).drift[0]
    assert calm.flagged == ()
    assert len(calm.starts) == len(calm.counts) == 12
    failures(100, 2.0)
    moved = build_report(store, policy=POLICY).drift[0]
    assert moved.flagged == (moved.features[1],)
    assert "refit" in moved.note


@pytest.mark.slow
def test_drift_is_seldom_flagged_by_chance(store: TraceStore) -> None:
    cell, _ = next(iter(POLICY.cells.items()))
    model, task = cell.split("|")
    reference = POLICY.cell_moments(cell)
    rng = np.random.default_rng(0)
    flagged = 0
    for i in range(60):
        run = StoredRun(store, f"run{i}", model=model)
        for _ in range(4 if i % 2 else 12):
            run.problem(
                task=task, features=tuple(m.mean + m.sd * rng.normal() for m in reference.values())
            )
        flagged += bool(build_report(store, policy=POLICY, run=f"run{i}").drift[0].flagged)
    assert flagged <= 5


def test_models_that_the_policy_does_not_know_are_compared_with_themselves(
    store: TraceStore,
) -> None:
    run = StoredRun(store, model="nobody knows me")
    for i in range(30):
        run.problem(features=(0.1 * i, 1.0, -2.0))
    report = build_report(store, policy=POLICY)
    assert "fitted on no failure of nobody knows me" in report.notes[0]
    assert "themselves" in report.maps[0].reference
    z = np.array(report.maps[0].z)
    assert z.mean(axis=1) == pytest.approx(np.zeros(3), abs=1e-3)
    assert z.std(axis=1) == pytest.approx([1, 0, 0], abs=1e-3)
    assert report.drift[0].flagged == ()


# Selection, empty stores


def test_an_empty_store_has_a_report(store: TraceStore) -> None:
    report = build_report(store)
    assert (report.problems, report.failed, report.panels, report.maps) == (0, 0, (), ())
    assert report.calibration.error is None
    assert all(figure.estimate.value in (None, 0.0) for figure in report.headline)


def test_a_store_without_a_failure_has_a_report(store: TraceStore) -> None:
    StoredRun(store).problem(samples="pppp")
    report = build_report(store)
    assert (report.problems, report.failed, report.cases) == (1, 0, ())


def test_only_one_run_is_reported_where_asked_for(store: TraceStore) -> None:
    StoredRun(store, "one").problem(key="a")
    StoredRun(store, "two").problem(key="b", tried=[("retry", "rescued", 1)])
    report = build_report(store, run="two")
    assert [run.id for run in report.runs] == ["two"]
    assert (report.failed, [case.key for case in report.cases]) == (1, ["b"])
    with pytest.raises(StoreError, match="no run 'three'"):
        build_report(store, run="three")


def test_a_problem_that_is_asked_for_comes_first(store: TraceStore) -> None:
    run = StoredRun(store)
    for i in range(40):
        run.problem(key=f"k{i}", tried=[("retry", "failed", 100 - i)])
    run.problem(key="mine", samples="pppp")
    report = build_report(store, case="mine")
    assert report.cases[0].key == "mine"
    assert report.cases[0].outcome == "solved at first"
    assert len(report.cases) <= 21
    with pytest.raises(StoreError, match="no problem 'yours'"):
        build_report(store, case="yours")


@pytest.mark.parametrize("store_text", ["hash", "none"])
def test_texts_that_are_not_stored_are_not_shown(tmp_path: Path, store_text: str) -> None:
    with TraceStore(tmp_path / "t.db", store_text=store_text) as store:
        StoredRun(store).problem(tried=[("retry", "failed", 10)], prompt="secret", texts=["secret"])
        case = build_report(store).cases[0]
    assert (case.prompt, case.expected) == (None, None)
    for attempt in case.attempts:
        assert (attempt.text, attempt.answer, attempt.explanation) == (None, None, None)
    assert "secret" not in repr(case)


def test_texts_can_be_left_out(store: TraceStore) -> None:
    StoredRun(store).problem(tried=[("retry", "failed", 10)], prompt="secret", texts=["secret"])
    assert "secret" in repr(build_report(store).cases)
    assert "secret" not in repr(build_report(store, texts=False).cases)


def test_a_tape_has_a_panel_of_policies(tmp_path: Path, pair: EmbeddedPair) -> None:
    problems = [p for p in bundled_problems() if p.task == "product"][:12]
    with TraceStore(tmp_path / "tape.db") as store:
        record(pair, as_verifier("numeric"), problems, store, settings=Settings(2, 2, 0.6, 160, 0))
        report = build_report(store)
    assert report.failed == 0
    panel = report.panels[0]
    assert panel.title == "Recorded attempts"
    assert {c.source for c in panel.curves} == {"recorded"}
    assert [c.name for c in panel.curves][:2] == ["the active policy", "retry alone"]
    for curve in panel.curves:
        assert list(curve.tokens) == sorted(curve.tokens)
    assert set(report.maps[0].outcome) == {"recorded"}


@pytest.mark.parametrize("attempts", [2, 12])
@pytest.mark.slow
def test_a_short_tape_makes_no_policy_look_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    rng = np.random.default_rng(0)
    with TraceStore(tmp_path / "tape.db") as store:
        run = StoredRun(store, kind="record", model="embedded")
        for _ in range(150):
            name = run.problem(ended="")
            profile = dict.fromkeys(("prompt_tokens", "completion_tokens", "scoring_tokens"), 10)
            features = {"spread": 0.5, "concentration": 1.0, "logit_dispersion": -1.0}
            store.write(
                profiles=[
                    {"id": name, "failed_samples": 4, "feature_version": FEATURE_VERSION}
                    | profile
                    | features
                ],
                tape=[
                    {
                        "id": f"{name}/{operator}/{position}",
                        "problem_id": name,
                        "operator": operator,
                        "position": position,
                        "seed": 0,
                        "passed": int(rng.random() < 0.2),
                        "tokens": 50,
                    }
                    for operator in ("retry", "dense_steer", "sparse_steer", "local_temp")
                    for position in range(attempts)
                ],
            )
        panel = build_report(store).panels[0]
    ends = {curve.name: curve.rescued[-1] for curve in panel.curves}
    alone, turns = ends["retry alone"], ends["one operator after the other"]
    assert f"{min(8, attempts)} at most" in panel.note
    assert abs(alone.value - turns.value) < 0.1


def test_a_run_that_goes_on_does_not_disturb_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TraceStore(tmp_path / "t.db") as store, TraceStore(tmp_path / "t.db") as writer:
        run = StoredRun(writer)
        run.problem(tried=[("retry", "failed", 10)])
        rows = TraceStore.rows

        def meanwhile(self: TraceStore, sql: str, parameters: Any = ()) -> list[Any]:
            found = rows(self, sql, parameters)
            if "FROM problem " in sql:
                run.problem(tried=[("retry", "failed", 10)])
            return found

        monkeypatch.setattr(TraceStore, "rows", meanwhile)
        report = build_report(store)
    assert (report.failed, report.rescue[0].attempts) == (1, 1)


# A real run


@pytest.fixture(scope="module")
def ran(demo: Demo) -> Iterator[Ran]:
    with TraceStore(demo.path) as store:
        yield store, summary(demo.batch)


def test_a_report_agrees_with_the_table_of_the_run(ran: Ran) -> None:
    store, figures = ran
    report = build_report(store)
    made = by_name(report)
    assert report.problems == figures["problems"]
    assert report.failed == figures["failed"] > 5
    assert made["rescued"].total == figures["rescued"]
    assert made["stopped"].total == figures["stopped"]
    assert made["tokens"].total == figures["recovery_tokens"]
    retry = next(c for c in report.panels[0].curves if c.source == "measured")
    assert retry.rescued[-1].value == pytest.approx(
        figures["retry_alone"]["rescued"] / figures["failed"]
    )
    attempts = {
        r.operator: (r.attempts, r.rescued)
        for r in report.rescue
        if r.regime == report.rescue[-1].regime
    }
    for operator, row in attempts.items():
        table = [
            one["by_intervention"].get(operator, {"attempts": 0, "rescues": 0})
            for one in figures["by_regime"].values()
        ]
        if report.rescue[-1].regime == "all":
            assert row == (sum(t["attempts"] for t in table), sum(t["rescues"] for t in table))


def test_every_failure_of_a_local_run_is_on_the_map(ran: Ran) -> None:
    store, figures = ran
    one = build_report(store).maps[0]
    assert (len(one.key), one.unmeasured) == (figures["failed"], 0)
    assert {len(column) for column in (*one.z, *one.raw, one.route, one.outcome)} == {len(one.key)}


def test_cases_hold_strips_whose_tokens_spell_the_text(ran: Ran) -> None:
    store, _ = ran
    for case in build_report(store).cases:
        texts = {attempt.position: attempt.text for attempt in case.attempts}
        assert case.strips
        for strip in case.strips:
            assert "".join(strip.pieces) == texts[strip.position]
            assert strip.pressure[strip.junction] == max(strip.pressure)
