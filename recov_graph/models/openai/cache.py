"""What was found out about servers, remembered for a while in small files."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from recov_graph.models.openai.access import Access, probe
from recov_graph.models.openai.endpoint import Endpoint, Work

FRESH_SECONDS = 24 * 3600.0


def found_out(
    endpoint: Endpoint, cache: AccessCache, *, compared: bool
) -> Work[tuple[Access, int]]:
    """What a server offers, as it was found out before or is now; and the calls that cost."""
    known = cache.get(endpoint, compared)
    if known is not None:
        return known, 0
    access, calls = yield from probe(endpoint, compared=compared)
    cache.put(endpoint, access, compared)
    return access, calls


class AccessCache:
    """What was found out, one small JSON file for each address and model.

    Args:
        folder: by default `RECOV_GRAPH_CACHE`, else the user's cache folder.
        seconds: after which a server is asked again.
    """

    def __init__(self, folder: Path | None = None, *, seconds: float = FRESH_SECONDS) -> None:
        given = folder or os.environ.get("RECOV_GRAPH_CACHE")
        if given is None:
            import platformdirs

            given = Path(platformdirs.user_cache_dir("recov-graph"))
        self.folder, self.seconds = Path(given), seconds

    def get(self, endpoint: Endpoint, compared: bool = True) -> Access | None:
        """What is known of an endpoint, unless it is too old or unreadable."""
        path = self.path(endpoint, compared)
        try:
            data = json.loads(path.read_text("utf-8"))
            known = [data["base_url"], data["model"], data["bound"]]
            if known == self._key(endpoint) and 0 <= time.time() - data["time"] < self.seconds:
                return Access.from_data(data["access"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return None

    def put(self, endpoint: Endpoint, access: Access, compared: bool = True) -> None:
        """Keep it; a folder that cannot be written only costs asking again."""
        base_url, model, bound = self._key(endpoint)
        data = {"base_url": base_url, "model": model, "bound": bound, "time": time.time()}
        path = self.path(endpoint, compared)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps({**data, "access": access.as_data()}), "utf-8")
            part.replace(path)
        except OSError:
            pass

    def path(self, endpoint: Endpoint, compared: bool = True) -> Path:
        """The file of an endpoint."""
        text = json.dumps([*self._key(endpoint), *([] if compared else ["alone"])])
        return self.folder / f"access-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"

    def _key(self, endpoint: Endpoint) -> list[Any]:
        return [endpoint.address, endpoint.model, sorted(endpoint.bound)]
