"""Measuring a problem's failed samples, when their features or a trace to repair are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recov_graph.attempts import failed_samples
from recov_graph.budget import BudgetExhausted, MeteredModel
from recov_graph.errors import NotScorableError
from recov_graph.features import ProblemFeatures, problem_features
from recov_graph.models.base import Capability, Model, overhead_of
from recov_graph.recorder import Recorder
from recov_graph.rollout import Rollout
from recov_graph.scoring import distinct_rollouts, scored_rollouts
from recov_graph.state import RecoveryState
from recov_graph.trace import Trace, measure
from recov_graph.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Measuring:
    """What is, or can be, measured on the failed samples of a problem.

    Args:
        model: scores the samples.
        workspace: where the arrays of problems under way are.
        recorder: keeps what was measured, and gives it back in another process.
    """

    model: Model
    workspace: Workspace
    recorder: Recorder

    def traces(self, state: RecoveryState) -> Sequence[Trace]:
        """The measured samples, from memory or, in another process, from the store."""
        arrays = self.workspace.of(state["recovery_id"])
        # Those of a model that cannot score came without traces.
        measured = state["features"] is not None and Capability.SCORE in self.model.capabilities
        if measured and not arrays.traces:
            stored = {a["id"]: self.recorder.trace(a["id"]) for a in failed_samples(state)}
            arrays.traces = {name: trace for name, trace in stored.items() if trace is not None}
        return list(arrays.traces.values())

    def why_not(self, state: RecoveryState) -> str | None:
        """Why nothing of the problem can be scored, where that has turned out."""
        return self.workspace.of(state["recovery_id"]).unscorable

    def give_up(self, state: RecoveryState, error: NotScorableError) -> None:
        """Note that nothing of the problem can be scored."""
        self.workspace.of(state["recovery_id"]).unscorable = str(error)

    def expected_cost(self, state: RecoveryState) -> int | None:
        """Tokens that measuring is expected to cost; None where nothing can be measured."""
        rollouts = self._unmeasured(state)
        if Capability.SCORE not in self.model.capabilities or not rollouts:
            return None
        prompt = self.model.prompt_length(state["current"]["prompt"])
        prompt += overhead_of(self.model).per_scored
        cost = 0
        for rollout in distinct_rollouts(rollouts).values():
            passes = 2 if rollout.specialist is None else 1
            cost += passes * (prompt + len(rollout))
        return cost

    def measure(
        self, state: RecoveryState, meter: MeteredModel, temperature: float
    ) -> ProblemFeatures | None:
        """Score the failed samples and measure them; None where the budget does not cover it."""
        arrays = self.workspace.of(state["recovery_id"])
        if arrays.traces or arrays.unscorable:
            # A node that was interrupted after it had measured: what it spent is spent.
            meter.restore(
                {name: call for name, call in arrays.calls.items() if name not in state["calls"]}
            )
        if arrays.unscorable:
            return None
        if not arrays.traces:
            try:
                scored = scored_rollouts(meter, state["current"]["prompt"], self._unmeasured(state))
            except (BudgetExhausted, NotScorableError) as error:
                if isinstance(error, NotScorableError):
                    arrays.unscorable = str(error)  # and nothing is spent on it again
                arrays.calls = dict(meter.calls)
                self.recorder.measured(state["recovery_id"], {}, meter.calls)
                return None  # the router goes without features
            arrays.traces = {name: measure(one, temperature) for name, one in scored.items()}
            arrays.calls = dict(meter.calls)
            self.recorder.measured(state["recovery_id"], arrays.traces, arrays.calls)
        return problem_features([trace.features for trace in arrays.traces.values()])

    def _unmeasured(self, state: RecoveryState) -> dict[str, Rollout]:
        arrays = self.workspace.of(state["recovery_id"])
        if arrays.unscorable:
            return {}
        if arrays.rollouts is None:  # another process took the problem over
            arrays.rollouts = self.recorder.rollouts(state["recovery_id"])
        return {
            attempt["id"]: arrays.rollouts[attempt["id"]]
            for attempt in failed_samples(state)
            # Another process may not have kept them; of empty ones there is nothing to measure.
            if attempt["id"] in arrays.rollouts and len(arrays.rollouts[attempt["id"]].token_ids)
        }
