"""Any OpenAI-compatible model, from a bare chat API to a vLLM server."""

from __future__ import annotations

from recov_graph.models.openai.access import Access, probe
from recov_graph.models.openai.cache import AccessCache
from recov_graph.models.openai.model import OpenAIModel

__all__ = ["Access", "AccessCache", "OpenAIModel", "probe"]
