"""What the rows of a problem that has ended have to agree on: who reads them can tell damage by it.

SQLite notices a page that makes no sense; it has no checksums, and does not notice rows that are
gone with one. Whatever a loop stores of a problem is counted somewhere else, too.
"""

from __future__ import annotations

from collections.abc import Mapping

# Ends that are no end: a run that goes on tries such problems anew.
AGAIN = ("model_error", "verifier_error")
FOR_GOOD = f"stop_reason NOT IN {AGAIN}"  # as SQL
_ENDED = (
    "SELECT outcomes.id FROM outcomes JOIN problems ON problems.id = outcomes.id "
    "JOIN runs ON runs.id = run_id WHERE kind NOT IN ('record', 'import') AND "
)
_ROLLOUTS = "FROM rollouts WHERE problem_id = outcomes.id"
_DECISIONS = "FROM decisions WHERE problem_id = outcomes.id"
# As floats: sums of whole numbers that somebody made up can overflow.
_SPENT = ", ".join(
    f"COALESCE(sum(CAST({kind}_tokens AS DOUBLE PRECISION)), 0)"
    for kind in ("prompt", "completion", "scored")
)

# Ended problems that break a rule, by what is said of them.
RULES: Mapping[str, str] = {
    "ended problems whose attempts are not all there": _ENDED
    + f"(attempts <> (SELECT count(*) {_ROLLOUTS}) OR best_rollout NOT IN (SELECT id {_ROLLOUTS}))",
    "ended problems with attempts without a verdict": _ENDED
    + f"EXISTS (SELECT 1 {_ROLLOUTS} AND id NOT IN (SELECT id FROM verdicts))",
    "ended problems whose calls do not add up to what they cost": _ENDED
    + "(prompt_tokens, completion_tokens, scored_tokens) <> "
    f"(SELECT {_SPENT} FROM calls WHERE problem_id = outcomes.id)",
    # An outcome has the regime of the last decision; steps are counted from 0.
    "ended problems whose decisions are not all there": _ENDED
    + f"(COALESCE(outcomes.regime, '') <> COALESCE((SELECT regime {_DECISIONS} "
    f"ORDER BY step DESC LIMIT 1), '') OR (SELECT count(*) {_DECISIONS}) <> "
    f"(SELECT COALESCE(max(step) + 1, 0) {_DECISIONS}))",
}
