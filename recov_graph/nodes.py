"""The five nodes of the recovery graph: each reads the state and returns what changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from langgraph.errors import GraphBubbleUp
from langgraph.runtime import Runtime

from recov_graph.approval import approved, refuse_without_thread
from recov_graph.attempts import (
    answer_message,
    answer_of,
    attempt_event,
    best_attempt,
    features_of_samples,
    new_attempt,
    paid_for,
    shares,
    value_of,
)
from recov_graph.budget import BudgetExhausted, MeteredModel
from recov_graph.context import STEPS, TOO_FEW_STEPS, RecoveryContext, given_context
from recov_graph.errors import InvalidInputError, ModelError, RecovGraphError, StoreError
from recov_graph.evidence import evidence_of
from recov_graph.intervening import intervene
from recov_graph.interventions.base import Failure, Intervention
from recov_graph.measuring import Measuring
from recov_graph.models.base import Capability, Model
from recov_graph.problem import Problem
from recov_graph.recorder import Recorder
from recov_graph.rollout import SAMPLE, Usage
from recov_graph.routing.decision import Evidence, wants_features
from recov_graph.seeds import call_seed
from recov_graph.settings import Settings
from recov_graph.state import (
    DecisionData,
    RecoveryState,
    StopReason,
    VerdictData,
    given_problem,
    new_recovery,
    new_recovery_id,
)
from recov_graph.verifiers import Verifier, judge
from recov_graph.workspace import Workspace

State = RecoveryState
Changes = dict[str, Any]


class Nodes:
    """The nodes, bound to a model, a verifier, a router and the rest of `build_recovery_graph`."""

    def __init__(
        self,
        model: Model,
        verifier: Verifier,
        *,
        settings: Settings,
        recorder: Recorder,
        samples: int,
        max_new_tokens: int,
        open_problems: int,
    ) -> None:
        self.model = model
        self.verifier = verifier
        self.settings = settings
        self.recorder = recorder
        self.samples = samples
        self.max_new_tokens = max_new_tokens
        self._workspace = Workspace(open_problems)
        self._measuring = Measuring(model, self._workspace, recorder)

    def generate(self, state: State, runtime: Runtime[RecoveryContext]) -> Changes:
        """Sample the first rollouts."""
        problem = given_problem(state)
        settings = self._settings(runtime)
        refuse_without_thread(settings.approve, runtime)
        recovery_id = self.recorder.id_of(problem) or new_recovery_id(runtime.execution_info)
        started: Changes = dict(new_recovery(problem, recovery_id))
        started["approve"] = sorted(settings.approve)
        self.recorder.started(recovery_id, problem)
        meter = self._meter(cast(State, started), settings)
        n = min(self.samples, meter.budget.max_attempts)
        seed = call_seed(settings.seed, problem.id, 0)
        try:
            rollouts = meter.sample(
                problem.prompt,
                n=n,
                temperature=settings.temperature,
                max_tokens=self.max_new_tokens,
                seed=seed,
            ).rollouts
            if not rollouts:
                raise ModelError(f"model {self.model.name!r} returned no rollouts, asked for {n}")
        except GraphBubbleUp:
            self._interrupted(recovery_id, meter)
            raise
        except Exception as error:
            return self._failed_call(_with(state, **started), meter, error, runtime)
        arrays = self._workspace.of(recovery_id)
        arrays.made = {}
        attempts = [
            new_attempt(
                recovery_id,
                position,
                SAMPLE,
                rollout,
                temperature=settings.temperature,
                seed=seed,
                spent=spent,
            )
            for position, (rollout, spent) in enumerate(
                zip(rollouts, shares(meter.spent.tokens, len(rollouts)), strict=True)
            )
        ]
        arrays.rollouts = {a["id"]: one for a, one in zip(attempts, rollouts, strict=True)}
        self.recorder.attempted(recovery_id, attempts, meter.calls, arrays.rollouts)
        return {**started, "attempts": attempts, "calls": meter.calls}

    def verify(self, state: State, runtime: Runtime[RecoveryContext]) -> Changes:
        """Judge the rollouts that have no verdict yet.

        A verifier that asks a person interrupts for each, and all are judged anew once there is an
        answer: LangGraph hands out answers by their order, so none may be left out.
        """
        if state.get("stop_reason"):
            return {"stop_reason": state["stop_reason"]}
        problem = Problem.model_validate(state["current"])
        attempts = []
        judged = []
        for attempt in state["attempts"]:
            if attempt["verdict"] is None:
                verdict = judge(self.verifier, problem, attempt["text"]).as_dict()
                attempt = {**attempt, "verdict": cast(VerdictData, verdict)}
                judged.append(attempt)
                runtime.stream_writer(attempt_event(attempt))
            attempts.append(attempt)
        decision = state["route"][-1] if state["route"] else None
        if decision is None:  # in a thread that was taken back others may have failed before
            self._workspace.of(state["recovery_id"]).traces = {}
        self.recorder.judged(judged, decision)
        changes: Changes = {"attempts": attempts}
        values = [value_of(attempt) for attempt in judged]
        if "passed" in values:
            return self.finish(_with(state, **changes), "solved", runtime)
        if "failed" not in values:
            last = judged[-1]["verdict"]
            error = last["explanation"] if last else None
            ended = _with(state, **changes, error=error)
            return self.finish(ended, "verifier_error", runtime)
        return changes

    def featurize(self, state: State, runtime: Runtime[RecoveryContext]) -> Changes:
        """Measure the failed samples, once, where the router goes by features.

        Of a black-box model, whose samples cannot be measured, what they tell by themselves.
        """
        if Capability.SCORE not in self.model.capabilities:
            return {"features": state["features"] or self._told(state, runtime)}
        settings = self._settings(runtime)
        meter = self._meter(state, settings)
        attempts_left = meter.budget.max_attempts - len(state["attempts"])
        if state["route"] or attempts_left <= 0 or self._measuring.expected_cost(state) is None:
            return {"features": state["features"]}
        if not wants_features(settings.router, self._evidence(state, settings, meter)):
            return {"features": None}
        try:
            changes = self._measured(state, settings, meter, runtime)
        except GraphBubbleUp:
            self._interrupted(state["recovery_id"], meter)
            raise
        except Exception as error:
            return self._failed_call(state, meter, error, runtime)
        return {**changes, "calls": {**state["calls"], **meter.calls}}

    def classify(self, state: State, runtime: Runtime[RecoveryContext]) -> Changes:
        """Ask the router for the next operator, or stop."""
        if state.get("stop_reason"):
            return {"stop_reason": state["stop_reason"]}
        settings = self._settings(runtime)
        meter = self._meter(state, settings)
        reached = meter.budget.reached(meter.spent)
        evidence = self._evidence(state, settings, meter)
        affordable = any(cost <= evidence.tokens_left for cost in evidence.costs.values())
        if reached or evidence.attempts_left <= 0 or (evidence.costs and not affordable):
            return self.finish(state, "budget_exhausted", runtime)
        if not evidence.costs:  # nothing that was chosen from can help such a failure
            return self.finish(state, "out_of_reach", runtime)
        if state.get("remaining_steps", STEPS) < STEPS:
            return self.finish(_with(state, error=TOO_FEW_STEPS), "budget_exhausted", runtime)
        decided = settings.router.decide(evidence)
        if decided.operator is not None and decided.operator not in evidence.costs:
            raise InvalidInputError(
                f"router {settings.router.name!r} chose {decided.operator!r}; "
                f"possible here are {', '.join(evidence.costs)}, or None to stop"
            )
        step = len(state["route"])
        decision = cast(
            DecisionData,
            {
                "id": f"{state['recovery_id']}/decision{step}",
                "step": step,
                **decided.as_dict(),
                "policy": settings.router.name,
                "policy_hash": settings.router.content_hash,
                "attempts_left": evidence.attempts_left,
                "tokens_left": None if math.isinf(evidence.tokens_left) else evidence.tokens_left,
                "measured": evidence.features is not None,
                "once": dict(evidence.once),
            },
        )
        self.recorder.decided(state["recovery_id"], decision)
        runtime.stream_writer({"type": "decision", **decision})
        changes: Changes = {"route": [*state["route"], decision], "regime": decided.regime}
        if decided.operator is None:
            return self.finish(_with(state, **changes), "out_of_reach", runtime)
        return changes

    def intervene(self, state: State, runtime: Runtime[RecoveryContext]) -> Changes:
        """Make the attempt that was decided on, once approved where that is asked for."""
        settings = self._settings(runtime)
        decision = state["route"][-1]
        chosen = decision["operator"]
        assert chosen is not None
        problem = Problem.model_validate(state["current"])
        # What had to be approved at first has to be, whoever goes on: a context is not kept.
        approve = settings.approve.union(state.get("approve") or ())
        if chosen in approve and not approved(decision, problem.prompt):
            runtime.stream_writer({"type": "refused", "operator": chosen})
            return {"refused": [*state["refused"], chosen]}
        meter = self._meter(state, settings)
        position = len(state["attempts"])
        changes: Changes = {}
        try:
            if position >= meter.budget.max_attempts:  # of whoever goes on
                raise BudgetExhausted(f"{position} attempts are made already")
            one = settings.interventions.get(chosen)  # None where whoever goes on has it not
            if one and Capability.SCORE in one.needs and state["features"] is None:
                changes = self._measured(state, settings, meter, runtime)
            failure = Failure(
                problem=problem,
                temperature=settings.temperature,
                max_tokens=self.max_new_tokens,
                seed=call_seed(settings.seed, problem.id, position),
                traces=self._measuring.traces(_with(state, **changes)),
                focus=len(state["route"]) - 1,
            )
            operator, made = intervene(
                state,
                failure,
                meter,
                interventions={
                    name: one
                    for name, one in self._open_to(state, settings).items()
                    if name == chosen or name not in approve
                },
                measuring=self._measuring,
            )
        except GraphBubbleUp:
            self._interrupted(state["recovery_id"], meter)
            raise
        except Exception as error:
            return self._failed_call(_with(state, **changes), meter, error, runtime)
        attempt = new_attempt(
            state["recovery_id"],
            position,
            operator,
            made.rollout,
            temperature=failure.temperature,
            seed=failure.seed,
            spent=paid_for(state, meter.calls),
            details=made.details,
        )
        self.recorder.attempted(state["recovery_id"], [attempt], meter.calls)
        self._workspace.of(state["recovery_id"]).made = {}
        return {
            **changes,
            "attempts": [*state["attempts"], attempt],
            "calls": {**state["calls"], **meter.calls},
        }

    def _told(self, state: State, runtime: Runtime[RecoveryContext]) -> dict[str, float]:
        """What the first samples tell without a model, stored and announced."""
        told = features_of_samples(state["attempts"])
        self.recorder.told(state["recovery_id"], told)
        features = told._asdict()
        runtime.stream_writer({"type": "features", "features": features})
        return features

    def _measured(
        self,
        state: State,
        settings: Settings,
        meter: MeteredModel,
        runtime: Runtime[RecoveryContext],
    ) -> Changes:
        """Features of the failed samples, announced; None where they cannot be had."""
        if self._measuring.expected_cost(state) is None and not self._measuring.why_not(state):
            return {"features": state["features"]}
        measured = self._measuring.measure(state, meter, settings.temperature)
        features = None if measured is None else measured._asdict()
        event = {"type": "features", "features": features}
        if features is None and (why := self._measuring.why_not(state)):
            event["why"] = why
        runtime.stream_writer(event)
        return {"features": features}

    def _open_to(self, state: State, settings: Settings) -> Mapping[str, Intervention]:
        """The interventions that nobody refused."""
        refused = state.get("refused") or ()
        return {name: one for name, one in settings.interventions.items() if name not in refused}

    def _evidence(self, state: State, settings: Settings, meter: MeteredModel) -> Evidence:
        return evidence_of(
            state,
            model=self.model,
            interventions=self._open_to(state, settings),
            measuring=self._measuring,
            meter=meter,
            seed=settings.seed,
        )

    def _settings(self, runtime: Runtime[RecoveryContext]) -> Settings:
        return self.settings.changed_by(given_context(runtime))

    def _meter(self, state: State, settings: Settings) -> MeteredModel:
        made = self._workspace.of(state["recovery_id"]).made
        return MeteredModel(self.model, settings.budget, state["recovery_id"], state["calls"], made)

    def _interrupted(self, recovery_id: str, meter: MeteredModel) -> None:
        """Keep what was paid: the node is run again from its start once the graph goes on."""
        self._workspace.of(recovery_id).made = meter.made

    def _failed_call(
        self,
        state: State,
        meter: MeteredModel,
        error: Exception,
        runtime: Runtime[RecoveryContext],
    ) -> Changes:
        """End the problem after a model call that failed or that the budget refused."""
        if isinstance(error, StoreError):  # what cannot be kept is no failure of the model
            raise error
        self.recorder.attempted(state["recovery_id"], [], meter.calls)
        calls = {**state["calls"], **meter.calls}
        reason: StopReason = "model_error"
        message: str | None = f"{type(error).__name__}: {error}"
        if isinstance(error, BudgetExhausted):
            reason, message = "budget_exhausted", None if state["attempts"] else str(error)
        changes: Changes = {"calls": calls, "error": message}
        ended = _with(state, **changes)
        ended.pop("remaining_steps", None)  # LangGraph's own, and not for us to write
        # A chat is told what we have to say; what others raise may hold anything.
        said = str(error) if isinstance(error, RecovGraphError) else ""
        return {**ended, **self.finish(ended, reason, runtime, said)}

    def finish(
        self,
        state: State,
        reason: StopReason,
        runtime: Runtime[RecoveryContext],
        said: str = "",
    ) -> Changes:
        """The output's fields, stored and announced; `said` is for a chat without an answer."""
        best = best_attempt(state["attempts"])
        usage = sum((Usage.from_dict(call) for call in state["calls"].values()), Usage())
        result: State = {
            "attempts": state["attempts"],
            "route": state["route"],
            "solved": reason == "solved",
            "answer": answer_of(best),
            "best": best,
            "regime": state.get("regime") if state["route"] else None,
            "stop_reason": reason,
            "error": state.get("error"),
            "usage": {"attempts": len(state["attempts"]), **usage.as_dict()},
        }
        self.recorder.finished(state["recovery_id"], _with(state, **result), usage)
        self._workspace.drop(state["recovery_id"])
        runtime.stream_writer(
            {
                "type": "finished",
                "solved": result["solved"],
                "answer": result["answer"],
                "regime": result["regime"],
                "stop_reason": reason,
                "usage": result["usage"],
            }
        )
        if state.get("messages"):
            result["messages"] = [answer_message(result, state["recovery_id"], said)]
        return cast(Changes, result)


def _with(state: State, **changes: Any) -> State:
    return cast(State, {**state, **changes})
