"""What features of failures are compared with: a policy's population, or these failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recov_graph.features import FEATURES
from recov_graph.report.reading import Problems
from recov_graph.report.statistics import Floats, Ints
from recov_graph.rollout_features import ROLLOUT_FEATURES
from recov_graph.routing.policy import LEAST_SD, Names, Policy, cell_name


@dataclass(frozen=True)
class Reference:
    """A policy whose stored failures others are compared with.

    Attributes:
        policy: the one in use, unless another was asked for.
        name: what it is called, with its hash.
    """

    policy: Policy
    name: str

    def has(self, model: str) -> bool:
        """Whether the policy was fitted on any failure of a model."""
        policy = self.policy
        known = [*policy.cells, *(policy.rollout.cells if policy.rollout else ())]
        known += policy.posterior.failures if policy.posterior else ()
        return any(cell.startswith(cell_name(model, "")) for cell in known)

    def knows(self, problems: Problems, rows: Ints, features: Sequence[str]) -> bool:
        """Whether the policy has failures of each model among these."""
        part = self.policy.part(_whole(features))
        models = {cell_name(model, "") for model in problems.model[rows]}
        known = {name for name in part.cells if part.cells[name][features[0]].count}
        return bool(models) and all(any(c.startswith(model) for c in known) for model in models)

    def z_scores(
        self, problems: Problems, rows: Ints, features: Sequence[str]
    ) -> tuple[Floats, str]:
        """Float [N, F] for N rows, and in words what they are taken against.

        Where the policy knows nothing of a model, against these failures themselves.
        """
        values = np.stack([problems.rows.numbers(name)[rows] for name in features], axis=1)
        if not self.knows(problems, rows, features):
            spread = values.std(axis=0)
            z = (values - values.mean(axis=0)) / np.where(spread > LEAST_SD, spread, np.inf)
            return z, "these failures themselves: the policy knows none of their models"
        return self._against_cells(problems, rows, values, features), f"the failures of {self.name}"

    def _against_cells(
        self, problems: Problems, rows: Ints, values: Floats, features: Sequence[str]
    ) -> Floats:
        z = np.zeros_like(values)
        cells = np.array(
            [
                cell_name(m, t)
                for m, t in zip(problems.model[rows], problems.task[rows], strict=True)
            ]
        )
        for cell in np.unique(cells):
            moments = self.policy.cell_moments(str(cell), _whole(features))
            own = cells == cell
            for j, name in enumerate(features):
                one = moments[name]
                z[own, j] = (values[own, j] - one.mean) / one.sd if one.sd > LEAST_SD else 0.0
        return z


def _whole(features: Sequence[str]) -> Names:
    """The set, as a policy keeps it, that features are of."""
    return FEATURES if features[0] in FEATURES else ROLLOUT_FEATURES
