"""What policies are compared on: failed problems with the outcomes of every operator."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recov_graph.errors import TapeError
from recov_graph.features import FEATURES, ProblemFeatures
from recov_graph.interventions import registered
from recov_graph.models.base import Capability
from recov_graph.profiles import RATE_ATTEMPTS, read_profiles
from recov_graph.regimes import regime_label
from recov_graph.routing.decision import Evidence
from recov_graph.routing.outcomes import Floats, Outcomes
from recov_graph.routing.policy import cell_name
from recov_graph.tape import TapeProblem
from recov_graph.words import count

HALVES = (0, 1)  # even and odd attempts


@dataclass(frozen=True)
class Bench:
    """N failed problems, O operators.

    Attributes:
        source: where they come from, in words.
        outcomes: all that is known, as a posterior is fitted on it.
        models: each cell's model.
        tasks: each cell's task.
        rates: float [N, O], measured rescue rates.
        passed: bool [N, O, n], the attempts behind the rates, or None where only rates are known.
        tokens: int [N, O, n], what each attempt cost, or None.
        costs: int [N, O], what an attempt is expected to cost; 1 where only rates are known.
        scoring: int [N], tokens that measuring the features costs.
        repairs: bool [O], whether an operator needs a measured trace.
        unit: what one unit of budget is: one attempt, or the tokens that a retry costs on average.
    """

    source: str
    outcomes: Outcomes
    models: tuple[str, ...]
    tasks: tuple[str, ...]
    rates: Floats
    passed: NDArray[np.bool_] | None
    tokens: NDArray[np.int64] | None
    costs: NDArray[np.int64]
    scoring: NDArray[np.int64]
    repairs: NDArray[np.bool_]
    unit: float

    def __len__(self) -> int:
        return len(self.outcomes)

    @property
    def operators(self) -> tuple[str, ...]:
        """O names."""
        return self.outcomes.operators

    @property
    def cell(self) -> NDArray[np.int64]:
        """Int [N], each problem's cell."""
        return self.outcomes.cell

    @property
    def regimes(self) -> NDArray[np.str_]:
        """Regimes from everything that is known: to describe problems, not to score on them."""
        return self._labels(self.rates)

    @cached_property
    def labels(self) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
        """Regimes from the even attempts and from the odd ones; the same twice without attempts."""
        if self.passed is None:
            label = self._labels(self.rates)
            return label, label
        return (
            self._labels(self.passed[:, :, 0::2].mean(axis=2)),
            self._labels(self.passed[:, :, 1::2].mean(axis=2)),
        )

    def _labels(self, rates: Floats) -> NDArray[np.str_]:
        return np.array(
            [regime_label(dict(zip(self.operators, row, strict=True))) for row in rates.tolist()]
        )

    def shuffled(self, rng: np.random.Generator) -> Bench:
        """The same with operator names shuffled inside each problem: nothing left to route by.

        Outcomes and costs move together with the name; the unit of budgets stays.
        """
        order = rng.permuted(np.tile(np.arange(len(self.operators)), (len(self), 1)), axis=1)
        rows = np.arange(len(self))[:, None]
        outcomes = replace(
            self.outcomes,
            passed=self.outcomes.passed[rows, order],
            attempts=self.outcomes.attempts[rows, order],
        )
        return replace(
            self,
            outcomes=outcomes,
            rates=self.rates[rows, order],
            passed=None if self.passed is None else self.passed[rows, order],
            tokens=None if self.tokens is None else self.tokens[rows, order],
            costs=self.costs[rows, order],
        )

    def known(self, row: int, *, features: bool) -> Hashable:
        """All that a router is ever told about a problem: equal where two would be routed alike."""
        values = (*self.outcomes.features[row], *self.outcomes.rollout[row]) if features else ()
        return (
            int(self.cell[row]),
            str(self.outcomes.failed_samples[row]),  # a NaN equals another only in words
            tuple(self.costs[row].tolist()),
            int(self.scoring[row]),
            tuple(map(str, values)),
        )

    def evidence(
        self, row: int, *, attempts_left: int, tokens_left: float, measured: bool
    ) -> Evidence:
        """What a router is asked about a problem, before or after its features were measured."""
        index = int(self.cell[row])
        failed = self.outcomes.failed_samples[row]
        once = (
            {}
            if measured
            else {
                name: int(self.scoring[row])
                for name, repairs in zip(self.operators, self.repairs, strict=True)
                if repairs and self.scoring[row]
            }
        )
        return Evidence(
            model=self.models[index],
            task=self.tasks[index],
            features=self.outcomes.told(row, measured=measured),
            failed_samples=int(failed) if np.isfinite(failed) else 0,
            tried=[],
            costs=dict(zip(self.operators, self.costs[row].tolist(), strict=True)),
            attempts_left=attempts_left,
            tokens_left=tokens_left,
            once=once,
        )

    def measured(self, evidence: Evidence, row: int) -> Evidence:
        """The same evidence once the features of the problem are known."""
        known = self.evidence(row, attempts_left=0, tokens_left=0.0, measured=True)
        return replace(evidence, features=known.features, once={})


