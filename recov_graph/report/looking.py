"""Problems worth a closer look: the most expensive, and the unsolved that looked most hopeful."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from recov_graph.errors import StoreError
from recov_graph.report.content import AttemptRow, Case, DecisionRow
from recov_graph.report.reading import Columns, Problems
from recov_graph.report.statistics import Floats, Ints
from recov_graph.store import TraceStore
from recov_graph.strips import problem_repairs, problem_strips

MOST_CASES = 10  # of each kind
WORDLESS: dict[str, Any] = dict.fromkeys(("kept", "failed", "repaired"))


def cases(
    problems: Problems, decisions: Columns, store: TraceStore, wanted: str | None, *, texts: bool
) -> tuple[Case, ...]:
    """The cases, the most expensive first.

    Args:
        problems: of the report.
        decisions: on them.
        store: that they are in.
        wanted: the user's id of a problem that must be among them, or None.
        texts: whether texts are in them where they are stored.

    Raises:
        StoreError: no problem has that id.
    """
    why: dict[int, list[str]] = {}
    for row in _asked_for(problems, store, wanted):
        why.setdefault(row, []).append("asked for")
    lost, hope = np.flatnonzero(problems.lost), _hope(problems, decisions)
    for row in _first(problems, lost[np.argsort(-problems.tokens[lost], kind="stable")]):
        why.setdefault(row, []).append("expensive")
    unsolved = lost[~problems.rescued[lost]]
    for row in _first(problems, unsolved[np.argsort(-hope[unsolved], kind="stable")]):
        why.setdefault(row, []).append("unsolved")
    order = sorted(why, key=lambda row: ("asked for" not in why[row], -problems.tokens[row]))
    return tuple(_case(problems, row, tuple(why[row]), store, texts) for row in order)


def _asked_for(problems: Problems, store: TraceStore, wanted: str | None) -> list[int]:
    if wanted is None:
        return []
    found = np.flatnonzero(np.isin(problems.key, list(store.keys(wanted))))
    if not len(found):
        raise StoreError(f"{store.path} has no problem {wanted!r}; `recov-graph show` lists them")
    return [int(row) for row in found[-MOST_CASES:]]


def _hope(problems: Problems, decisions: Columns) -> Floats:
    """Float [P]: the chance of a rescue that the first decision expected; 0 without one."""
    first = decisions.numbers("step") == 0
    ids, chances = decisions.texts("problem_id")[first], decisions.numbers("expected_rescue")[first]
    expected = dict(zip(ids, chances, strict=True))
    return np.array([expected.get(name, 0.0) for name in problems.id], float)


def _first(problems: Problems, rows: Ints) -> list[int]:
    """The first rows, each problem once however often it was run."""
    found: dict[int, int] = {}
    for row in rows.tolist():
        found.setdefault(int(problems.cluster[row]), row)
        if len(found) == MOST_CASES:
            break
    return list(found.values())


def _case(
    problems: Problems, row: int, why: tuple[str, ...], store: TraceStore, texts: bool
) -> Case:
    problem = str(problems.id[row])
    stored = store.query(
        "SELECT prompt, answer, store_text FROM problems JOIN runs ON runs.id = run_id "
        "WHERE problems.id = ?",
        [problem],
    )[0]
    # Where texts were not kept, what looks like one is a hash.
    kept = texts and stored["store_text"] == "full"
    strips, repairs = problem_strips(store, problem), problem_repairs(store, problem)
    if not kept:
        strips = [replace(strip, pieces=None) for strip in strips]
        repairs = [replace(repair, **WORDLESS) for repair in repairs]
    decisions = store.problem_decisions(problem)
    steps = {decision["id"]: decision["step"] for decision in decisions}
    return Case(
        problem=problem,
        key=str(problems.key[row]),
        model=str(problems.model[row]),
        task=str(problems.task[row]),
        why=why,
        outcome=_outcome(problems, row),
        regime=decisions[0]["regime"] if decisions else "",
        tokens=int(problems.tokens[row]),
        prompt=stored["prompt"] if kept else None,
        expected=_expected(stored["answer"]) if kept else None,
        attempts=tuple(
            _attempt(one, steps.get(one["decision_id"]), kept)
            for one in store.problem_attempts(problem)
        ),
        decisions=tuple(
            DecisionRow(
                one["step"],
                one["regime"],
                one["operator"],
                one["expected_rescue"],
                one["reason"] if kept else None,
            )
            for one in decisions
        ),
        strips=tuple(strips),
        repairs=tuple(repairs),
    )


def _outcome(problems: Problems, row: int) -> str:
    first = problems.routed[row] and not problems.failed[row] and problems.solved[row]
    return "solved at first" if first else str(problems.outcome[row])


def _expected(answer: str | None) -> str:
    """The answer as it was given; it is stored as JSON."""
    if answer is None:
        return "(none given)"
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):  # whoever wrote the file wrote something else
        return answer
    return value if isinstance(value, str) else answer


def _attempt(row: dict[str, Any], step: int | None, kept: bool) -> AttemptRow:
    return AttemptRow(
        row["position"],
        step,
        row["operator"],
        row["value"] or "not judged",
        row["explanation"] if kept else None,
        row["answer"] if kept else None,
        row["tokens"],
        row["text"] if kept else None,
    )
