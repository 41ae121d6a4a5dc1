"""The views to explore traces by: one row per problem, per attempt and per decision.

What is here is what a new store gets. An older one gets it by a migration, so whoever changes a
text, FEATURE_VERSION or ROLLOUT_FEATURE_VERSION adds a migration that calls `make_views`. SQLite
renames no table that a view names: a migration that rebuilds one drops the views before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from sqlite_utils import Database

from recov_graph.rollout_features import ROLLOUT_FEATURE_VERSION
from recov_graph.signals import FEATURE_VERSION

Kind = Literal["text", "integer", "real"]


class Column(NamedTuple):
    """A column of a view: what it holds where it is not NULL, and what that says."""

    kind: Kind
    description: str


def _text(description: str) -> Column:
    return Column("text", description)


def _whole(description: str) -> Column:
    return Column("integer", description)


def _real(description: str) -> Column:
    return Column("real", description)


# Calls are numbered from 0. The first samples are one call, but in an agent: what it calls by
# itself before anything else is called for it is the first answer.
_SPENT = """
    SELECT problem_id, SUM(tokens) AS tokens, SUM(seconds) AS seconds,
      SUM(CASE WHEN number < COALESCE(later, number + 1) THEN tokens END) AS first_tokens
    FROM (
      SELECT *, MIN(CASE WHEN number > 0 AND purpose <> 'agent' THEN number END)
        OVER (PARTITION BY problem_id) AS later
      FROM (
        SELECT problem_id, purpose, seconds,
          CAST(SUBSTR(id, LENGTH(problem_id) + 6) AS INTEGER) AS number,
          prompt_tokens + completion_tokens + scored_tokens AS tokens
        FROM calls
      )
    )
    GROUP BY problem_id"""
_TRIED = """
    SELECT problem_id, COUNT(*) AS attempts,
      SUM(operator = 'sample') AS samples,
      SUM(operator = 'sample' AND value = 'failed') AS failed_samples,
      SUM(operator = 'sample' AND value = 'passed') AS passed_samples,
      MAX(CASE WHEN operator <> 'sample' AND value = 'passed' THEN operator END) AS rescued_by
    FROM rollouts LEFT JOIN verdicts ON verdicts.id = rollouts.id
    GROUP BY problem_id"""
_MEASURED = f"""
    SELECT problem_id, AVG(spread) AS spread, AVG(concentration) AS concentration,
      AVG(logit_dispersion) AS logit_dispersion
    FROM features JOIN rollouts ON rollouts.id = features.id
    WHERE operator = 'sample' AND feature_version = {FEATURE_VERSION}
    GROUP BY problem_id"""

_PROBLEM = f"""CREATE VIEW problem AS
  -- One row per problem of a run: how it ended, what it cost, what was measured on it.
  SELECT
    problems.id AS problem_id,
    problems.run_id AS run_id,
    runs.kind AS run_kind,
    runs.model AS model,
    problems.task AS task,
    problems.key AS key,
    problems.prompt AS prompt,
    problems.answer AS answer,
    problems.started_at AS started_at,
    outcomes.finished_at AS finished_at,
    runs.verifier AS verifier,
    runs.policy AS policy,
    runs.policy_hash AS policy_hash,
    CASE WHEN runs.kind <> 'import' THEN COALESCE(tried.samples, 0) END AS samples,
    CASE WHEN runs.kind <> 'import' THEN COALESCE(tried.failed_samples, 0)
      ELSE profiles.failed_samples END AS failed_samples,
    CASE WHEN runs.kind <> 'import'
      THEN COALESCE(tried.failed_samples > 0 AND tried.passed_samples = 0, 0) END AS first_failed,
    outcomes.solved AS solved,
    CASE WHEN runs.kind NOT IN ('import', 'record')
      THEN tried.rescued_by IS NOT NULL END AS rescued,
    tried.rescued_by AS rescued_by,
    outcomes.stop_reason = 'out_of_reach' AS stopped,
    outcomes.stop_reason AS stop_reason,
    opening.regime AS first_regime,
    outcomes.regime AS regime,
    CASE WHEN runs.kind <> 'import'
      THEN COALESCE(outcomes.attempts, tried.attempts, 0) END AS attempts,
    CASE WHEN runs.kind NOT IN ('import', 'record')
      THEN COALESCE(tried.attempts - tried.samples, 0) END AS interventions,
    COALESCE(outcomes.prompt_tokens + outcomes.completion_tokens + outcomes.scored_tokens,
      spent.tokens) AS tokens,
    spent.first_tokens AS first_tokens,
    spent.tokens - spent.first_tokens AS recovery_tokens,
    COALESCE(outcomes.seconds, spent.seconds) AS seconds,
    COALESCE(measured.spread, profiles.spread) AS spread,
    COALESCE(measured.concentration, profiles.concentration) AS concentration,
    COALESCE(measured.logit_dispersion, profiles.logit_dispersion) AS logit_dispersion,
    rollout_features.failed_share AS failed_share,
    rollout_features.agreement AS agreement,
    rollout_features.truncated AS truncated,
    rollout_features.length AS length,
    retries.rescued AS retry_rescued,
    retries.attempts AS retry_attempts,
    retries.tokens AS retry_tokens
  FROM problems
  JOIN runs ON runs.id = problems.run_id
  LEFT JOIN outcomes ON outcomes.id = problems.id
  LEFT JOIN decisions AS opening ON opening.id = problems.id || '/decision0'
  LEFT JOIN profiles ON profiles.id = problems.id
    AND profiles.feature_version = {FEATURE_VERSION}
  LEFT JOIN rollout_features ON rollout_features.id = problems.id
    AND rollout_features.feature_version = {ROLLOUT_FEATURE_VERSION}
  LEFT JOIN retries ON retries.id = problems.id
  LEFT JOIN ({_TRIED}
  ) AS tried ON tried.problem_id = problems.id
  LEFT JOIN ({_SPENT}
  ) AS spent ON spent.problem_id = problems.id
  LEFT JOIN ({_MEASURED}
  ) AS measured ON measured.problem_id = problems.id"""

_ATTEMPT = f"""CREATE VIEW attempt AS
  -- One row per attempt: a first sample, or an intervention with the decision that led to it.
  SELECT
    rollouts.id AS attempt_id,
    rollouts.problem_id AS problem_id,
    problems.run_id AS run_id,
    runs.model AS model,
    problems.task AS task,
    problems.key AS key,
    rollouts.position AS position,
    CASE rollouts.operator WHEN 'sample' THEN 'sample' ELSE 'intervention' END AS kind,
    rollouts.operator AS operator,
    rollouts.temperature AS temperature,
    rollouts.seed AS seed,
    rollouts.finish_reason AS finish_reason,
    rollouts.tokens AS tokens_written,
    interventions.tokens AS tokens_spent,
    verdicts.value AS verdict,
    verdicts.score AS score,
    verdicts.answer AS answer,
    verdicts.explanation AS explanation,
    interventions.outcome = 'rescued' AS rescued,
    interventions.decision_id AS decision_id,
    decisions.step AS step,
    decisions.regime AS regime,
    decisions.expected_rescue AS expected_rescue,
    decisions.probability AS probability,
    interventions.details AS details,
    rollouts.text AS text,
    features.junction AS junction,
    features.spread AS spread,
    features.concentration AS concentration,
    features.logit_dispersion AS logit_dispersion,
    rollouts.created_at AS created_at
  FROM rollouts
  JOIN problems ON problems.id = rollouts.problem_id
  JOIN runs ON runs.id = problems.run_id
  LEFT JOIN verdicts ON verdicts.id = rollouts.id
  LEFT JOIN interventions ON interventions.id = rollouts.id
  LEFT JOIN decisions ON decisions.id = interventions.decision_id
  LEFT JOIN features ON features.id = rollouts.id
    AND features.feature_version = {FEATURE_VERSION}"""

# One intervention of a decision, even while a timeline that was abandoned has left another.
_DECISION = """CREATE VIEW decision AS
  -- One row per decision of the router: what it chose, or that it stopped, and what came of it.
  SELECT
    decisions.id AS decision_id,
    decisions.problem_id AS problem_id,
    problems.run_id AS run_id,
    runs.model AS model,
    problems.task AS task,
    problems.key AS key,
    decisions.step AS step,
    decisions.regime AS regime,
    decisions.operator AS operator,
    decisions.operator IS NULL AS stop,
    decisions.probability AS probability,
    decisions.expected_rescue AS expected_rescue,
    interventions.outcome AS outcome,
    interventions.outcome = 'rescued' AS rescued,
    interventions.tokens AS tokens,
    interventions.operator AS carried_out,
    decisions.attempts_left AS attempts_left,
    decisions.tokens_left AS tokens_left,
    decisions.measured AS measured,
    decisions.once AS once,
    decisions.reason AS reason,
    decisions.policy AS policy,
    decisions.policy_hash AS policy_hash,
    decisions.candidates AS candidates,
    decisions.created_at AS created_at
  FROM decisions
  JOIN problems ON problems.id = decisions.problem_id
  JOIN runs ON runs.id = problems.run_id
  LEFT JOIN interventions ON interventions.rowid = (
    SELECT MAX(made.rowid) FROM interventions AS made WHERE made.decision_id = decisions.id)"""

VIEWS: Mapping[str, str] = {"problem": _PROBLEM, "attempt": _ATTEMPT, "decision": _DECISION}
DESCRIPTIONS: Mapping[str, str] = {
    "problem": "One row per problem: how it ended, what it cost, what was measured on it",
    "attempt": "One row per attempt: a first sample, or an intervention and why it was made",
    "decision": "One row per decision of the router: what it chose, or a stop, and what came of it",
}
COLUMNS: Mapping[str, Mapping[str, Column]] = {
    "problem": {
        "problem_id": _text("The problem in this file; a new id each time it is taken up"),
        "run_id": _text("The run it is of"),
        "run_kind": _text("demo, run, graph, studio, agent, runnable, record or import"),
        "model": _text("The model"),
        "task": _text("The kind of problem, as the user named it"),
        "key": _text("The user's own id of the problem, or a hash of it"),
        "prompt": _text("What was asked, or a hash of it, or NULL"),
        "answer": _text("The reference answer as JSON, or a hash of it, or NULL"),
        "started_at": _text("When it was taken up, UTC"),
        "finished_at": _text("When it ended, UTC; NULL while it is under way"),
        "verifier": _text("What judged the attempts"),
        "policy": _text("The run's policy"),
        "policy_hash": _text("The content hash of the run's policy"),
        "samples": _whole("First samples; NULL for imported problems"),
        "failed_samples": _whole("First samples that were judged failed"),
        "first_failed": _whole("1: no first sample passed, at least one was judged failed"),
        "solved": _whole("1: an attempt passed"),
        "rescued": _whole("1: solved by an intervention; NULL where nothing was routed"),
        "rescued_by": _text("The operator of the intervention that solved it"),
        "stopped": _whole("1: given up because the chance of a rescue was too small"),
        "stop_reason": _text("Why it ended, as in the graph's output"),
        "first_regime": _text("The regime predicted first, when all that is known are samples"),
        "regime": _text("The regime predicted last"),
        "attempts": _whole("Rollouts made in all, those of a tape included"),
        "interventions": _whole("Rollouts made after the first samples"),
        "tokens": _whole("Tokens of all calls: read, written and scored"),
        "first_tokens": _whole("Tokens of the first samples; NULL where calls were not kept"),
        "recovery_tokens": _whole("Tokens spent after the first samples, scoring included"),
        "seconds": _real("Seconds that all calls took"),
        "spread": _real("Mean spread of the failed first samples"),
        "concentration": _real("Mean concentration of the failed first samples"),
        "logit_dispersion": _real("Mean logit dispersion of the failed first samples"),
        "failed_share": _real("Black box: share of the first samples that failed"),
        "agreement": _real("Black box: how far the failed samples agree on an answer"),
        "truncated": _real("Black box: share of the failed samples that were cut off"),
        "length": _real("Black box: how long the failed samples are"),
        "retry_rescued": _whole("1: retry alone, measured beside the run, solved it"),
        "retry_attempts": _whole("Samples that retry alone drew"),
        "retry_tokens": _whole("Tokens that retry alone spent"),
    },
    "attempt": {
        "attempt_id": _text("The attempt in this file"),
        "problem_id": _text("The problem it is of"),
        "run_id": _text("The run it is of"),
        "model": _text("The model"),
        "task": _text("The kind of problem"),
        "key": _text("The user's own id of the problem, or a hash of it"),
        "position": _whole("Its place among the attempts on the problem, from 0"),
        "kind": _text("sample or intervention"),
        "operator": _text("sample, or the intervention that was carried out"),
        "temperature": _real("Decoding temperature"),
        "seed": _whole("Seed of the call"),
        "finish_reason": _text("stop, or length where it was cut off"),
        "tokens_written": _whole("Tokens of the rollout"),
        "tokens_spent": _whole("Interventions: tokens of all calls it took"),
        "verdict": _text("passed, failed or unscored; NULL before it is judged"),
        "score": _real("The verifier's score"),
        "answer": _text("What the verifier extracted, or a hash of it, or NULL"),
        "explanation": _text("Why the verifier said so, or a hash of it, or NULL"),
        "rescued": _whole("Interventions: 1 where it passed"),
        "decision_id": _text("Interventions: the decision that led to it"),
        "step": _whole("Interventions: number of that decision, from 0"),
        "regime": _text("Interventions: the regime predicted then"),
        "expected_rescue": _real("Interventions: chance of a rescue the router expected"),
        "probability": _real("Interventions: probability with which the router chose so"),
        "details": _text("Interventions: what it did, as JSON"),
        "text": _text("The output, or a hash of it, or NULL"),
        "junction": _whole("Measured samples: position of the junction, from 0"),
        "spread": _real("Measured samples: spread"),
        "concentration": _real("Measured samples: concentration"),
        "logit_dispersion": _real("Measured samples: logit dispersion"),
        "created_at": _text("When it was stored, UTC"),
    },
    "decision": {
        "decision_id": _text("The decision in this file"),
        "problem_id": _text("The problem it is of"),
        "run_id": _text("The run it is of"),
        "model": _text("The model"),
        "task": _text("The kind of problem"),
        "key": _text("The user's own id of the problem, or a hash of it"),
        "step": _whole("Its number on the problem, from 0"),
        "regime": _text("The regime predicted"),
        "operator": _text("What was chosen; NULL for a stop"),
        "stop": _whole("1: nothing more was to be tried"),
        "probability": _real("Probability with which the router chose so"),
        "expected_rescue": _real("Chance of a rescue expected of it"),
        "outcome": _text("rescued, failed or unscored; NULL where nothing was carried out"),
        "rescued": _whole("1: the attempt passed; NULL where nothing was carried out"),
        "tokens": _whole("Tokens the attempt spent"),
        "carried_out": _text(
            "What was carried out: the next best where the choice was not possible"
        ),
        "attempts_left": _whole("Attempts the budget still had"),
        "tokens_left": _real("Tokens the budget still had; NULL for no limit"),
        "measured": _whole("1: the features were known"),
        "once": _text("Tokens the first use of an operator costs once, as JSON"),
        "reason": _text("Why, in words"),
        "policy": _text("The policy that decided"),
        "policy_hash": _text("Its content hash"),
        "candidates": _text("All that could be chosen, with expected rescue and cost, as JSON"),
        "created_at": _text("When it was made, UTC"),
    },
}


def make_views(db: Database) -> None:
    """Make the views, in the place of those of an older version."""
    for name in VIEWS:
        db.execute(f"DROP VIEW IF EXISTS {name}")
    for sql in VIEWS.values():
        db.execute(sql)
