"""Questions to put to stored traces, in SQL, and all of it as metadata for Datasette.

A parameter ``:run`` is the id of a run, or '' for all. Square roots are taken by hand: not every
SQLite has the function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from recov_graph.store.views import COLUMNS, DESCRIPTIONS

# What a trace store is called by default, and so what Datasette calls it.
DATABASE = "traces"


class Query(NamedTuple):
    """A question: its title, what the answer shows and how to read it, and its SQL."""

    title: str
    description: str
    sql: str


QUERIES: Mapping[str, Query] = {
    "runs_compared": Query(
        "Runs compared",
        "What each run solved, rescued, gave up and spent. Tokens per rescue count all that was "
        "spent after the first samples.",
        """
SELECT runs.id AS run_id, runs.kind, runs.model, runs.policy, runs.policy_hash, runs.started_at,
  COUNT(*) AS problems, SUM(solved) AS solved, SUM(first_failed) AS first_failed,
  SUM(rescued) AS rescued, SUM(stopped) AS stopped,
  ROUND(100.0 * SUM(first_failed AND rescued) / SUM(first_failed), 1) AS rescued_percent,
  SUM(tokens) AS tokens, SUM(recovery_tokens) AS recovery_tokens,
  SUM(recovery_tokens) / SUM(rescued) AS tokens_per_rescue
FROM runs JOIN problem ON problem.run_id = runs.id
GROUP BY runs.id
ORDER BY runs.started_at DESC""",
    ),
    "rescue_rate_by_operator": Query(
        "Rescue rate of each operator",
        "Judged interventions and how many of them passed, with the 95% Wilson interval. Operators "
        "are tried on different failures, so this describes; it does not compare. "
        "sparse_steer_random is the control of sparse_steer.",
        """
WITH RECURSIVE counted AS (
  SELECT operator, COUNT(*) AS attempts, SUM(rescued) AS rescues
  FROM attempt
  WHERE kind = 'intervention' AND verdict IN ('passed', 'failed') AND :run IN ('', run_id)
  GROUP BY operator
), rate AS (
  SELECT *, 1.0 * rescues / attempts AS p, 1.96 * 1.96 / attempts AS z FROM counted
), root (operator, x, r, step) AS (
  SELECT operator, p * (1 - p) / attempts + z / 4 / attempts, 1.0, 0 FROM rate
  UNION ALL SELECT operator, x, (r + x / r) / 2, step + 1 FROM root WHERE step < 40
)
SELECT operator, attempts, rescues, ROUND(100 * p, 1) AS rescued_percent,
  ROUND(MAX(0, 100 * (p + z / 2 - 1.96 * r) / (1 + z)), 1) AS low_percent,
  ROUND(MIN(100, 100 * (p + z / 2 + 1.96 * r) / (1 + z)), 1) AS high_percent
FROM rate JOIN root USING (operator)
WHERE step = 40
ORDER BY attempts DESC, operator""",
    ),
    "rescue_rate_by_regime_and_operator": Query(
        "Rescue rate of each operator by the regime predicted first",
        "The table that a run ends with, for any of them: attempts of each operator on failures of "
        "each regime, what they rescued, and what a rescue cost.",
        """
SELECT first_regime, operator, COUNT(*) AS attempts, SUM(attempt.rescued) AS rescues,
  ROUND(100.0 * SUM(attempt.rescued) / COUNT(*), 1) AS rescued_percent,
  SUM(tokens_spent) AS tokens, SUM(tokens_spent) / SUM(attempt.rescued) AS tokens_per_rescue
FROM attempt JOIN problem USING (problem_id)
WHERE kind = 'intervention' AND verdict IN ('passed', 'failed') AND :run IN ('', attempt.run_id)
GROUP BY first_regime, operator
ORDER BY first_regime, attempts DESC, operator""",
    ),
    "tokens_per_rescue": Query(
        "Tokens per rescue of each operator",
        "What attempts of each operator cost, and what a rescue by it cost; its share of all that "
        "interventions spent.",
        """
SELECT operator, COUNT(*) AS attempts, SUM(rescued) AS rescues,
  ROUND(AVG(tokens_spent), 1) AS tokens_per_attempt, SUM(tokens_spent) AS tokens,
  SUM(tokens_spent) / SUM(rescued) AS tokens_per_rescue,
  ROUND(100.0 * SUM(tokens_spent) / SUM(SUM(tokens_spent)) OVER (), 1) AS percent_of_tokens
