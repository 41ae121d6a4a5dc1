"""The fitted posterior as a scikit-learn estimator.

P(an attempt rescues | features where present, failed samples, what has failed here): a logistic
regression tells how hard a failure looks before anything is tried, and a mixture of failure types
tells what each failed attempt changes about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from recov_graph.features import FEATURES
from recov_graph.rollout_features import ROLLOUT_FEATURES
from recov_graph.routing.belief import SAMPLED, Believer, located, sampled_log_odds, shares
from recov_graph.routing.mixture import MOST_TYPES, fit_mixture
from recov_graph.routing.outcomes import Floats, Outcomes, cell_moments, most_failed, z_scores
from recov_graph.routing.policy import (
    SCHEMA_VERSION,
    Covariates,
    Names,
    Policy,
    Posterior,
    default_policy,
)

SHRINKAGE = 20.0
BANDWIDTH = 0.5
INFORMED = 0.25
SAMPLES_AT = 1 + len(FEATURES)  # the column of X that holds the failed samples
FIRST_COUNT = SAMPLES_AT + 1  # the first column of failures by operator
LEAST_SHARE = 1e-4  # a type rarer than this in a cell is left out of a policy


def fit_posterior(
    outcomes: Outcomes,
    policy: Policy,
    *,
    use_features: bool = True,
    bandwidth: float = BANDWIDTH,
    informed: float = INFORMED,
    measure: bool = False,
    explore: float = 0.0,
    max_types: int = MOST_TYPES,
) -> Posterior:
    """Fit types and hardness to stored outcomes.

    Args:
        outcomes: at least one failed problem with at least one attempt.
        policy: whose population and cells the features are z-scored against.
        use_features: whether hardness may go by them.
        bandwidth: as in `Posterior`.
        informed: as in `Posterior`.
        measure: as in `Posterior`.
        explore: as in `Posterior`.
        max_types: at most so many types.
    """
    most = most_failed(outcomes)
    names, z = _standardised(outcomes, policy)
    if not use_features:
        z = np.zeros_like(z)
    highest = np.array([most.get(name, np.nan) for name in outcomes.cells])[outcomes.cell]
    sampled = sampled_log_odds(outcomes.failed_samples, highest)
    offsets = _cell_log_odds(outcomes, policy.shrinkage)
    columns = np.column_stack([offsets[outcomes.cell], z, sampled])
    intercept, coefficients = _logistic(columns, outcomes.passed.sum(1), outcomes.failed.sum(1))
    place = intercept + columns @ coefficients
    mixture = fit_mixture(outcomes, place, bandwidth=bandwidth, shrinkage=4.0, most_types=max_types)
    failures = np.bincount(outcomes.cell, minlength=len(outcomes.cells))
    return Posterior(
        operators=list(outcomes.operators),
        rescue=np.round(mixture.rescue, 6).tolist(),
        weights=np.round(mixture.weights, 8).tolist(),
        cells={
            name: {int(i): round(float(row[i]), 6) for i in np.flatnonzero(row > LEAST_SHARE)}
            for name, row in zip(outcomes.cells, mixture.cells, strict=True)
        },
        hardness=np.round(mixture.hardness, 5).tolist(),
        bandwidth=bandwidth,
        covariates=Covariates(
            intercept=round(intercept, 6),
            cells={
                name: round(float(coefficients[0] * offset), 6)
                for name, offset in zip(outcomes.cells, offsets, strict=True)
            },
            coefficients={
                name: round(float(value), 6)
                for name, value in zip((*names, SAMPLED), coefficients[1:], strict=True)
            },
            sampled=dict(most),
            spread=round(float((z @ coefficients[1:-1]).std()), 6),
        ),
        informed=informed,
        measure=measure,
        failures={name: int(count) for name, count in zip(outcomes.cells, failures, strict=True)},
        explore=explore,
    )


def _standardised(outcomes: Outcomes, policy: Policy) -> tuple[Names, Floats]:
    """Names and z-scores, float [N, F], of the features; of both sets where there are both."""
    z = z_scores(policy, outcomes.cells, outcomes.cell, outcomes.features)
    if not outcomes.has(ROLLOUT_FEATURES).any():
        return FEATURES, z
    told = z_scores(policy, outcomes.cells, outcomes.cell, outcomes.rollout, ROLLOUT_FEATURES)
    return (*FEATURES, *ROLLOUT_FEATURES), np.column_stack([z, told])


def _logistic(columns: Floats, won: Floats, lost: Floats) -> tuple[float, Floats]:
    """Intercept and coefficients of a ridge logistic regression on weighted outcomes."""
    if won.sum() <= 0 or lost.sum() <= 0:
        rate = (won.sum() + 0.5) / (won.sum() + lost.sum() + 1.0)
        return float(np.log(rate / (1 - rate))), np.zeros(columns.shape[1])
    # However often a problem was tried, it is one problem.
    scale = np.minimum(1.0, 8.0 / np.maximum(won + lost, 1e-9))
    tried = np.flatnonzero(won + lost > 0)
    weight = np.concatenate([(won * scale)[tried], (lost * scale)[tried]])
    label = np.repeat([1, 0], len(tried))
    kept = weight > 0
    model = LogisticRegression(C=1.0, max_iter=500)
    model.fit(np.tile(columns[tried], (2, 1))[kept], label[kept], weight[kept])
    return float(model.intercept_[0]), np.asarray(model.coef_[0], float)


def _cell_log_odds(outcomes: Outcomes, shrinkage: float) -> Floats:
    """Float [C], how often attempts pass in each cell, shrunken, against all cells."""
    per = outcomes.attempts.sum(axis=1)
    rate = outcomes.passed.sum(axis=1) / np.maximum(per, 1e-9)
    tried = per > 0
    everyone = (rate[tried].sum() + 0.5) / (tried.sum() + 1.0)
    count = np.bincount(outcomes.cell[tried], minlength=len(outcomes.cells))
    total = np.bincount(outcomes.cell[tried], rate[tried], minlength=len(outcomes.cells))
    mean = (
        (total + shrinkage * everyone) / (count + shrinkage)
        if shrinkage
        else ((total + 0.5) / (count + 1.0))
    )
    log_odds: Floats = np.log(mean / (1 - mean)) - np.log(everyone / (1 - everyone))
    return log_odds


class RescuePosterior(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Whether an attempt rescues, as a binary classifier.

    With `operators`, the columns of X are: an integer code of the cell; the three features (NaN
    where not measured); the number of failed samples (NaN where unknown); for each operator how
    often it has failed here before, beyond the rows given; and the index of the operator that the
    row is about. In `fit`, rows of one group are attempts at one problem.

    Without `operators`, every column is a covariate, and all rows are of one operator.

    Args:
        operators: names of the operators, or none.
        use_features: whether the features count.
        bandwidth: how far failures of one type spread, in log-odds of a rescue.
        informed: how far covariates also say which operator to choose, 0 to 1.
        max_types: at most so many types of failure.

    Attributes:
        classes_: the labels; of two, the second is a rescue.
        policy_: with `operators`, a policy whose posterior is what was learned.
    """

    def __init__(
        self,
        operators: Sequence[str] = (),
        *,
        use_features: bool = True,
        bandwidth: float = BANDWIDTH,
        informed: float = INFORMED,
        max_types: int = 64,
    ) -> None:
        self.operators = operators
        self.use_features = use_features
        self.bandwidth = bandwidth
        self.informed = informed
        self.max_types = max_types

    def fit(self, X: Any, y: Any, groups: ArrayLike | None = None) -> RescuePosterior:  # noqa: N803
        """Learn from attempts.

        Args:
            X: float [n, d], see the class.
            y: [n], two labels; in sorted order the second is a rescue.
            groups: [n], which problem each attempt belongs to; without, each is its own.
        """
        X, y = validate_data(self, X, y, dtype=float, ensure_all_finite=self._finite)  # noqa: N806
        check_classification_targets(y)
        encoder = LabelEncoder().fit(y)
        self.classes_ = encoder.classes_
        if len(self.classes_) > 2:
            raise ValueError(
                "Only binary classification is supported. The type of the target is multiclass: "
                f"{len(self.classes_)} classes; an attempt rescues or does not"
            )
        rescued = np.asarray(encoder.transform(y), float)
        if self.operators:
            self._fit_operators(X, rescued, groups)
        else:
            self._fit_covariates(X, rescued)
        return self

    def predict_proba(self, X: Any) -> Floats:  # noqa: N803
        """Float [n, classes], the probability of each label; the last column is a rescue's."""
        check_is_fitted(self)
        X = validate_data(  # noqa: N806
            self, X, dtype=float, reset=False, ensure_all_finite=self._finite
        )
        if len(self.classes_) == 1:
            return np.ones((len(X), 1))
        rescued = self._rescue_operators(X) if self.operators else self._rescue_covariates(X)
        return np.column_stack([1.0 - rescued, rescued])

    def predict(self, X: Any) -> Any:  # noqa: N803
        """[n], the likelier label."""
        likelier = self.predict_proba(X).argmax(axis=1)
        return self.classes_[likelier]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.allow_nan = bool(self.operators)
        return tags

    @property
    def _finite(self) -> bool | str:
        return "allow-nan" if self.operators else True

    def _fit_covariates(self, X: Floats, rescued: Floats) -> None:  # noqa: N803
        self.mean_, self.scale_ = X.mean(axis=0), X.std(axis=0)
        self.intercept_, self.coef_ = _logistic(self._scaled(X), rescued, 1.0 - rescued)
        n = len(X)
        alone = Outcomes(
            operators=("attempt",),
            cells=("",),
            cell=np.zeros(n, np.int64),
            features=np.full((n, len(FEATURES)), np.nan),
            failed_samples=np.full(n, np.nan),
            passed=rescued[:, None],
            attempts=np.ones((n, 1)),
        )
        self.mixture_ = fit_mixture(
            alone,
            self._place(X),
            bandwidth=self.bandwidth,
            shrinkage=SHRINKAGE,
            most_types=self.max_types,
        )

    def _rescue_covariates(self, X: Floats) -> Floats:  # noqa: N803
        mixture = self.mixture_
        log = np.log(mixture.weights) + located(self._place(X), mixture.hardness, self.bandwidth)
        rescued: Floats = (shares(log) @ mixture.rescue)[:, 0]
        return rescued

    def _place(self, X: Floats) -> Floats:  # noqa: N803
        place: Floats = self.intercept_ + self._scaled(X) @ self.coef_
        return place

    def _scaled(self, X: Floats) -> Floats:  # noqa: N803
        scaled: Floats = (X - self.mean_) / np.where(self.scale_ > 0, self.scale_, 1.0)
        return scaled

    def _fit_operators(self, X: Floats, rescued: Floats, groups: ArrayLike | None) -> None:  # noqa: N803
        names = self._checked_operators(X)
        group = np.arange(len(X)) if groups is None else np.asarray(groups)
        if group.shape != (len(X),):
            raise ValueError(f"groups has shape {group.shape}; it must be ({len(X)},), one a row")
        _, first, row = np.unique(group, return_index=True, return_inverse=True)
        count, of = len(first), len(names)
        attempts, passed = np.zeros((count, of)), np.zeros((count, of))
        operator = X[:, -1].astype(int)
        np.add.at(attempts, (row, operator), 1.0)
        np.add.at(passed, (row, operator), rescued)
        attempts += X[first, FIRST_COUNT:-1]
        codes, cell = np.unique(X[first, 0], return_inverse=True)
        outcomes = Outcomes(
            operators=names,
            cells=tuple(str(int(code)) for code in codes),
            cell=cell.astype(np.int64),
            features=X[first, 1:SAMPLES_AT],
            failed_samples=X[first, SAMPLES_AT],
            passed=passed,
            attempts=attempts,
        )
        population, cells = cell_moments(outcomes)
        base = default_policy().model_copy(update={"population": population, "cells": cells})
        posterior = fit_posterior(
            outcomes,
            base,
            use_features=self.use_features,
            bandwidth=self.bandwidth,
            informed=self.informed,
            max_types=self.max_types,
        )
        self.policy_: Policy = base.model_copy(
            update={"posterior": posterior, "schema_version": SCHEMA_VERSION}
        )

    def _rescue_operators(self, X: Floats) -> Floats:  # noqa: N803
        names = self._checked_operators(X)
        believer = Believer(self.policy_)
        codes, cell = np.unique(X[:, 0], return_inverse=True)
        belief = believer.first(
            [str(int(code)) for code in codes], cell, X[:, 1:SAMPLES_AT], X[:, SAMPLES_AT]
        )
        for index in range(len(names)):
            belief = believer.after(belief, index, X[:, [FIRST_COUNT + index]])
        rescued: Floats = believer.rescue(belief)[np.arange(len(X)), X[:, -1].astype(int)]
        return rescued

    def _checked_operators(self, X: Floats) -> tuple[str, ...]:  # noqa: N803
        names = tuple(self.operators)
        wanted = FIRST_COUNT + len(names) + 1
        if X.shape[1] != wanted:
            raise ValueError(
                f"X has {X.shape[1]} columns; with {len(names)} operators it must have {wanted}: "
                "cell, three features, failed samples, failures of each operator, operator"
            )
        operator = X[:, -1]
        if not np.isin(operator, np.arange(len(names))).all():
            raise ValueError(
                f"the last column of X must hold whole numbers from 0 to {len(names) - 1}, "
                f"the index of an operator"
            )
        if np.isnan(X[:, [0]]).any() or np.isnan(X[:, FIRST_COUNT:]).any():
            raise ValueError("only features and failed samples may be NaN")
        if (X[:, 0] % 1 != 0).any():
            raise ValueError("the first column of X must hold whole numbers, the codes of cells")
        if (X[:, FIRST_COUNT:-1] < 0).any() or (X[:, SAMPLES_AT] < 0).any():
            raise ValueError("failed samples and failures of an operator must be at least 0")
        return names
