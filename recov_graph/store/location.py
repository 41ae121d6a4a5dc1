"""Where traces go when nobody says: in a checkout beside the code, else in the user's data."""

from __future__ import annotations

import os
from pathlib import Path

ENVIRONMENT = "RECOV_GRAPH_DB"


def default_path() -> Path:
    """`RECOV_GRAPH_DB`, else ``storage/traces.db`` of a checkout, else the user's data folder."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        return Path(named)
    storage = Path(__file__).parents[2] / "storage"
    if (storage / "README.md").is_file():
        return storage / "traces.db"
    from platformdirs import user_data_path

    return user_data_path("recov-graph", appauthor=False) / "traces.db"