FROM attempt
WHERE kind = 'intervention' AND :run IN ('', run_id)
GROUP BY operator
ORDER BY tokens DESC""",
    ),
    "loop_and_retry_alone": Query(
        "The routed loop and retry alone, where both were measured",
        "What the loop rescued of the failed problems, and what fresh samples alone rescued of the "
        "same ones for about as many tokens over all of them, by the regime predicted first.",
        """
SELECT first_regime, COUNT(*) AS failed, SUM(rescued) AS rescued,
  SUM(retry_rescued) AS rescued_by_retry_alone, SUM(recovery_tokens) AS recovery_tokens,
  SUM(retry_tokens) AS retry_tokens,
  SUM(recovery_tokens) / SUM(rescued) AS tokens_per_rescue,
  SUM(retry_tokens) / SUM(retry_rescued) AS retry_tokens_per_rescue
FROM problem
WHERE first_failed AND retry_rescued IS NOT NULL AND :run IN ('', run_id)
GROUP BY first_regime
ORDER BY failed DESC""",
    ),
    "stops_that_retry_alone_rescued": Query(
        "Problems given up that retry alone solved",
        "Problems that were stopped because the chance of a rescue was too small, and that fresh "
        "samples solved all the same. Many of them for few tokens: the policy stops too early.",
        """
SELECT problem_id, run_id, model, task, key, first_regime, regime, interventions, recovery_tokens,
  retry_attempts, retry_tokens
FROM problem
WHERE stopped AND retry_rescued AND :run IN ('', run_id)
ORDER BY retry_tokens""",
    ),
    "most_expensive_problems": Query(
        "The most expensive problems",
        "The 50 problems that took the most tokens, and whether it helped.",
        """
SELECT problem_id, run_id, model, task, key, attempts, tokens, first_tokens, recovery_tokens,
  ROUND(seconds, 2) AS seconds, solved, stop_reason, first_regime
FROM problem
WHERE :run IN ('', run_id)
ORDER BY tokens DESC
LIMIT 50""",
    ),
    "never_solved": Query(
        "Problems never solved in any run",
        "By the user's own id. Always the same wrong answer speaks for a wrong reference; see the "
        "query on wrong answers. With store_text none every run hashes ids anew.",
        """
SELECT model, task, key, COUNT(*) AS times_tried, SUM(attempts) AS attempts,
  SUM(tokens) AS tokens, MAX(started_at) AS last_tried_at, MAX(prompt) AS prompt
FROM problem
WHERE solved IS NOT NULL
GROUP BY model, task, key
HAVING SUM(solved) = 0
ORDER BY attempts DESC, key""",
    ),
    "wrong_answers": Query(
        "Wrong answers that come again and again",
        "Answers that were judged wrong at least three times on the same problem: a belief of the "
        "model's, or a reference or verifier that is wrong.",
        """
SELECT attempt.model, attempt.task, attempt.key, attempt.answer AS wrong_answer,
  MAX(problems.answer) AS reference, COUNT(*) AS times,
  COUNT(DISTINCT operator) AS operators, COUNT(DISTINCT attempt.run_id) AS runs
FROM attempt JOIN problems ON problems.id = attempt.problem_id
WHERE verdict = 'failed' AND attempt.answer IS NOT NULL
GROUP BY attempt.model, attempt.task, attempt.key, attempt.answer
HAVING COUNT(*) >= 3
ORDER BY times DESC, attempt.key
LIMIT 200""",
    ),
    "verdict_explanations": Query(
        "Why attempts did not pass, by frequency",
        "What the verifier said of attempts that did not pass. Hashes, or nothing, where texts are "
        "not kept.",
        """
SELECT verdict, explanation, COUNT(*) AS attempts, COUNT(DISTINCT problem_id) AS problems,
  MIN(attempt_id) AS for_example
FROM attempt
WHERE verdict IN ('failed', 'unscored') AND :run IN ('', run_id)
GROUP BY verdict, explanation
ORDER BY attempts DESC, explanation
LIMIT 200""",
    ),
    "calibration": Query(
        "Is the expected rescue what comes true?",
        "Decisions that were carried out, in ten groups of equal size by the rescue expected: the "
        "mean expected should be near the percentage rescued in each.",
        """
