"""The five nodes of the recovery graph: each reads the state and returns what changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast
from uuid import uuid4

from langchain_core.messages import AIMessage
from langgraph.errors import GraphBubbleUp
from langgraph.runtime import Runtime

from recov_graph.attempts import (
    SAMPLE,
    answer_of,
    attempt_event,
    best_attempt,
    features_of_samples,
    new_attempt,
    shares,
    value_of,
)
from recov_graph.budget import Budget, BudgetExhausted, MeteredModel
from recov_graph.errors import InvalidInputError, ModelError
from recov_graph.evidence import evidence_of
from recov_graph.intervening import intervene
from recov_graph.interventions.base import Failure, Intervention
from recov_graph.measuring import Measuring
from recov_graph.models.base import Capability, Model
from recov_graph.problem import Problem
from recov_graph.recorder import Recorder
from recov_graph.rollout import Usage
from recov_graph.routing.decision import Evidence, Router, wants_features
from recov_graph.seeds import call_seed
from recov_graph.signals import checked_temperature
from recov_graph.state import (
    DecisionData,
    RecoveryContext,
    RecoveryState,
    StopReason,
    VerdictData,
    given_problem,
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
        router: Router,
        interventions: Mapping[str, Intervention],
        budget: Budget,
        recorder: Recorder,
        samples: int,
        temperature: float,
        max_new_tokens: int,
        seed: int | None,
        open_problems: int,
    ) -> None:
        self.model = model
        self.verifier = verifier
        self.router = router
        self.interventions = interventions
        self.budget = budget
        self.recorder = recorder
        self.samples = samples
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.seed = seed
        self._workspace = Workspace(open_problems)
        self._measuring = Measuring(model, self._workspace, recorder)

    def generate(self, state: State, runtime: Runtime[RecoveryContext]) -> Changes:
        """Sample the first rollouts."""
        problem = given_problem(state)
        context = self._context(runtime)
        recovery_id = uuid4().hex
        started: Changes = {
            "problem": None,  # the next problem of this thread may come as messages
            "current": problem.model_dump(),
            "recovery_id": recovery_id,
            "attempts": [],
            "route": [],
            "calls": {},
            "features": None,
            "stop_reason": None,
            "error": None,
        }
        self.recorder.started(recovery_id, problem)
        meter = self._meter(cast(State, started), context)
        n = min(self.samples, meter.budget.max_attempts)
        seed = call_seed(context.seed, problem.id, 0)
        try:
            rollouts = meter.sample(
                problem.prompt,
                n=n,
                temperature=self._temperature(context),
                max_tokens=self.max_new_tokens,
                seed=seed,
            ).rollouts
            if not rollouts:
                raise ModelError(f"model {self.model.name!r} returned no rollouts, asked for {n}")
        except GraphBubbleUp:
            raise
        except Exception as error:
            return self._failed_call(cast(State, started), meter, error, runtime)
        arrays = self._workspace.of(recovery_id)
        attempts = [
            new_attempt(
                recovery_id,
                position,
                SAMPLE,
                rollout,
                temperature=self._temperature(context),
                seed=seed,
                spent=spent,
            )
            for position, (rollout, spent) in enumerate(
                zip(rollouts, shares(meter.spent.tokens, len(rollouts)), strict=True)
            )
        ]
        arrays.rollouts = {
            attempt["id"]: rollout for attempt, rollout in zip(attempts, rollouts, strict=True)
        }
        self.recorder.attempted(recovery_id, attempts, meter.calls)
        return {**started, "attempts": attempts, "calls": meter.calls}

    def verify(self, state: State, runtime: Runtime[RecoveryContext]) -> Changes:
        """Judge the rollouts that have no verdict yet."""
        if state.get("stop_reason"):
            return {"stop_reason": state["stop_reason"]}
        problem = Problem.model_validate(state["current"])
        attempts = []
        judged = []
        for attempt in state["attempts"]:
            if attempt["verdict"] is None:
                verdict = judge(self.verifier, problem, attempt["text"])
                attempt = {**attempt, "verdict": cast(VerdictData, verdict.as_dict())}
                judged.append(attempt)
                runtime.stream_writer(attempt_event(attempt))
            attempts.append(attempt)
        decision = state["route"][-1] if state["route"] else None
        self.recorder.judged(judged, decision)
        changes: Changes = {"attempts": attempts}
        values = [value_of(attempt) for attempt in judged]
        if "passed" in values:
            return self._finish(_with(state, **changes), "solved", runtime)
        if "failed" not in values:
            last = judged[-1]["verdict"]
            error = last["explanation"] if last else None
            ended = _with(state, **changes, error=error)
            return self._finish(ended, "verifier_error", runtime)
        return changes

    def featurize(self, state: State, runtime: Runtime[RecoveryContext]) -> Changes:
        """Measure the failed samples where the router goes by features, once a problem.

        Of a black-box model, whose samples cannot be measured, what they tell by themselves.
        """
        if Capability.SCORE not in self.model.capabilities:
            return {"features": state["features"] or self._told(state, runtime)}
        context = self._context(runtime)
        meter = self._meter(state, context)
        attempts_left = meter.budget.max_attempts - len(state["attempts"])
        if state["route"] or attempts_left <= 0 or self._measuring.expected_cost(state) is None:
            return {"features": state["features"]}
        if not wants_features(self.router, self._evidence(state, context, meter)):
            return {"features": None}
        try:
            changes = self._measured(state, context, meter, runtime)
        except GraphBubbleUp:
            raise
        except Exception as error:
            return self._failed_call(state, meter, error, runtime)
        return {**changes, "calls": {**state["calls"], **meter.calls}}

    def classify(self, state: State, runtime: Runtime[RecoveryContext]) -> Changes:
        """Ask the router for the next operator, or stop."""
        if state.get("stop_reason"):
            return {"stop_reason": state["stop_reason"]}
        meter = self._meter(state, self._context(runtime))
        reached = meter.budget.reached(meter.spent)
        evidence = self._evidence(state, self._context(runtime), meter)
        affordable = any(cost <= evidence.tokens_left for cost in evidence.costs.values())
        if reached or evidence.attempts_left <= 0 or (evidence.costs and not affordable):
            return self._finish(state, "budget_exhausted", runtime)
        if not evidence.costs:  # nothing that was chosen from can help such a failure
            return self._finish(state, "out_of_reach", runtime)
        decided = self.router.decide(evidence)
        if decided.operator is not None and decided.operator not in evidence.costs:
            raise InvalidInputError(
                f"router {self.router.name!r} chose {decided.operator!r}; "
                f"possible here are {', '.join(evidence.costs)}, or None to stop"
            )
        step = len(state["route"])
        decision = cast(
            DecisionData,
            {
                "id": f"{state['recovery_id']}/decision{step}",
                "step": step,
                **decided.as_dict(),
                "policy": self.router.name,
                "policy_hash": self.router.content_hash,
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
            return self._finish(_with(state, **changes), "out_of_reach", runtime)
        return changes

    def intervene(self, state: State, runtime: Runtime[RecoveryContext]) -> Changes:
        """Make the attempt that was decided on."""
        context = self._context(runtime)
        meter = self._meter(state, context)
        position = len(state["attempts"])
        problem = Problem.model_validate(state["current"])
        changes: Changes = {}
        try:
            if self._repairs(state["route"][-1]["operator"]) and state["features"] is None:
                changes = self._measured(state, context, meter, runtime)
            failure = Failure(
                problem=problem,
                temperature=self._temperature(context),
                max_tokens=self.max_new_tokens,
                seed=call_seed(context.seed, problem.id, position),
                traces=self._measuring.traces(_with(state, **changes)),
                focus=len(state["route"]) - 1,
            )
            operator, made = intervene(
                state,
                failure,
                meter,
                interventions=self.interventions,
                measuring=self._measuring,
            )
        except GraphBubbleUp:
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
            spent=sum(call["tokens"] for call in meter.calls.values()),
            details=made.details,
        )
        self.recorder.attempted(state["recovery_id"], [attempt], meter.calls)
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
        context: RecoveryContext,
        meter: MeteredModel,
        runtime: Runtime[RecoveryContext],
    ) -> Changes:
        """Features of the failed samples, announced; None where they cannot be had."""
        if self._measuring.expected_cost(state) is None and not self._measuring.why_not(state):
            return {"features": state["features"]}
        measured = self._measuring.measure(state, meter, self._temperature(context))
        features = None if measured is None else measured._asdict()
        event = {"type": "features", "features": features}
        if features is None and (why := self._measuring.why_not(state)):
            event["why"] = why
        runtime.stream_writer(event)
        return {"features": features}

    def _repairs(self, operator: str | None) -> bool:
        """Whether an operator needs a measured trace."""
        return operator is not None and Capability.SCORE in self.interventions[operator].needs

    def _evidence(self, state: State, context: RecoveryContext, meter: MeteredModel) -> Evidence:
        return evidence_of(
            state,
            model=self.model,
            interventions=self.interventions,
            measuring=self._measuring,
            meter=meter,
            seed=context.seed,
        )

    def _context(self, runtime: Runtime[RecoveryContext]) -> RecoveryContext:
        """The invocation's context with the graph's own settings where it leaves them open."""
        # As a subgraph, the parent's context object arrives here: use it only where it is ours.
        given = runtime.context if isinstance(runtime.context, RecoveryContext) else None
        context = given or RecoveryContext()
        if context.seed is None:
            context = replace(context, seed=self.seed)
        return context

    def _temperature(self, context: RecoveryContext) -> float:
        given = context.temperature
        return self.temperature if given is None else checked_temperature(given)

    def _meter(self, state: State, context: RecoveryContext) -> MeteredModel:
        limits = ("max_attempts", "max_tokens", "max_seconds")
        changed = {name: getattr(context, name) for name in limits}
        budget = replace(self.budget, **{k: v for k, v in changed.items() if v is not None})
        return MeteredModel(self.model, budget, state["recovery_id"], state["calls"])

    def _failed_call(
        self,
        state: State,
        meter: MeteredModel,
        error: Exception,
        runtime: Runtime[RecoveryContext],
    ) -> Changes:
        """End the problem after a model call that failed or that the budget refused."""
        self.recorder.attempted(state["recovery_id"], [], meter.calls)
        calls = {**state["calls"], **meter.calls}
        reason: StopReason = "model_error"
        message: str | None = f"{type(error).__name__}: {error}"
        if isinstance(error, BudgetExhausted):
            reason, message = "budget_exhausted", None if state["attempts"] else str(error)
        changes: Changes = {"calls": calls, "error": message}
        ended = _with(state, **changes)
        return {**ended, **self._finish(ended, reason, runtime)}

    def _finish(
        self, state: State, reason: StopReason, runtime: Runtime[RecoveryContext]
    ) -> Changes:
        """The output's fields, stored and announced."""
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
        self.recorder.finished(state["recovery_id"], result, usage)
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
            text = answer_of(best) or ""
            result["messages"] = [AIMessage(text, id=f"{state['recovery_id']}/answer")]
        return cast(Changes, result)


def _with(state: State, **changes: Any) -> State:
    return cast(State, {**state, **changes})
