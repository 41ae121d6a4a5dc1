"""Which rows of which tables are a problem's own: what is copied, replaced or taken out as one."""

from __future__ import annotations

from collections.abc import Mapping

_ITS_ROLLOUTS = "id IN (SELECT id FROM rollouts WHERE problem_id IN ({}))"

# Tables with the rows that belong to the problems whose ids stand for {}. Those that are referred
# to come before those that refer to them.
BELONGING: Mapping[str, str] = {
    "problems": "id IN ({})",
    "outcomes": "id IN ({})",
    "calls": "problem_id IN ({})",
    "rollouts": "problem_id IN ({})",
    "verdicts": _ITS_ROLLOUTS,
    "token_arrays": _ITS_ROLLOUTS,
    "features": _ITS_ROLLOUTS,
    "underway": _ITS_ROLLOUTS,
    "decisions": "problem_id IN ({})",
    "interventions": _ITS_ROLLOUTS,
    "rollout_features": "id IN ({})",
    "profiles": "id IN ({})",
    "tallies": "problem_id IN ({})",
    "tape": "problem_id IN ({})",
    "retries": "id IN ({})",
}
