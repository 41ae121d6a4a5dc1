"""The SQL of an empty trace store: ``python -m recov_graph.store.schema > storage/schema.sql``."""

from __future__ import annotations

from recov_graph.store.traces import TraceStore

if __name__ == "__main__":
    with TraceStore(":memory:") as store:
        print(store.schema())