def bench_of_profiles(path: str | Path) -> Bench:
    """Recorded rescue rates: an attempt costs 1, and measuring costs nothing."""
    profiles = read_profiles(path)
    operators = tuple(profiles[0].rates)
    rates = np.array([[p.rates[name] for name in operators] for p in profiles])
    outcomes, models, tasks = _outcomes(
        operators,
        [(p.model, p.task) for p in profiles],
        [p.features for p in profiles],
        [np.nan if p.failed_samples is None else p.failed_samples for p in profiles],
        rates * RATE_ATTEMPTS,
        np.full(rates.shape, float(RATE_ATTEMPTS)),
    )
    return Bench(
        source=f"{count(len(profiles), 'failed problem')} of {Path(path).name}",
        outcomes=outcomes,
        models=models,
        tasks=tasks,
        rates=rates,
        passed=None,
        tokens=None,
        costs=np.ones(rates.shape, np.int64),
        scoring=np.zeros(len(rates), np.int64),
        repairs=np.zeros(len(operators), bool),
        unit=1.0,
    )


def bench_of_tape(tape: Sequence[TapeProblem], name: str) -> Bench:
    """Recorded attempts: every token is charged.

    Raises:
        TapeError: no retry, or too few attempts to label regimes on one half and score on the
            other.
    """
    order = [*registered(), *sorted(set(tape[0].attempts) - set(registered()))]
    operators = tuple(o for o in order if o in tape[0].attempts)
    n = min(len(p.attempts[o].passed) for p in tape for o in operators)
    if n < 2 or len(operators) < 2 or "retry" not in operators:
        raise TapeError(
            f"tape {name}: has {count(n, 'attempt')} of each of {', '.join(operators)}; comparing "
            "policies takes at least 2 attempts of retry and of one more operator"
        )
    passed = np.array([[p.attempts[o].passed[:n] for o in operators] for p in tape])
    tokens = np.array([[p.attempts[o].tokens[:n] for o in operators] for p in tape])
    outcomes, models, tasks = _outcomes(
        operators,
        [(p.model, p.task) for p in tape],
        [p.features for p in tape],
        [float(p.failed_samples) for p in tape],
        passed.sum(axis=2).astype(float),
        np.full(passed.shape[:2], float(n)),
    )
    known = registered()
    return Bench(
        source=f"{count(len(tape), 'failed problem')} of {name}, {n} attempts of each operator",
        outcomes=outcomes,
        models=models,
        tasks=tasks,
        rates=passed.mean(axis=2),
        passed=passed,
        tokens=tokens,
        costs=np.array([[p.costs()[o] for o in operators] for p in tape]),
        scoring=np.array([p.scoring_tokens for p in tape]),
        repairs=np.array([o in known and Capability.SCORE in known[o].needs for o in operators]),
        unit=float(tokens[:, operators.index("retry")].mean()),
    )


def _outcomes(
    operators: tuple[str, ...],
    cells: Sequence[tuple[str, str]],
    features: Sequence[ProblemFeatures | None],
    failed: Sequence[float],
    passed: Floats,
    attempts: Floats,
) -> tuple[Outcomes, tuple[str, ...], tuple[str, ...]]:
    names = sorted(set(cells))
    at: dict[Any, int] = {name: i for i, name in enumerate(names)}
    outcomes = Outcomes(
        operators=operators,
        cells=tuple(cell_name(*name) for name in names),
        cell=np.array([at[cell] for cell in cells], np.int64),
        features=np.array([[np.nan] * len(FEATURES) if f is None else list(f) for f in features]),
        failed_samples=np.array(failed, float),
        passed=passed,
        attempts=attempts,
    )
    return outcomes, tuple(m for m, _ in names), tuple(t for _, t in names)
