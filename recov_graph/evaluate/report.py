"""The comparison of policies as plain data, as `recov-graph evaluate --json` writes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recov_graph.errors import InvalidInputError
from recov_graph.evaluate.bench import Bench
from recov_graph.evaluate.compare import (
    GROUPS,
    REFERENCES,
    Group,
    Plans,
    Scored,
    Split,
    difference,
    groups,
    scored,
    splits,
)
from recov_graph.evaluate.plans import FIXED, NAMES
from recov_graph.evaluate.scoring import Bootstrap, Interval
from recov_graph.evaluate.shared import shared_differences, shared_scores
from recov_graph.evaluate.stopping import stopping

MOST_BUDGET = 64.0  # units for each problem
UNDER_NULL = ("retry", "best_fixed_per_cell", "rule_repeat", "posterior")
DIGITS = 6
Progress = Callable[[str], None]


def evaluate(
    bench: Bench,
    *,
    budgets: Sequence[float],
    seed: int = 0,
    leave_cell_out: bool = False,
    shared: bool = False,
    progress: Progress = lambda what: None,
) -> dict[str, Any]:
    """Compare all policies, each trained on other problems than it is scored on.

    Args:
        bench: the problems, from `bench_of_profiles` or `bench_of_tape`.
        budgets: units for each problem, above 0 and at most 64; whole numbers where a unit is an
            attempt, unless they are shared.
        seed: of folds, random policies, draws of attempts and bootstraps; equal seeds repeat.
        leave_cell_out: learn from the other cells instead of from four fifths of each.
        shared: one budget over all problems of a cell, instead of one for each problem.
        progress: is told what comes next.

    Returns:
        what can be written as JSON: no NaN, null where nothing can be said.

    Raises:
        InvalidInputError: a budget that is not legal, or too few problems or cells.
    """
    budgets = checked_budgets(budgets, whole=bench.passed is None and not shared)
    stream = seed % 2**64  # a seed may be negative, numpy's may not
    folds = splits(bench, np.random.default_rng([stream, 0]), leave_cell_out=leave_cell_out)
    made = {
        **_about(bench),
        "budgets": [_key(budget) for budget in budgets],
        "seed": seed,
        "split": "leave_cell_out" if leave_cell_out else "five_folds",
    }
    if shared:
        made.update(_shared(bench, folds, budgets, stream, progress))
    else:
        made.update(_each(bench, folds, budgets, stream, progress))
    return dict(_plain(made))


def checked_budgets(budgets: Sequence[float], *, whole: bool) -> tuple[float, ...]:
    """The budgets in rising order, each once.

    Raises:
        InvalidInputError: none, or one that is not legal.
    """
    if not budgets:
        raise InvalidInputError("no budget; give at least one number above 0")
    for budget in budgets:
        if not 0 < budget <= MOST_BUDGET:  # NaN too
            raise InvalidInputError(
                f"a budget is {budget:g}; it must be above 0 and at most {MOST_BUDGET:g} units"
            )
        if whole and budget != int(budget):
            raise InvalidInputError(
                f"a budget is {budget:g}; where only rescue rates are known it counts attempts at "
                "each problem and must be a whole number, unless all problems share it"
            )
    return tuple(sorted({float(budget) for budget in budgets}))


def _about(bench: Bench) -> dict[str, Any]:
    cells = {}
    for index, name in enumerate(bench.outcomes.cells):
        labels = bench.regimes[bench.cell == index].tolist()
        cells[name] = {
            "problems": len(labels),
            "regimes": {label: labels.count(label) for label in sorted(set(labels))},
        }
    return {
        "source": bench.source,
        "problems": len(bench),
        "operators": list(bench.operators),
        "attempts": None if bench.passed is None else bench.passed.shape[2],
        "unit": {"of": "attempts" if bench.tokens is None else "tokens", "size": bench.unit},
        "cells": cells,
    }


def _each(
    bench: Bench,
    folds: Sequence[Split],
    budgets: Sequence[float],
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """A budget for each problem."""
    bootstrap = Bootstrap(bench.cell, seed)
    plans = Plans(bench, folds, _length(bench, budgets), seed)
    scores = _scores(plans, NAMES, budgets, seed, progress)
    fixed: dict[str, Scored] = {}
    if bench.passed is not None:
        named = [f"{FIXED}{operator}" for operator in bench.operators]
        fixed = _scores(plans, named, budgets, seed, progress)
    kinds = groups(bench)
    progress("intervals")
    cells = _about(bench)["cells"]
    for index, name in enumerate(bench.outcomes.cells):
        only = _only(kinds, bench.cell == index)
        cells[name]["policies"] = _rescues(bootstrap, only, scores, budgets)
    made = {
        "policies": _rescues(bootstrap, kinds, scores, budgets),
        "cells": cells,
        "differences": _differences(bootstrap, kinds, scores, fixed, budgets),
        "features": _gain(
            bootstrap, kinds, scores["posterior"], scores["posterior_no_features"], budgets
        ),
    }
    if fixed:
        rows = {name.removeprefix(FIXED): score for name, score in fixed.items()}
        made["fixed"] = _rescues(bootstrap, kinds, rows, budgets)
    progress("stopping")
    made["stopping"] = stopping(bench, folds, plans, bootstrap)
    made["null"] = _null(bench, folds, budgets, seed, bootstrap, progress)
    return made


def _shared(
    bench: Bench,
    folds: Sequence[Split],
    budgets: Sequence[float],
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """One budget over all problems of a cell."""
    scores = shared_scores(bench, folds, budgets, seed, progress)
    rescues: dict[str, Any] = {name: {"all": {}} for name in scores}
    gains: dict[str, Any] = {name: {} for name in scores}
    for index, budget in enumerate(budgets):
        for name, score in scores.items():
            rescues[name]["all"][_key(budget)] = _interval("rescue", score.interval(index))
        for name, others in shared_differences(scores, index).items():
            for other, gain in others.items():
                row = gains[name].setdefault(other, {"all": {}})
                row["all"][_key(budget)] = _interval("difference", gain)
    return {"shared": rescues, "shared_differences": gains}


def _length(bench: Bench, budgets: Sequence[float]) -> int:
    """Attempts to plan for: where tokens are counted, cheap ones go on for longer."""
    most = math.ceil(max(budgets))
    return most if bench.passed is None else max(8, min(2 * most, int(MOST_BUDGET)))


def _scores(
    plans: Plans, names: Sequence[str], budgets: Sequence[float], seed: int, progress: Progress
) -> dict[str, Scored]:
    made = {}
    for name in names:
        progress(name)
        made[name] = scored(plans, name, budgets, seed)
    return made


def _null(
    bench: Bench,
    folds: Sequence[Split],
    budgets: Sequence[float],
    seed: int,
    bootstrap: Bootstrap,
    progress: Progress,
) -> dict[str, Any]:
    """The same with operator names shuffled inside each problem, labels and learning included.

    What is still gained there is gained by the way of measuring, not by routing.
    """
    shuffled = bench.shuffled(np.random.default_rng([seed, 3]))
    plans = Plans(shuffled, folds, _length(bench, budgets), seed)
    scores = {}
    for name in UNDER_NULL:
        progress(f"{name}, names shuffled")
        scores[name] = scored(plans, name, budgets, seed)
    kinds = groups(shuffled)
    return {
        "policies": _rescues(bootstrap, kinds, scores, budgets),
        "differences": _differences(bootstrap, kinds, scores, {}, budgets),
    }


def _only(kinds: Mapping[str, Group], rows: NDArray[np.bool_]) -> dict[str, Group]:
    return {name: Group(group.weights * rows, group.of) for name, group in kinds.items()}


def _rescues(
    bootstrap: Bootstrap,
    kinds: Mapping[str, Group],
    scores: Mapping[str, Scored],
    budgets: Sequence[float],
) -> dict[str, Any]:
    """By policy, group and budget: the share rescued with its interval, and what is spent."""
    made: dict[str, Any] = {}
    for name, score in scores.items():
        made[name] = {}
        for kind in GROUPS:
            group = kinds[kind]
            of = group.of(score)
            made[name][kind] = {
                _key(budget): {
                    **_interval("rescue", bootstrap.mean(of.rescue[:, index], group.weights)),
                    "cost": bootstrap.mean(of.cost[:, index], group.weights).value,
                }
                for index, budget in enumerate(budgets)
            }
    return made


def _differences(
    bootstrap: Bootstrap,
    kinds: Mapping[str, Group],
    scores: Mapping[str, Scored],
    fixed: Mapping[str, Scored],
    budgets: Sequence[float],
) -> dict[str, Any]:
    """By policy and reference; of the posterior also from each operator repeated alone."""
    made: dict[str, Any] = {}
    for name, score in scores.items():
        others = {other: scores[other] for other in REFERENCES if other in scores and other != name}
        if name == "posterior":
            others = {**others, **fixed}
        made[name] = {
            other: _gain(bootstrap, kinds, score, reference, budgets)
            for other, reference in others.items()
        }
    return made


def _gain(
    bootstrap: Bootstrap,
    kinds: Mapping[str, Group],
    one: Scored,
    other: Scored,
    budgets: Sequence[float],
) -> dict[str, Any]:
    return {
        kind: {
            _key(budget): _interval(
                "difference", difference(bootstrap, kinds[kind], one, other, index)
            )
            for index, budget in enumerate(budgets)
        }
        for kind in GROUPS
    }


def _key(budget: float) -> str:
    return f"{budget:g}"


def _interval(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, "low": interval.low, "high": interval.high}


def _plain(value: Any) -> Any:
    """Without what JSON cannot say, and without digits that mean nothing."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(float(value), DIGITS) if math.isfinite(value) else None
    return value
