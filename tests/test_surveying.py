"""Measuring what the router did without, beside the loop."""

from __future__ import annotations

from typing import Any

import pytest

from recov_graph.batch import Batch, run_batch, summary
from recov_graph.graph import build_recovery_graph
from recov_graph.models import Capability
from recov_graph.models.embedded import EmbeddedPair, bundled_problems
from recov_graph.scoring import scored_rollouts
from recov_graph.store import TraceStore
from recov_graph.surveying import survey
from recov_graph.trace import measure

STORED = "SELECT id, spread, concentration, logit_dispersion, junction FROM features ORDER BY id"


def ran(pair: EmbeddedPair, store: TraceStore, **options: Any) -> Batch:
    graph = build_recovery_graph(
        pair, "numeric", store=store, seed=0, interventions=["retry", "dense_steer"], **options
    )
    return run_batch(graph.compile(), bundled_problems()[:8])


def test_failures_that_were_routed_without_features_get_them_and_nothing_else_changes(
    pair: EmbeddedPair, store: TraceStore
) -> None:
    batch = ran(pair, store)
    before, figures = store.query("SELECT * FROM problem"), summary(batch)
    assert store.query(STORED) == []
    measured = survey(batch, pair, store, temperature=0.6)
    assert measured == len(store.query(STORED)) > 0
    assert summary(batch) == figures
    changed = ("spread", "concentration", "logit_dispersion")
    for old, new in zip(before, store.query("SELECT * FROM problem"), strict=True):
        assert {k: v for k, v in old.items() if k not in changed} == {
            k: v for k, v in new.items() if k not in changed
        }
        if new["first_failed"]:
            assert new["spread"] is not None
        else:
            assert new["spread"] is None


def test_what_is_measured_afterwards_is_what_would_have_been_measured(
    pair: EmbeddedPair, store: TraceStore
) -> None:
    batch = ran(pair, store)
    survey(batch, pair, store, temperature=0.6)
    problem, output = batch.failed[0]
    first = [a for a in output["attempts"] if a["operator"] == "sample"]
    drawn = pair.sample(
        problem.prompt, n=4, temperature=0.6, max_tokens=160, seed=first[0]["seed"]
    ).rollouts
    scored = scored_rollouts(
        pair, problem.prompt, {a["id"]: r for a, r in zip(first, drawn, strict=True)}
    )
    for name, rollout in scored.items():
        expected = measure(rollout, 0.6)
        stored = store.read_trace(name)
        assert stored is not None
        assert stored.rollout.text == rollout.text
        assert stored.rollout.pieces == rollout.pieces
        assert tuple(stored.features) == pytest.approx(tuple(expected.features), abs=1e-5)


def test_a_second_time_and_other_models_do_nothing(pair: EmbeddedPair, store: TraceStore) -> None:
    class Blind(EmbeddedPair):
        capabilities = frozenset({Capability.SAMPLE, Capability.TEMPERATURE})

    batch = ran(Blind(), store, samples=2)
    assert survey(batch, Blind(), store, temperature=0.6) == 0
    assert store.query(STORED) == []
