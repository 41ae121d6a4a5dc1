"""Regimes: what kind of failure a problem is, from measured rescue rates.

Source: Islah et al., arXiv 2606.05145. A label that sees the outcomes it is scored on flatters
every policy: measure labels on rollouts disjoint from those that score one.
"""

from __future__ import annotations

from collections.abc import Mapping

from recov_graph.errors import InvalidInputError
from recov_graph.routing.decision import EASY, MARGIN, Regime


def regime_label(rates: Mapping[str, float]) -> Regime:
    """The retrospective regime of one problem.

    Args:
        rates: measured rescue rate, 0 to 1, of "retry" and of each intervention.

    Returns:
        "steerable_hard" where some intervention beats retry by 0.05 and retry rescues at most half
        the time; "out_of_reach" where nothing ever rescues; else "sampling".

    Raises:
        InvalidInputError: no rate of retry, none of an intervention, or one outside 0 to 1.
    """
    if "retry" not in rates or len(rates) < 2:
        raise InvalidInputError(
            f"rates has {sorted(rates)}; it needs 'retry' and at least one intervention"
        )
    for name, rate in rates.items():
        if not 0 <= rate <= 1:
            raise InvalidInputError(f"the rescue rate of {name} is {rate!r}; it must be 0 to 1")
    retry = rates["retry"]
    best = max(rate for name, rate in rates.items() if name != "retry")
    # Rates are ratios of small counts: the tolerance keeps 0.05 itself inside.
    if best - retry >= MARGIN - 1e-12 and retry <= EASY:
        return "steerable_hard"
    return "out_of_reach" if retry == best == 0 else "sampling"