WITH judged AS (
  SELECT expected_rescue, rescued, NTILE(10) OVER (ORDER BY expected_rescue) AS decile
  FROM decision
  WHERE outcome IN ('rescued', 'failed') AND carried_out = operator AND :run IN ('', run_id)
)
SELECT decile, COUNT(*) AS decisions, ROUND(100 * MIN(expected_rescue), 1) AS lowest_percent,
  ROUND(100 * MAX(expected_rescue), 1) AS highest_percent,
  ROUND(100 * AVG(expected_rescue), 1) AS expected_percent,
  ROUND(100.0 * AVG(rescued), 1) AS rescued_percent, SUM(rescued) AS rescues
FROM judged
GROUP BY decile
ORDER BY decile""",
    ),
    "better_candidates": Query(
        "Decisions where another candidate promised more for its cost",
        "The chosen operator, and the other with the most expected rescues per 1,000 tokens where "
        "that is more: exploration, or a rule that goes by something else.",
        """
WITH candidate AS (
  SELECT decision_id, json_extract(one.value, '$.operator') AS name,
    1000.0 * json_extract(one.value, '$.expected_rescue') / (
      json_extract(one.value, '$.expected_cost') + COALESCE((
        SELECT price.value FROM json_each(once) AS price
        WHERE price.key = json_extract(one.value, '$.operator')), 0)) AS worth
  FROM decision, json_each(decision.candidates) AS one
  WHERE NOT stop AND :run IN ('', run_id)
), ranked AS (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY decision_id ORDER BY worth DESC) AS place
  FROM candidate
)
SELECT decision.decision_id, decision.key, decision.step, decision.regime, decision.operator,
  ROUND(chosen.worth, 3) AS rescues_per_1000_tokens, best.name AS better,
  ROUND(best.worth, 3) AS better_rescues_per_1000_tokens,
  ROUND(decision.probability, 3) AS probability, decision.outcome
FROM decision
JOIN ranked AS chosen
  ON chosen.decision_id = decision.decision_id AND chosen.name = decision.operator
JOIN ranked AS best ON best.decision_id = decision.decision_id AND best.place = 1
WHERE best.worth > chosen.worth
ORDER BY best.worth - chosen.worth DESC
LIMIT 500""",
    ),
    "rescues_by_step": Query(
        "After how many interventions rescues come",
        "For each place in the route: how many problems got that far and what that attempt "
        "rescued. Where rescues dry up, a smaller budget loses little.",
        """
SELECT step + 1 AS intervention, COUNT(*) AS attempts, SUM(rescued) AS rescues,
  ROUND(100.0 * SUM(rescued) / COUNT(*), 1) AS rescued_percent,
  SUM(SUM(rescued)) OVER (ORDER BY step) AS rescues_so_far, SUM(tokens_spent) AS tokens
FROM attempt
WHERE kind = 'intervention' AND verdict IN ('passed', 'failed') AND :run IN ('', run_id)
GROUP BY step
ORDER BY step""",
    ),
    "features_by_outcome": Query(
        "Features of failed problems by how they ended",
        "Means over the problems whose first samples failed; the last four are those of black-box "
        "models.",
        """
SELECT model, CASE WHEN rescued THEN 'rescued by ' || rescued_by ELSE stop_reason END AS ended,
  COUNT(*) AS problems, COUNT(spread) AS measured, ROUND(AVG(spread), 3) AS spread,
  ROUND(AVG(concentration), 3) AS concentration,
  ROUND(AVG(logit_dispersion), 3) AS logit_dispersion, ROUND(AVG(failed_share), 3) AS failed_share,
  ROUND(AVG(agreement), 3) AS agreement, ROUND(AVG(truncated), 3) AS truncated,
  ROUND(AVG(length), 3) AS length
FROM problem
WHERE first_failed AND rescued IS NOT NULL AND :run IN ('', run_id)
GROUP BY model, ended
ORDER BY model, problems DESC""",
    ),
    "junction_position": Query(
        "Where junctions lie",
        "The junction's position as a share of the sample's length, in tenths, with the mean "
        "concentration there and the percentage of samples whose problem was rescued.",
        """
