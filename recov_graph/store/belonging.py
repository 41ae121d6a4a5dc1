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

# What the loop writes of a problem, table and id, those first that refer to others.
_OF_ROLLOUTS = "id IN (SELECT id FROM rollouts WHERE problem_id = ?1)"
STORED = " UNION ALL ".join(
    f"SELECT '{table}', id FROM {table} WHERE {whose}"
    for table, whose in (
        ("underway", _OF_ROLLOUTS),
        ("interventions", _OF_ROLLOUTS),
        ("features", _OF_ROLLOUTS),
        ("token_arrays", _OF_ROLLOUTS),
        ("verdicts", _OF_ROLLOUTS),
        ("rollouts", "problem_id = ?1"),
        ("decisions", "problem_id = ?1"),
        ("calls", "problem_id = ?1"),
        ("rollout_features", "id = ?1"),
    )
)
