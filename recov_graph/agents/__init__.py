"""For agents of LangChain: recovery of a final answer that fails its verifier.

    agent = create_agent(model, tools, middleware=[RecoveryMiddleware(verifier)])

Needs the extra "agents": ``pip install "recov-graph[agents]"``.
"""

from __future__ import annotations

from recov_graph.errors import MissingExtraError

try:
    import langchain.agents.middleware  # noqa: F401
except ImportError as error:
    raise MissingExtraError(
        f"recov_graph.agents needs langchain ({error}); install it with "
        "`pip install 'recov-graph[agents]'`"
    ) from error

from recov_graph.agents.middleware import RecoveryMiddleware
from recov_graph.agents.recovering import RecoveryAgentState
from recov_graph.agents.restart import Restart

__all__ = ["RecoveryAgentState", "RecoveryMiddleware", "Restart"]
