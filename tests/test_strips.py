"""What can be seen token by token: signals with the texts of tokens, and repairs by their bases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stories import add_attempt, add_problem, add_run, hard, trace

from recov_graph.budget import Budget
from recov_graph.errors import StoreError
from recov_graph.graph import create_recovery_graph
from recov_graph.models.embedded import EmbeddedPair, bundled_problems
from recov_graph.routing import default_policy
from recov_graph.store import TraceStore
from recov_graph.strips import Repair, problem_repairs, problem_strips


@pytest.fixture
def told(store: TraceStore) -> TraceStore:
    """A store with one failure."""
    add_run(store)
    hard(store)
    return store


def test_a_strip_holds_the_signals_and_the_texts_of_tokens(told: TraceStore) -> None:
    first, second = problem_strips(told, "hard")
    assert (first.rollout, first.position, first.junction) == ("hard/0", 0, 2)
    assert (second.rollout, second.position) == ("hard/1", 1)
    assert first.pieces == (*"x=1;A:13", "")
    assert len(first) == len(first.pressure) == len(first.path) == len(first.entropy) == 9
    assert first.pressure[2] == pytest.approx(6.0)
    assert first.pressure[0] == first.path[0] == pytest.approx(0.01)
    assert set(first.coverage) == {0.0}


def test_there_is_nothing_to_see_of_a_problem_that_was_not_measured(store: TraceStore) -> None:
    add_run(store)
    add_problem(store, "p")
    add_attempt(store, "p", 0, "x")
    assert problem_strips(store, "p") == problem_repairs(store, "p") == []
    assert problem_strips(store, "none") == problem_repairs(store, "none") == []


def test_a_repair_stands_beside_what_it_went_on_from(told: TraceStore) -> None:
    sparse, dense, local = problem_repairs(told, "hard")
    assert sparse == Repair(
        "hard/2", 2, "sparse_steer", "failed", 50, "hard/0", 2, "x=", "1;A:13", "9;A:99"
    )
    assert dense == Repair("hard/3", 3, "dense_steer", "failed", 50, None, None, None, None, "A:77")
    assert local == Repair(
        "hard/4", 4, "local_temp", "rescued", 50, "hard/1", 7, "x=2;A:1", "4", "2"
    )


def test_texts_tell_which_rollout_it_was_where_the_turn_does_not(told: TraceStore) -> None:
    def base(text: str, position: int, step: int) -> str | None:
        details = {"anchor": "replay", "position": position}
        add_attempt(told, "hard", 9, text, "local_temp", step=step, details=details)
        return problem_repairs(told, "hard")[-1].base

    assert base("x=2;B", 4, step=0) == "hard/1"  # though it was the turn of the first
    assert base("y=2;B", 4, step=0) is None
    assert base("y=2;B", 0, step=0) == "hard/0"
    assert base("y=2;B", 40, step=0) is None  # no rollout is as long


@pytest.mark.parametrize(
    "details",
    [None, {}, [], "x", {"anchor": "online", "position": 3}, {"anchor": "replay"}]
    + [{"anchor": "replay", "position": wrong} for wrong in (None, "3", True, -1, 2.0, [])],
)
def test_details_that_name_no_place_in_a_rollout_lead_to_none(
    told: TraceStore, details: Any
) -> None:
    add_attempt(told, "hard", 9, "x=1;", "own", step=4, details=details)
    repair = problem_repairs(told, "hard")[-1]
    assert (repair.base, repair.kept, repair.failed, repair.repaired) == (None, None, None, "x=1;")
    assert repair.at == (3 if isinstance(details, dict) and "online" in details.values() else None)


@pytest.mark.parametrize("pieces", [None, ["\ufffd", "\ufffd", "x", "y", ""]])
def test_pieces_that_do_not_spell_the_text_leave_what_texts_share(
    store: TraceStore, pieces: list[str] | None
) -> None:
    add_run(store)
    add_problem(store, "p")
    store.write_traces({add_attempt(store, "p", 0, "äxy"): trace("äxy", 2, pieces, 5)})
    details = {"anchor": "replay", "position": 3}
    add_attempt(store, "p", 1, "äxz", "local_temp", details=details)
    (repair,) = problem_repairs(store, "p")
    assert (repair.base, repair.kept, repair.failed, repair.repaired) == ("p/0", "äx", "y", "z")


@pytest.mark.parametrize("store_text", ["hash", "none"])
def test_no_hash_is_shown_for_a_text(tmp_path: Path, store_text: Any) -> None:
    with TraceStore(tmp_path / "t.db", store_text=store_text) as store:
        add_run(store)
        hard(store)
    with TraceStore(tmp_path / "t.db") as store:
        strips, repairs = problem_strips(store, "hard"), problem_repairs(store, "hard")
    assert [strip.pieces for strip in strips] == [None, None]
    assert len(strips[0]) == 9
    assert {(one.kept, one.failed, one.repaired) for one in repairs} == {(None, None, None)}
    assert {one.base for one in repairs} == {None}  # details are not kept either


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("UPDATE token_arrays SET signals = x'00'", "damaged"),
        ("UPDATE token_arrays SET length = 3", "hard/0"),
        ("UPDATE features SET junction = 9", "hard/0"),
        ("UPDATE token_arrays SET pieces = '[1'", "pieces"),
        ("UPDATE token_arrays SET pieces = '[]'", "9 pieces"),
    ],
)
def test_what_is_damaged_is_named(told: TraceStore, sql: str, words: str) -> None:
    told._engine.connection.execute(sql)
    with pytest.raises(StoreError, match=words):
        problem_strips(told, "hard")


def test_repairs_of_real_rollouts_start_as_their_bases_do(
    store: TraceStore, pair: EmbeddedPair
) -> None:
    graph = create_recovery_graph(
        pair,
        "numeric",
        store=store,
        router=default_policy().model_copy(update={"stop_below": 0.0}),
        interventions=["sparse_steer", "local_temp", "sparse_steer_random"],
        budget=Budget(max_attempts=8),
        seed=0,
    )
    for problem in bundled_problems()[:4]:
        graph.invoke({"problem": problem.model_dump()})
    texts = {row["id"]: row["text"] for row in store.query("SELECT id, text FROM rollouts")}
    problems = store.query("SELECT id FROM problems")
    repairs = [one for problem in problems for one in problem_repairs(store, problem["id"])]
    assert len(repairs) >= 4
    for one in repairs:
        turn = store.query(
            "SELECT step FROM interventions JOIN decisions ON decisions.id = decision_id "
            "WHERE interventions.id = ?",
            [one.attempt],
        )[0]["step"]
        strips = problem_strips(store, one.attempt.rpartition("/")[0])
        base = strips[turn % len(strips)]
        assert one.base == base.rollout
        assert base.pieces is not None
        assert one.kept == "".join(base.pieces[: one.at])
        assert f"{one.kept}{one.failed}" == texts[base.rollout]
        assert f"{one.kept}{one.repaired}" == texts[one.attempt]
