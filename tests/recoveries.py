"""What tests of recoveries that are paused, resumed, rewound or part of another graph share."""

from __future__ import annotations

from itertools import pairwise

from langgraph.graph import END, START, StateGraph

from recov_graph import create_recovery_graph
from recov_graph.routing import Candidate, Decision

QUESTION = {"problem": {"prompt": "6*7?", "answer": 42, "id": "q"}}
SAMPLES = ["40", "41", "43", "44"]
THREAD = {"configurable": {"thread_id": "1"}}


class Ranked:
    """A router that wants the first possible of these, and knows of the others."""

    name = "ranked"
    content_hash = "0" * 16

    def __init__(self, *names):
        self.names = names

    def decide(self, evidence):
        possible = [name for name in self.names if name in evidence.costs]
        if not possible:
            return Decision(None, "out_of_reach", 1.0, 0.0, (), "none of them is possible")
        candidates = tuple(Candidate(name, None, 0.5, evidence.costs[name]) for name in possible)
        return Decision(possible[0], "sampling", 1.0, 0.5, candidates, "ranked")


def recovery(model, *ranked, verifier="numeric", **options):
    """A recovery graph that tries these, in this order of preference."""
    options = {"interventions": ranked, "router": Ranked(*ranked), "seed": 0, **options}
    return create_recovery_graph(model, verifier, **options)


def parent_of(schema, nodes, *, checkpointer=None, **options):
    """A graph of these nodes, one after the other."""
    builder = StateGraph(schema, **options)
    for name, node in nodes.items():
        builder.add_node(name, node)
    names = [START, *nodes, END]
    for before, after in pairwise(names):
        builder.add_edge(before, after)
    return builder.compile(checkpointer=checkpointer)


def questions(result):
    """What a person is asked, where a graph has paused."""
    return [interrupt.value for interrupt in result.get("__interrupt__", ())]


def methods(model):
    """What a scripted model was asked for, in order."""
    return [call.method for call in model.calls]


def assert_stored(store, *results):
    """The store holds the problems of these results, each once and just as it ended."""
    assert len(store.query("SELECT id FROM problems")) == len(results)
    assert len(store.query("SELECT id FROM outcomes")) == len(results)
    assert store.query("PRAGMA foreign_key_check") == []
    for result in results:
        assert_stored_problem(store, result["attempts"][0]["id"].partition("/")[0], result)
    for table, many in (("rollouts", "attempts"), ("decisions", "route")):
        assert len(store.query(f"SELECT id FROM {table}")) == sum(len(r[many]) for r in results)


def assert_stored_problem(store, problem_id, result):
    """One problem's rows are those of its result: nothing is missing, doubled or left over."""
    (row,) = store.query("SELECT * FROM outcomes WHERE id = ?", [problem_id])
    assert (row["solved"], row["stop_reason"]) == (result["solved"], result["stop_reason"])
    assert row["attempts"] == len(result["attempts"])
    stored = [
        (one["id"], one["operator"], one["text"], one["value"])
        for one in store.problem_attempts(problem_id)
    ]
    assert stored == [
        (one["id"], one["operator"], one["text"], one["verdict"]["value"])
        for one in result["attempts"]
    ]
    decisions = store.problem_decisions(problem_id)
    assert [(one["id"], one["operator"]) for one in decisions] == [
        (one["id"], one["operator"]) for one in result["route"]
    ]
    later = [one["id"] for one in result["attempts"] if one["operator"] != "sample"]
    of_rollouts = "SELECT t.id FROM {} t JOIN rollouts USING (id) WHERE problem_id = ? ORDER BY 1"
    intervened = store.query(of_rollouts.format("interventions"), [problem_id])
    assert [one["id"] for one in intervened] == sorted(later)
    measured = "spread" in (result["features"] or {})
    failed = [
        one["id"]
        for one in result["attempts"]
        if one["operator"] == "sample" and one["verdict"]["value"] == "failed"
    ]
    for table in ("features", "token_arrays"):
        rows = store.query(of_rollouts.format(table), [problem_id])
        assert [one["id"] for one in rows] == (failed if measured else []), table
    (spent,) = store.query(
        "SELECT sum(prompt_tokens) prompt_tokens, sum(completion_tokens) completion_tokens, "
        "sum(scored_tokens) scored_tokens FROM calls WHERE problem_id = ?",
        [problem_id],
    )
    assert spent == {name: result["usage"][name] for name in spent}
