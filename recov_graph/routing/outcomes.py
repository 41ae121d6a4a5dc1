"""Outcomes of stored failures, as the columns that a posterior is fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recov_graph.errors import InvalidInputError
from recov_graph.features import FEATURES, ProblemFeatures
from recov_graph.rollout_features import ROLLOUT_FEATURES, Features, RolloutFeatures
from recov_graph.routing.policy import LEAST_SD, Moments, Names, Policy

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcomes:
    """N failed problems and what O operators did on them, whatever part of that is known.

    Attributes:
        operators: O names.
        cells: names of the cells of model and task.
        cell: int [N], each problem's index into `cells`.
        features: float [N, 3] in the order of FEATURES; NaN where not measured.
        failed_samples: float [N]; NaN where not known.
        passed: float [N, O], attempts that passed; may be fractions where only rates are known.
        attempts: float [N, O], attempts made; 0 where an operator was not tried.
        rollout: float [N, 4] in the order of ROLLOUT_FEATURES; NaN where there are none, as where
            there are `features`. By default NaN throughout.
    """

    operators: tuple[str, ...]
    cells: tuple[str, ...]
    cell: NDArray[np.int64]
    features: Floats
    failed_samples: Floats
    passed: Floats
    attempts: Floats
    rollout: Floats = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        n, o = len(self.cell), len(self.operators)
        if self.rollout is None:
            object.__setattr__(self, "rollout", np.full((n, len(ROLLOUT_FEATURES)), np.nan))
        shapes = {
            "features": (n, len(FEATURES)),
            "failed_samples": (n,),
            "passed": (n, o),
            "attempts": (n, o),
            "rollout": (n, len(ROLLOUT_FEATURES)),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise InvalidInputError(
                    f"{name} has shape {getattr(self, name).shape}; it must be {shape}, "
                    f"for {n} problems and {o} operators"
                )
        if n and (np.any(self.passed < 0) or np.any(self.passed > self.attempts + 1e-9)):
            raise InvalidInputError("passed must lie between 0 and attempts")
        if np.any(self.has(FEATURES) & self.has(ROLLOUT_FEATURES)):
            raise InvalidInputError("a problem has features or rollout features, never both")

    def __len__(self) -> int:
        return len(self.cell)

    def take(self, rows: Any) -> Outcomes:
        """Some of the problems, by index or mask."""
        return Outcomes(
            self.operators,
            self.cells,
            self.cell[rows],
            self.features[rows],
            self.failed_samples[rows],
            self.passed[rows],
            self.attempts[rows],
            self.rollout[rows],
        )

    def values(self, names: Names) -> Floats:
        """Float [N, F], the features of a set."""
        return self.features if names == FEATURES else self.rollout

    def has(self, names: Names) -> NDArray[np.bool_]:
        """Bool [N], whether the features of a set are known."""
        return np.asarray(np.isfinite(self.values(names)).all(axis=1), bool)

    def told(self, row: int, *, measured: bool) -> Features | None:
        """What a router is told of a problem's features, before or after they were measured."""
        if np.isfinite(self.rollout[row]).all():  # these cost nothing
            return RolloutFeatures(*self.rollout[row].tolist())
        if measured and np.isfinite(self.features[row]).all():
            return ProblemFeatures(*self.features[row].tolist())
        return None

    @property
    def failed(self) -> Floats:
        """Float [N, O], attempts that failed."""
        return np.maximum(self.attempts - self.passed, 0.0)


def cell_moments(
    outcomes: Outcomes, names: Names = FEATURES
) -> tuple[dict[str, Moments], dict[str, dict[str, Moments]]]:
    """Mean, standard deviation and count of each feature of a set, over all and by cell."""
    known, values = outcomes.has(names), outcomes.values(names)
    cells = {}
    for index, name in enumerate(outcomes.cells):
        rows = known & (outcomes.cell == index)
        if rows.any():
            cells[name] = _moments(values[rows], names)
    return _moments(values[known], names), cells


def _moments(values: Floats, names: Names) -> dict[str, Moments]:
    if not len(values):
        return {name: Moments(mean=0.0, sd=0.0, count=0) for name in names}
    return {
        name: Moments(
            mean=round(float(column.mean()), 6), sd=round(float(column.std()), 6), count=len(column)
        )
        for name, column in zip(names, values.T, strict=True)
    }


def z_scores(
    policy: Policy, cells: Sequence[str], cell: Any, features: Floats, names: Names = FEATURES
) -> Floats:
    """Float [N, F], features against each cell's shrunken moments; 0 where not measured.

    Args:
        policy: whose moments.
        cells: names of cells.
        cell: int [N], indices into `cells`.
        features: float [N, F]; NaN where not measured.
        names: which set they are of.
    """
    moments = [policy.cell_moments(name, names) for name in cells]
    mean = np.array([[m[f].mean for f in names] for m in moments]).reshape(-1, len(names))
    sd = np.array([[m[f].sd for f in names] for m in moments]).reshape(-1, len(names))
    z = (features - mean[cell]) / np.where(sd > LEAST_SD, sd, np.inf)[cell]
    known: Floats = np.nan_to_num(np.clip(z, -8, 8), nan=0.0)
    return known


def share_log_odds(failed: Any, most: Any) -> Any:
    """Log-odds of the share of samples that failed, were `most` of them the most ever to fail."""
    share = np.clip((np.asarray(failed, float) + 0.5) / (np.asarray(most, float) + 1.0), 0.01, 0.99)
    return np.log(share / (1.0 - share))


def most_failed(outcomes: Outcomes) -> Mapping[str, int]:
    """The most failed samples seen in each cell, where any are known."""
    most = {}
    for index, name in enumerate(outcomes.cells):
        known = outcomes.failed_samples[outcomes.cell == index]
        known = known[np.isfinite(known)]
        if len(known):
            most[name] = int(known.max())
    return most
