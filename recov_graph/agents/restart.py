"""restart: an agent begins again from the question, its tools included."""

from __future__ import annotations

from recov_graph.interventions import Retry


class Restart(Retry):
    """Let the agent begin again: what it did since the question is forgotten, tools called anew.

    Other interventions keep the tool calls that were made, and their results. One of your own
    begins again as well where it has ``from_start = True``.
    """

    name = "restart"
    from_start = True
