"""Arrays of the problems under way, too bulky for the graph's state, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from recov_graph.budget import Made
from recov_graph.recent import Recent
from recov_graph.rollout import Rollout
from recov_graph.trace import Trace

KEPT_PROBLEMS = 256


@dataclass(slots=True)
class Arrays:
    """First rollouts, measured traces and the calls that measured them, of one problem by id.

    `rollouts` are None where this process has not drawn them. `unscorable` says why they cannot be
    scored, once that has turned out. `made` are the calls, by id, that a node had made when it was
    interrupted.
    """

    rollouts: dict[str, Rollout] | None = None
    traces: dict[str, Trace] = field(default_factory=dict)
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    unscorable: str | None = None
    made: dict[str, Made] = field(default_factory=dict)


class Workspace:
    """The arrays of the problems taken up last; an older one's may be gone when asked for."""

    def __init__(self, capacity: int = KEPT_PROBLEMS) -> None:
        self._problems: Recent[str, Arrays] = Recent(capacity)

    def of(self, recovery_id: str) -> Arrays:
        """The problem's arrays, empty where there are none."""
        return self._problems.of(recovery_id, Arrays)

    def drop(self, recovery_id: str) -> None:
        """Forget a problem that has ended."""
        self._problems.pop(recovery_id)
