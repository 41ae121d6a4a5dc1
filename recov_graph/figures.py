"""The figures that sum up what a graph made of many problems, counted as they end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recov_graph.attempts import SAMPLE
from recov_graph.baseline import RetryAlone
from recov_graph.store.rules import AGAIN

UNROUTED = "not routed"  # failures that the budget left no attempt for
Output = Mapping[str, Any]  # of the graph: of its attempts only operator, spent and verdict


def first_failed(output: Output) -> bool:
    """Whether no first sample passed and at least one could be judged."""
    first = [a["verdict"] for a in output["attempts"] if a["operator"] == SAMPLE]
    values = {verdict["value"] for verdict in first if verdict is not None}
    return "failed" in values and "passed" not in values


def recovery_tokens(output: Output) -> int:
    """Tokens spent on one problem after its first samples: scoring, ancestor and attempts."""
    first = sum(a["spent"] for a in output["attempts"] if a["operator"] == SAMPLE)
    return int(output["usage"]["tokens"] - first)


def regime_of(output: Output) -> str:
    """The regime predicted first: the last one knows how the problem ended."""
    return output["route"][0]["regime"] if output["route"] else UNROUTED


@dataclass(slots=True)
class _Failures:
    """Failed problems of one regime."""

    problems: int = 0
    rescued: int = 0
    tokens: int = 0
    by_intervention: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, output: Output) -> None:
        self.problems += 1
        self.rescued += output["solved"]
        self.tokens += recovery_tokens(output)
        for attempt in output["attempts"]:
            if attempt["operator"] != SAMPLE:
                row = self.by_intervention.setdefault(
                    attempt["operator"], Counter(attempts=0, rescues=0, tokens=0)
                )
                verdict = attempt["verdict"]
                row["attempts"] += 1
                row["rescues"] += verdict is not None and verdict["value"] == "passed"
                row["tokens"] += attempt["spent"]


class Figures:
    """Sums over problems; what is added is not kept, so that there may be any number."""

    def __init__(self) -> None:
        self.problems = 0
        self.errors = 0  # problems that ended early, whether or not their samples had failed
        self._tokens = 0
        self._solved_first = 0
        self._reasons: Counter[str] = Counter()
        self._regimes: dict[str, _Failures] = {}

    def add(self, output: Output) -> None:
        """A problem has ended so."""
        self.problems += 1
        self._tokens += int(output["usage"]["tokens"])
        self.errors += output["stop_reason"] in AGAIN
        if first_failed(output):
            self._reasons[output["stop_reason"]] += 1
            self._regimes.setdefault(regime_of(output), _Failures()).add(output)
        else:
            self._solved_first += bool(output["solved"] and not output["route"])

    @property
    def failed(self) -> int:
        """Problems whose first samples failed."""
        return sum(part.problems for part in self._regimes.values())

    @property
    def solved(self) -> int:
        """Problems solved, by whatever."""
        return self._solved_first + self.rescued

    @property
    def rescued(self) -> int:
        """Failed problems that were solved after all."""
        return sum(part.rescued for part in self._regimes.values())

    @property
    def stopped(self) -> int:
        """Failed problems given up because the chance of a rescue was too small."""
        return self._reasons["out_of_reach"]

    @property
    def recovery_tokens(self) -> int:
        """Tokens spent on the failed problems after their first samples."""
        return sum(part.tokens for part in self._regimes.values())

    def as_data(self) -> dict[str, Any]:
        """The figures as plain data.

        Problems are solved_first, failed or unjudged (no first sample could be drawn and judged);
        the failed are rescued, stopped, budget_exhausted or errors.
        """
        parts = dict(sorted(self._regimes.items()))
        everything: dict[str, Counter[str]] = {}
        for part in parts.values():
            for operator, counts in part.by_intervention.items():
                everything.setdefault(operator, Counter()).update(counts)
        return {
            "problems": self.problems,
            "solved_first": self._solved_first,
            "failed": self.failed,
            "rescued": self.rescued,
            "stopped": self.stopped,
            "budget_exhausted": self._reasons["budget_exhausted"],
            "errors": sum(self._reasons[end] for end in AGAIN),
            "unjudged": self.problems - self._solved_first - self.failed,
            "by_intervention": _by_attempts(everything),
            "by_regime": {
                regime: {
                    "problems": part.problems,
                    "rescued": part.rescued,
                    "tokens": part.tokens,
                    "by_intervention": _by_attempts(part.by_intervention),
                }
                for regime, part in parts.items()
            },
            "tokens": self._tokens,
            "recovery_tokens": self.recovery_tokens,
        }


def retry_figures(outcomes: Sequence[RetryAlone]) -> dict[str, int]:
    """What retry alone did, summed."""
    return {
        "rescued": sum(outcome.rescued for outcome in outcomes),
        "attempts": sum(outcome.attempts for outcome in outcomes),
        "tokens": sum(outcome.tokens for outcome in outcomes),
    }


def _by_attempts(table: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]]:
    """The operators, the one most often tried first."""
    ordered = sorted(table.items(), key=lambda item: (-item[1]["attempts"], item[0]))
    return {operator: dict(counts) for operator, counts in ordered}
