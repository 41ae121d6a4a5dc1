"""Models: what the loop needs of one, the pair that ships, and any OpenAI-compatible server."""

from __future__ import annotations

import sys
from typing import Any

from recov_graph.errors import InvalidInputError
from recov_graph.models.base import Capability, Generation, Model, Scores, Session

__all__ = ["Capability", "Generation", "Model", "OpenAIModel", "Scores", "Session", "as_model"]


def as_model(value: Any, **servers: Any) -> Model:
    """A model from a model, a chat model of langchain-openai, or a name.

    Args:
        value: "embedded" for the pair that ships, "openai:NAME", a `ChatOpenAI`, another chat
            model of LangChain (a black box), or a `Model`.
        servers: as for `OpenAIModel`, with "openai:NAME" or a `ChatOpenAI`; those that are None
            are left out.

    Raises:
        InvalidInputError: none of these, or options that do not apply.
    """
    given = {name: option for name, option in servers.items() if option is not None}
    if (isinstance(value, str) and value.startswith("openai:")) or _is_chat_model(value):
        from recov_graph.models.openai import OpenAIModel

        return OpenAIModel(value, **given)
    if given:
        raise InvalidInputError(
            f"model is {value!r} and {', '.join(given)} given; only a model behind a server has "
            "these: write 'openai:NAME'"
        )
    if _is_behind_a_server(value):
        return value  # type: ignore[no-any-return]
    if _is_chat_model(value, "langchain_core.language_models.chat_models", "BaseChatModel"):
        from recov_graph.models.chat import ChatModel

        return ChatModel(value)
    if value == "embedded":
        from recov_graph.models.embedded import EmbeddedPair

        return EmbeddedPair()
    if isinstance(value, Model) and not isinstance(value, type):
        return value
    raise InvalidInputError(
        f"model is {value!r}; it must be 'embedded', 'openai:NAME', a chat model of LangChain, "
        "or an object with name, capabilities, sample and the other members of "
        "recov_graph.models.Model"
    )


def _is_behind_a_server(value: Any) -> bool:
    """Whether it is an `OpenAIModel`: to look at its members would ask the server for some."""
    module = sys.modules.get("recov_graph.models.openai.model")
    return module is not None and isinstance(value, module.OpenAIModel)


def _is_chat_model(
    value: Any, home: str = "langchain_openai.chat_models.base", kind: str = "BaseChatOpenAI"
) -> bool:
    """Whether it is a chat model of that kind, without importing that for everything else."""
    module = sys.modules.get(home)
    chat = getattr(value, "bound", value)  # what `bind` and `bind_tools` wrap
    return module is not None and isinstance(chat, getattr(module, kind))


def __getattr__(name: str) -> Any:
    if name == "OpenAIModel":  # imported when asked for: it takes a second
        from recov_graph.models.openai import OpenAIModel

        return OpenAIModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
