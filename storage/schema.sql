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
) STRICT;
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
