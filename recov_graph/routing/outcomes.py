"""Outcomes of stored failures, as the columns that a posterior is fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recov_graph.errors import InvalidInputError
from recov_graph.features import FEATURES
from recov_graph.routing.policy import LEAST_SD, Moments, Policy

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
    """

    operators: tuple[str, ...]
    cells: tuple[str, ...]
    cell: NDArray[np.int64]
    features: Floats
    failed_samples: Floats
    passed: Floats
    attempts: Floats

    def __post_init__(self) -> None:
        n, o = len(self.cell), len(self.operators)
        shapes = {
            "features": (n, len(FEATURES)),
            "failed_samples": (n,),
            "passed": (n, o),
            "attempts": (n, o),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise InvalidInputError(
                    f"{name} has shape {getattr(self, name).shape}; it must be {shape}, "
                    f"for {n} problems and {o} operators"
                )
        if n and (np.any(self.passed < 0) or np.any(self.passed > self.attempts + 1e-9)):
            raise InvalidInputError("passed must lie between 0 and attempts")

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
        )

    @property
    def failed(self) -> Floats:
        """Float [N, O], attempts that failed."""
        return np.maximum(self.attempts - self.passed, 0.0)


def cell_moments(outcomes: Outcomes) -> tuple[dict[str, Moments], dict[str, dict[str, Moments]]]:
    """Mean, standard deviation and count of each feature, over all and by cell."""
    known = np.isfinite(outcomes.features).all(axis=1)
    cells = {}
    for index, name in enumerate(outcomes.cells):
        rows = known & (outcomes.cell == index)
        if rows.any():
            cells[name] = _moments(outcomes.features[rows])
    return _moments(outcomes.features[known]), cells


def _moments(values: Floats) -> dict[str, Moments]:
    if not len(values):
        return {name: Moments(mean=0.0, sd=0.0, count=0) for name in FEATURES}
    return {
        name: Moments(
            mean=round(float(column.mean()), 6), sd=round(float(column.std()), 6), count=len(column)
        )
        for name, column in zip(FEATURES, values.T, strict=True)
    }


def z_scores(policy: Policy, cells: Sequence[str], cell: Any, features: Floats) -> Floats:
    """Float [N, 3], features against each cell's shrunken moments; 0 where not measured."""
    moments = [policy.cell_moments(name) for name in cells]
    mean = np.array([[m[f].mean for f in FEATURES] for m in moments]).reshape(-1, len(FEATURES))
    sd = np.array([[m[f].sd for f in FEATURES] for m in moments]).reshape(-1, len(FEATURES))
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
