"""Where traces go when nobody says: in a checkout beside the code, else in the user's data."""

from __future__ import annotations

import os
import re
from pathlib import Path

ENVIRONMENT = "RECOV_GRAPH_DB"
SERVER = re.compile(r"postgres(ql)?://", re.IGNORECASE)
Address = Path | str  # a file, or the address of a PostgreSQL database


def is_server(address: Address) -> bool:
    """Whether it is the address of a database on a server, and not a file."""
    return isinstance(address, str) and SERVER.match(address) is not None


def shown(address: Address) -> str:
    """The address without a password."""
    text = str(address)
    if not is_server(text):
        return text
    text = re.sub(r"(://[^:/@]*):[^/]*@", r"\1:***@", text)
    return re.sub(r"(?i)(password=)[^&]*", r"\1***", text)


def default_path() -> Address:
    """`RECOV_GRAPH_DB`, else ``storage/traces.db`` of a checkout, else the user's data folder."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        return named if is_server(named) else Path(named)
    return default_folder() / "traces.db"


def default_folder() -> Path:
    """The folder of the file that `RECOV_GRAPH_DB` names, else that of the default store."""
    named = os.environ.get(ENVIRONMENT)
    if named and not is_server(named):
        return Path(named).parent
    storage = Path(__file__).parents[2] / "storage"
    if (storage / "README.md").is_file():
        return storage
    from platformdirs import user_data_path

    return user_data_path("recov-graph", appauthor=False)
