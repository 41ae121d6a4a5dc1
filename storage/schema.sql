CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE TABLE "settings" (
   "id" TEXT PRIMARY KEY NOT NULL,
   "value" TEXT NOT NULL
) STRICT;
CREATE TABLE "runs" (
   "id" TEXT PRIMARY KEY NOT NULL,
   "kind" TEXT NOT NULL,
   "model" TEXT NOT NULL,
   "verifier" TEXT NOT NULL,
   "policy" TEXT NOT NULL,
   "policy_hash" TEXT NOT NULL,
   "package_version" TEXT NOT NULL,
   "feature_version" INTEGER NOT NULL,
   "router_version" INTEGER NOT NULL,
   "store_text" TEXT NOT NULL,
   "seed" INTEGER,
   "started_at" TEXT NOT NULL
, "settings" TEXT, "planned" INTEGER) STRICT;
CREATE TABLE "problems" (
   "id" TEXT PRIMARY KEY NOT NULL,
   "run_id" TEXT NOT NULL REFERENCES "runs"("id"),
   "key" TEXT NOT NULL,
   "task" TEXT NOT NULL,
   "prompt" TEXT,
   "answer" TEXT,
   "started_at" TEXT NOT NULL
) STRICT;
CREATE INDEX "idx_problems_run_id"
    ON "problems" ("run_id");
CREATE TABLE "outcomes" (
   "id" TEXT PRIMARY KEY NOT NULL REFERENCES "problems"("id"),
   "solved" INTEGER NOT NULL,
   "best_rollout" TEXT,
   "regime" TEXT,
   "stop_reason" TEXT NOT NULL,
   "attempts" INTEGER NOT NULL,
   "prompt_tokens" INTEGER NOT NULL,
   "completion_tokens" INTEGER NOT NULL,
   "scored_tokens" INTEGER NOT NULL,
   "seconds" REAL NOT NULL,
   "finished_at" TEXT NOT NULL
) STRICT;
CREATE TABLE "calls" (
   "id" TEXT PRIMARY KEY NOT NULL,
   "problem_id" TEXT NOT NULL REFERENCES "problems"("id"),
   "purpose" TEXT NOT NULL,
   "prompt_tokens" INTEGER NOT NULL,
   "completion_tokens" INTEGER NOT NULL,
   "scored_tokens" INTEGER NOT NULL,
   "seconds" REAL NOT NULL
) STRICT;
CREATE INDEX "idx_calls_problem_id"
    ON "calls" ("problem_id");
CREATE TABLE "rollouts" (
   "id" TEXT PRIMARY KEY NOT NULL,
   "problem_id" TEXT NOT NULL REFERENCES "problems"("id"),
   "position" INTEGER NOT NULL,
   "operator" TEXT NOT NULL,
   "temperature" REAL NOT NULL,
   "seed" INTEGER NOT NULL,
   "finish_reason" TEXT NOT NULL,
   "tokens" INTEGER NOT NULL,
   "text" TEXT,
   "created_at" TEXT NOT NULL
) STRICT;
CREATE INDEX "idx_rollouts_problem_id"
    ON "rollouts" ("problem_id");
CREATE TABLE "verdicts" (
   "id" TEXT PRIMARY KEY NOT NULL REFERENCES "rollouts"("id"),
   "value" TEXT NOT NULL,
   "score" REAL,
   "answer" TEXT,
   "explanation" TEXT,
   "verifier" TEXT NOT NULL
) STRICT;
CREATE TABLE "token_arrays" (
   "id" TEXT PRIMARY KEY NOT NULL REFERENCES "rollouts"("id"),
   "length" INTEGER NOT NULL,
   "signals" BLOB NOT NULL,
   "taken" BLOB,
   "specialist" BLOB,
   "ancestor" BLOB
, "pieces" TEXT) STRICT;
CREATE TABLE "features" (
   "id" TEXT PRIMARY KEY NOT NULL REFERENCES "rollouts"("id"),
   "junction" INTEGER NOT NULL,
   "spread" REAL NOT NULL,
   "concentration" REAL NOT NULL,
   "logit_dispersion" REAL NOT NULL,
   "feature_version" INTEGER NOT NULL
) STRICT;
CREATE TABLE "decisions" (
   "id" TEXT PRIMARY KEY NOT NULL,
   "problem_id" TEXT NOT NULL REFERENCES "problems"("id"),
   "step" INTEGER NOT NULL,
   "regime" TEXT NOT NULL,
   "operator" TEXT,
   "probability" REAL NOT NULL,
   "expected_rescue" REAL NOT NULL,
   "candidates" TEXT NOT NULL,
   "reason" TEXT,
   "policy" TEXT NOT NULL,
   "policy_hash" TEXT NOT NULL,
   "created_at" TEXT NOT NULL
, "attempts_left" INTEGER, "tokens_left" REAL, "measured" INTEGER, "once" TEXT) STRICT;
CREATE INDEX "idx_decisions_problem_id"
    ON "decisions" ("problem_id");
