"""Route failed LLM attempts to the intervention that can rescue them, or stop and save the money.

Names are imported on first use, so that ``import recov_graph`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recov_graph.version import __version__

if TYPE_CHECKING:
    from recov_graph.agents import RecoveryMiddleware
    from recov_graph.budget import Budget
    from recov_graph.errors import RecovGraphError
    from recov_graph.features import problem_features, trace_features
    from recov_graph.graph import build_recovery_graph, create_recovery_graph
    from recov_graph.problem import Problem
    from recov_graph.rollout import TopK
    from recov_graph.signals import token_signals
    from recov_graph.store import TraceStore
    from recov_graph.wrapping import with_recovery

__all__ = [
    "Budget",
    "Problem",
    "RecovGraphError",
    "RecoveryMiddleware",
    "TopK",
    "TraceStore",
    "__version__",
    "build_recovery_graph",
    "create_recovery_graph",
    "problem_features",
    "token_signals",
    "trace_features",
    "with_recovery",
]

_HOMES = {
    "Budget": "budget",
    "Problem": "problem",
    "RecovGraphError": "errors",
    "RecoveryMiddleware": "agents",
    "TopK": "rollout",
    "TraceStore": "store",
    "build_recovery_graph": "graph",
    "create_recovery_graph": "graph",
    "problem_features": "features",
    "token_signals": "signals",
    "trace_features": "features",
    "with_recovery": "wrapping",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