SELECT MIN(9, 10 * junction / tokens_written) + 1 AS tenth, COUNT(*) AS samples,
  ROUND(AVG(1.0 * junction / tokens_written), 3) AS share_of_length,
  ROUND(AVG(attempt.concentration), 3) AS concentration,
  ROUND(100.0 * AVG(problem.rescued), 1) AS rescued_percent
FROM attempt JOIN problem USING (problem_id)
WHERE junction IS NOT NULL AND tokens_written > 0 AND :run IN ('', attempt.run_id)
GROUP BY tenth
ORDER BY tenth""",
    ),
    "tokens_by_purpose": Query(
        "Tokens by what they were spent on",
        "All calls: sample is any plain sample, first or retried; score is measuring; steer is a "
        "rollout of both models at once. What retry alone spent beside a run is no call of it.",
        """
SELECT runs.model, purpose, COUNT(*) AS calls, SUM(prompt_tokens) AS prompt_tokens,
  SUM(completion_tokens) AS completion_tokens, SUM(scored_tokens) AS scored_tokens,
  SUM(prompt_tokens + completion_tokens + scored_tokens) AS tokens,
  ROUND(SUM(seconds), 2) AS seconds
FROM calls JOIN problems ON problems.id = problem_id JOIN runs ON runs.id = run_id
WHERE :run IN ('', run_id)
GROUP BY runs.model, purpose
ORDER BY tokens DESC""",
    ),
    "drift_per_day": Query(
        "Drift: every day of each model and task",
        "How many problems the first samples failed, what was rescued and what it cost, and the "
        "mean features: where they move, so may what is worth trying.",
        """
SELECT SUBSTR(started_at, 1, 10) AS day, model, task, COUNT(*) AS problems,
  ROUND(100.0 * AVG(first_failed), 1) AS first_failed_percent,
  ROUND(100.0 * SUM(rescued) / SUM(first_failed), 1) AS rescued_percent,
  SUM(recovery_tokens) / SUM(rescued) AS tokens_per_rescue, ROUND(AVG(spread), 3) AS spread,
  ROUND(AVG(concentration), 3) AS concentration,
  ROUND(AVG(logit_dispersion), 3) AS logit_dispersion
FROM problem
WHERE rescued IS NOT NULL
GROUP BY day, model, task
ORDER BY day DESC, model, task""",
    ),
}
# How the view of this name is shown; the tables behind the views are hidden, not gone.
_SHOWN: Mapping[str, Mapping[str, Any]] = {
    "problem": {
        "sort_desc": "started_at",
        "facets": ["run_id", "model", "task", "first_regime", "stop_reason"],
    },
    "attempt": {"facets": ["operator", "verdict", "regime"]},
    "decision": {"facets": ["regime", "operator", "outcome"]},
}
_MEASURED = ("calls", "rollouts", "verdicts", "token_arrays", "features", "rollout_features")
_DECIDED = ("decisions", "interventions", "outcomes", "retries", "profiles", "tallies", "tape")
HIDDEN = ("problems", *_MEASURED, *_DECIDED, "underway", "settings", "_sqlite_migrations")


def datasette_metadata(database: str = DATABASE) -> dict[str, Any]:
    """Titles, descriptions and canned queries for Datasette.

    Args:
        database: what Datasette calls the trace store: its file name without the ending.
    """
    return {
        "title": "recov-graph: stored traces",
        "description": "What was tried on failed problems, why, and what came of it.",
        "databases": {
            database: {
                "description": "Begin with the views problem, attempt and decision, or a query.",
                "tables": {**{name: _shown(name) for name in COLUMNS}, **_hidden()},
                "queries": {name: query_metadata(one) for name, one in QUERIES.items()},
            }
        },
    }


def query_metadata(query: Query) -> dict[str, Any]:
    """A canned query as Datasette takes it."""
    shown = {"title": query.title, "description": query.description, "sql": query.sql.strip()}
    return shown | ({"params": ["run"]} if ":run" in query.sql else {})


def _shown(name: str) -> dict[str, Any]:
    columns = {column: one.description for column, one in COLUMNS[name].items()}
    return {"description": DESCRIPTIONS[name], **_SHOWN[name], "columns": columns}


def _hidden() -> dict[str, Any]:
    return {name: {"hidden": True} for name in HIDDEN}
