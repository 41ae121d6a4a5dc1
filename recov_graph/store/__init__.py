"""The trace store: every rollout, verdict, decision and intervention, in one SQLite file."""

from recov_graph.store.location import default_path
from recov_graph.store.traces import TraceStore

__all__ = ["TraceStore", "default_path"]