CREATE TABLE "interventions" (
   "id" TEXT PRIMARY KEY NOT NULL REFERENCES "rollouts"("id"),
   "decision_id" TEXT NOT NULL REFERENCES "decisions"("id"),
   "operator" TEXT NOT NULL,
   "outcome" TEXT NOT NULL,
   "tokens" INTEGER NOT NULL,
   "details" TEXT
) STRICT;
CREATE INDEX "idx_interventions_decision_id"
    ON "interventions" ("decision_id");
CREATE TABLE "profiles" (
   "id" TEXT PRIMARY KEY NOT NULL REFERENCES "problems"("id"),
   "failed_samples" INTEGER,
   "spread" REAL,
   "concentration" REAL,
   "logit_dispersion" REAL,
   "feature_version" INTEGER NOT NULL,
   "prompt_tokens" INTEGER,
   "completion_tokens" INTEGER,
   "scoring_tokens" INTEGER
) STRICT;
CREATE TABLE "tallies" (
   "id" TEXT PRIMARY KEY NOT NULL,
   "problem_id" TEXT NOT NULL REFERENCES "problems"("id"),
   "operator" TEXT NOT NULL,
   "passed" REAL NOT NULL,
   "attempts" REAL NOT NULL,
   "tokens" REAL
) STRICT;
CREATE INDEX "idx_tallies_problem_id"
    ON "tallies" ("problem_id");
CREATE TABLE "tape" (
   "id" TEXT PRIMARY KEY NOT NULL,
   "problem_id" TEXT NOT NULL REFERENCES "problems"("id"),
   "operator" TEXT NOT NULL,
   "position" INTEGER NOT NULL,
   "seed" INTEGER NOT NULL,
   "passed" INTEGER NOT NULL,
   "tokens" INTEGER NOT NULL
) STRICT;
CREATE INDEX "idx_tape_problem_id"
    ON "tape" ("problem_id");
CREATE TABLE "rollout_features" (
   "id" TEXT PRIMARY KEY NOT NULL REFERENCES "problems"("id"),
   "failed_share" REAL NOT NULL,
   "agreement" REAL NOT NULL,
   "truncated" REAL NOT NULL,
   "length" REAL NOT NULL,
   "feature_version" INTEGER NOT NULL
) STRICT;
CREATE TABLE "retries" (
   "id" TEXT PRIMARY KEY NOT NULL REFERENCES "problems"("id"),
   "rescued" INTEGER NOT NULL,
   "attempts" INTEGER NOT NULL,
   "tokens" INTEGER NOT NULL
) STRICT;
CREATE VIEW problem AS
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
    AND profiles.feature_version = 1
  LEFT JOIN rollout_features ON rollout_features.id = problems.id
    AND rollout_features.feature_version = 1
  LEFT JOIN retries ON retries.id = problems.id
  LEFT JOIN (
    SELECT problem_id, COUNT(*) AS attempts,
      SUM(operator = 'sample') AS samples,
      SUM(operator = 'sample' AND value = 'failed') AS failed_samples,
      SUM(operator = 'sample' AND value = 'passed') AS passed_samples,
      MAX(CASE WHEN operator <> 'sample' AND value = 'passed' THEN operator END) AS rescued_by
    FROM rollouts LEFT JOIN verdicts ON verdicts.id = rollouts.id
    GROUP BY problem_id
  ) AS tried ON tried.problem_id = problems.id
  LEFT JOIN (
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
    GROUP BY problem_id
  ) AS spent ON spent.problem_id = problems.id
  LEFT JOIN (
    SELECT problem_id, AVG(spread) AS spread, AVG(concentration) AS concentration,
      AVG(logit_dispersion) AS logit_dispersion
    FROM features JOIN rollouts ON rollouts.id = features.id
    WHERE operator = 'sample' AND feature_version = 1
    GROUP BY problem_id
  ) AS measured ON measured.problem_id = problems.id;
CREATE VIEW attempt AS
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
    AND features.feature_version = 1;
CREATE VIEW decision AS
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
    SELECT MAX(made.rowid) FROM interventions AS made WHERE made.decision_id = decisions.id);
CREATE TABLE "underway" (
   "id" TEXT PRIMARY KEY NOT NULL REFERENCES "rollouts"("id"),
   "spent" INTEGER NOT NULL,
   "details" TEXT,
   "taken" BLOB,
   "pieces" TEXT,
   "specialist" BLOB
) STRICT;
