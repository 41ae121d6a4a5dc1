"""The database schema, as the list of steps that lead to it. Steps are only ever added."""

from __future__ import annotations

from typing import Any

from sqlite_utils import Database, Migrations

from recov_graph.store.views import make_views

migrations = Migrations("recov_graph")


def _create(
    db: Database,
    table: str,
    columns: dict[str, Any],
    *,
    optional: tuple[str, ...] = (),
    references: tuple[tuple[str, str], ...] = (),
) -> None:
    """A STRICT table whose first column is the key and whose columns may not be NULL but some."""
    key = next(iter(columns))
    db.table(table).create(
        columns,
        pk=key,
        not_null=set(columns) - set(optional),
        foreign_keys=[(column, other, "id") for column, other in references],
        strict=True,
    )
    for column, _ in references:
        if column != key:
            db.table(table).create_index([column])


SPENT = {
    "prompt_tokens": int,
    "completion_tokens": int,
    "scored_tokens": int,
    "seconds": float,
}


@migrations()
def m001_traces(db: Database) -> None:
    _create(db, "settings", {"id": str, "value": str})
    _create(
        db,
        "runs",
        {
            "id": str,
            "kind": str,
            "model": str,
            "verifier": str,
            "policy": str,
            "policy_hash": str,
            "package_version": str,
            "feature_version": int,
            "router_version": int,
            "store_text": str,
            "seed": int,
            "started_at": str,
        },
        optional=("seed",),
    )
    _create(
        db,
        "problems",
        {
            "id": str,
            "run_id": str,
            "key": str,
            "task": str,
            "prompt": str,
            "answer": str,
            "started_at": str,
        },
        optional=("prompt", "answer"),
        references=(("run_id", "runs"),),
    )
    _create(
        db,
        "outcomes",
        {
            "id": str,
            "solved": int,
            "best_rollout": str,
            "regime": str,
            "stop_reason": str,
            "attempts": int,
            **SPENT,
            "finished_at": str,
        },
        optional=("best_rollout", "regime"),
        references=(("id", "problems"),),
    )
    _create(
        db,
        "calls",
        {"id": str, "problem_id": str, "purpose": str, **SPENT},
        references=(("problem_id", "problems"),),
    )
    _create(
        db,
        "rollouts",
        {
            "id": str,
            "problem_id": str,
            "position": int,
            "operator": str,
            "temperature": float,
            "seed": int,
            "finish_reason": str,
            "tokens": int,
            "text": str,
            "created_at": str,
        },
        optional=("text",),
        references=(("problem_id", "problems"),),
    )
    _create(
        db,
        "verdicts",
        {
            "id": str,
            "value": str,
            "score": float,
            "answer": str,
            "explanation": str,
            "verifier": str,
        },
        optional=("score", "answer", "explanation"),
        references=(("id", "rollouts"),),
    )
    _create(
        db,
        "token_arrays",
        {
            "id": str,
            "length": int,
            "signals": bytes,
            "taken": bytes,
            "specialist": bytes,
            "ancestor": bytes,
        },
        optional=("taken", "specialist", "ancestor"),
        references=(("id", "rollouts"),),
    )
    _create(
        db,
        "features",
        {
            "id": str,
            "junction": int,
            "spread": float,
            "concentration": float,
            "logit_dispersion": float,
            "feature_version": int,
        },
        references=(("id", "rollouts"),),
    )
    _create(
        db,
        "decisions",
        {
            "id": str,
            "problem_id": str,
            "step": int,
            "regime": str,
            "operator": str,
            "probability": float,
            "expected_rescue": float,
            "candidates": str,
            "reason": str,
            "policy": str,
            "policy_hash": str,
            "created_at": str,
        },
        optional=("operator", "reason"),
        references=(("problem_id", "problems"),),
    )
    _create(
        db,
        "interventions",
        {
            "id": str,
            "decision_id": str,
            "operator": str,
            "outcome": str,
            "tokens": int,
            "details": str,
        },
        optional=("details",),
        references=(("id", "rollouts"), ("decision_id", "decisions")),
    )


@migrations()
def m002_learning(db: Database) -> None:
    # What a decision was allowed, so that another router can be asked the same question later.
    for column, kind in (
        ("attempts_left", int),
        ("tokens_left", float),
        ("measured", int),
        ("once", str),
    ):
        db.table("decisions").add_column(column, kind)
    _create(
        db,
        "profiles",
        {
            "id": str,
            "failed_samples": int,
            "spread": float,
            "concentration": float,
            "logit_dispersion": float,
            "feature_version": int,
            "prompt_tokens": int,
            "completion_tokens": int,
            "scoring_tokens": int,
        },
        optional=(
            "failed_samples",
            "spread",
            "concentration",
            "logit_dispersion",
            "prompt_tokens",
            "completion_tokens",
            "scoring_tokens",
        ),
        references=(("id", "problems"),),
    )
    _create(
        db,
        "tallies",
        {
            "id": str,
            "problem_id": str,
            "operator": str,
            "passed": float,
            "attempts": float,
            "tokens": float,
        },
        optional=("tokens",),
        references=(("problem_id", "problems"),),
    )
    _create(
        db,
        "tape",
        {
            "id": str,
            "problem_id": str,
            "operator": str,
            "position": int,
            "seed": int,
            "passed": int,
            "tokens": int,
        },
        references=(("problem_id", "problems"),),
    )


@migrations()
def m003_rollout_features(db: Database) -> None:
    # Those of black-box models, by problem; `features` holds those of the others, by rollout.
    _create(
        db,
        "rollout_features",
        {
            "id": str,
            "failed_share": float,
            "agreement": float,
            "truncated": float,
            "length": float,
            "feature_version": int,
        },
        references=(("id", "problems"),),
    )


@migrations()
def m004_pictures(db: Database) -> None:
    # The text of each token, where the model told it: token ids alone cannot be shown.
    db.table("token_arrays").add_column("pieces", str)
    # What retry alone did for a failed problem, where a run measured it beside its own loop.
    _create(
        db,
        "retries",
        {"id": str, "rescued": int, "attempts": int, "tokens": int},
        references=(("id", "problems"),),
    )


@migrations()
def m005_views(db: Database) -> None:
    # Flat tables to explore by; a later step that changes one makes all of them anew.
    make_views(db)


@migrations()
def m006_resuming(db: Database) -> None:
    # How a run was begun, as JSON, and how many problems it has: it is gone on with by the same.
    db.table("runs").add_column("settings", str)
    db.table("runs").add_column("planned", int)
    # What a problem under way needs to be gone on with by another process, and only so long: the
    # arrays of rollouts that may yet be measured, and what an attempt not judged yet has cost.
    _create(
        db,
        "underway",
        {
            "id": str,
            "spent": int,
            "details": str,
            "taken": bytes,
            "pieces": str,
            "specialist": bytes,
        },
        optional=("details", "taken", "pieces", "specialist"),
        references=(("id", "rollouts"),),
    )
